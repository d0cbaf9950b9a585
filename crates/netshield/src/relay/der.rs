//! Strict reader of DER (X.690 section 10): definite, minimal lengths, single-byte tags, no trailing bytes.

/// A tag, a length or a value is not as DER says, or the structure is not the expected one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate is not well-formed DER")]
pub struct DerError;

/// Bytes not read yet.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

pub const BOOLEAN: u8 = 0x01;
pub const OCTET_STRING: u8 = 0x04;
pub const OBJECT_IDENTIFIER: u8 = 0x06;
pub const UTC_TIME: u8 = 0x17;
pub const GENERALIZED_TIME: u8 = 0x18;
pub const SEQUENCE: u8 = 0x30;

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// True when nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Succeeds only when nothing is left.
    pub fn end(&self) -> Result<(), DerError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DerError)
        }
    }

    /// The next value whatever its tag.
    pub fn any(&mut self) -> Result<(u8, &'a [u8]), DerError> {
        let (&tag, rest) = self.0.split_first().ok_or(DerError)?;
        let (&first, rest) = rest.split_first().ok_or(DerError)?;
        if tag & 0x1F == 0x1F {
            return Err(DerError);
        }
        let (length, rest) = match first {
            0..=0x7F => (usize::from(first), rest),
            0x81 => match rest.split_first() {
                Some((&one, rest)) if one >= 0x80 => (usize::from(one), rest),
                _ => return Err(DerError),
            },
            0x82 => match rest.split_first_chunk::<2>() {
                Some((two, rest)) if two[0] != 0 => (usize::from(u16::from_be_bytes(*two)), rest),
                _ => return Err(DerError),
            },
            _ => return Err(DerError),
        };
        let (value, rest) = rest.split_at_checked(length).ok_or(DerError)?;
        self.0 = rest;
        Ok((tag, value))
    }

    /// The next value, which must have this tag.
    pub fn value(&mut self, tag: u8) -> Result<&'a [u8], DerError> {
        match self.any()? {
            (found, value) if found == tag => Ok(value),
            _ => Err(DerError),
        }
    }

    /// The inside of the next value, which must have this tag.
    pub fn inside(&mut self, tag: u8) -> Result<Reader<'a>, DerError> {
        self.value(tag).map(Reader)
    }

    /// The next value if it has this tag.
    pub fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, DerError> {
        match self.0.first() {
            Some(&found) if found == tag => self.value(tag).map(Some),
            _ => Ok(None),
        }
    }
}

/// Seconds since the epoch of an X.509 `Time`: `UTCTime` or `GeneralizedTime` in the forms of RFC 5280 section 4.1.2.5.
pub fn time(tag: u8, text: &[u8]) -> Result<u64, DerError> {
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits(text, 2)?;
            (if year >= 50 { 1900 + year } else { 2000 + year }, rest)
        }
        GENERALIZED_TIME => digits(text, 4)?,
        _ => return Err(DerError),
    };
    let (month, rest) = digits(rest, 2)?;
    let (day, rest) = digits(rest, 2)?;
    let (hour, rest) = digits(rest, 2)?;
    let (minute, rest) = digits(rest, 2)?;
    let (second, rest) = digits(rest, 2)?;
    let in_range = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day);
    if rest != b"Z" || !in_range || hour > 23 || minute > 59 || second > 59 {
        return Err(DerError);
    }
    Ok(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

fn digits(text: &[u8], count: usize) -> Result<(u64, &[u8]), DerError> {
    let (front, rest) = text.split_at_checked(count).ok_or(DerError)?;
    let mut number = 0;
    for digit in front {
        if !digit.is_ascii_digit() {
            return Err(DerError);
        }
        number = number * 10 + u64::from(digit - b'0');
    }
    Ok((number, rest))
}

/// Days from 1970-01-01 in the Gregorian calendar, counted in years that start in March.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let since_march = (month + 9) % 12;
    let day_of_year = (153 * since_march + 2) / 5 + day - 1;
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_since_the_epoch() {
        assert_eq!(time(UTC_TIME, b"700101000000Z"), Ok(0));
        assert_eq!(time(UTC_TIME, b"261122231500Z"), Ok(1_795_389_300));
        assert_eq!(
            time(GENERALIZED_TIME, b"20240229120000Z"),
            Ok(1_709_208_000)
        );
        assert_eq!(
            time(GENERALIZED_TIME, b"99991231235959Z"),
            Ok(253_402_300_799)
        );
        for bad in [
            &b"261322231500Z"[..],
            b"2611222315Z",
            b"261122231500+0100",
            b"26112223150\xffZ",
            b"",
        ] {
            assert_eq!(time(UTC_TIME, bad), Err(DerError));
        }
    }

    #[test]
    fn lengths_that_are_not_minimal_or_too_long_are_refused() {
        for bad in [
            &[0x04, 0x81, 0x01, 0][..],
            &[0x04, 0x82, 0, 1, 0],
            &[0x04, 0x80],
            &[0x04, 2, 0],
            &[0x1F, 1, 0],
            &[4],
        ] {
            assert_eq!(Reader::new(bad).any(), Err(DerError), "{bad:?}");
        }
        assert_eq!(Reader::new(&[0x04, 1, 9]).any(), Ok((4, &[9][..])));
    }
}
