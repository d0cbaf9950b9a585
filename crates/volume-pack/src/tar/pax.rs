//! Records of pax extended headers: `LENGTH KEY=VALUE\n`, LENGTH in decimal digits and of the whole record. Values are
//! bytes: one of an extended attribute may hold anything. POSIX.1-2024, pax, "pax Extended Header".

/// Key and value.
pub(super) type Record = (Vec<u8>, Vec<u8>);

/// Reads all records; `None` when any of them is not one.
pub(super) fn parse(data: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ')?;
        let length = usize::try_from(number(rest.get(..space)?)?).ok()?;
        let (newline, record) = rest.get(space + 1..length)?.split_last()?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        if *newline != b'\n' || equals == 0 {
            return None;
        }
        records.push((
            record.get(..equals)?.to_vec(),
            record.get(equals + 1..)?.to_vec(),
        ));
        rest = rest.get(length..)?;
    }
    Some(records)
}

/// Writes one record.
pub(super) fn push(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Decimal digits alone.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds since 1970 with a sign and a fraction if need be, in nanoseconds.
pub(super) fn time(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, text),
    };
    let point = digits.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = point.map_or((digits, &[][..]), |at| {
        (
            digits.get(..at).unwrap_or_default(),
            digits.get(at + 1..).unwrap_or_default(),
        )
    });
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut padded = [b'0'; 9];
    padded
        .iter_mut()
        .zip(fraction)
        .for_each(|(to, from)| *to = *from);
    let seconds = i64::try_from(number(whole)?).ok()?;
    let nanoseconds = i64::try_from(number(&padded)?).ok()?;
    let all = seconds
        .checked_mul(1_000_000_000)?
        .checked_add(nanoseconds)?;
    Some(if negative { -all } else { all })
}

/// The text that [`time`] reads.
pub(super) fn time_text(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let all = nanoseconds.unsigned_abs();
    let (seconds, fraction) = (all / 1_000_000_000, all % 1_000_000_000);
    format!("{sign}{seconds}.{fraction:09}")
}

#[cfg(test)]
mod tests {
    use super::{parse, push, time, time_text};

    #[test]
    fn records_when_written_and_read_are_the_same_with_newlines_and_equal_signs_in_values() {
        let mut out = Vec::new();
        let long = vec![b'x'; 987];
        let all: [(&[u8], &[u8]); 3] = [
            (b"SCHILY.xattr.user.a", b"1\n2=3\0"),
            (b"path", &long),
            (b"k", b""),
        ];
        for (key, value) in all {
            push(&mut out, key, value);
        }
        let read = parse(&out).expect("records");
        for ((key, value), expected) in read.iter().zip(all) {
            assert_eq!((key.as_slice(), value.as_slice()), expected);
        }
        assert_eq!(read.len(), 3);
    }

    #[test]
    fn records_when_a_length_lies_are_none() {
        for bad in [
            &b"9 a=1\n"[..],
            b"5 a=1\n",
            b"x a=1\n",
            b"6 a=12",
            b"0 ",
            b"6 =12\n",
            b"99999999999999999999999 a=1\n",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn times_when_written_and_read_keep_nanoseconds_before_and_after_1970() {
        for one in [
            0,
            1,
            -1,
            1_234_567_890_123_456_789,
            -987_654_321_000_000_001,
        ] {
            assert_eq!(time(time_text(one).as_bytes()), Some(one));
        }
        assert_eq!(time(b"12.5"), Some(12_500_000_000));
        assert_eq!(time(b"12."), Some(12_000_000_000));
        for bad in [&b""[..], b"-", b".5", b"1e3", b"99999999999999999999"] {
            assert_eq!(time(bad), None, "{bad:?}");
        }
    }
}
