//! Just enough DER writing to issue certificates, right ones and wrong ones.

/// One value with its tag and length.
pub fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=0x7F => out.push(length as u8),
        0x80..=0xFF => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(content);
    out
}

/// A SEQUENCE of values.
pub fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    value(0x30, &parts.concat())
}

/// An OBJECT IDENTIFIER out of its content bytes.
pub fn oid(content: &[u8]) -> Vec<u8> {
    value(0x06, content)
}

/// A `GeneralizedTime` of seconds since the epoch.
pub fn time(seconds: i64) -> Vec<u8> {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (mut year, mut day) = (1970, days);
    let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    while day >= 365 + i64::from(leap(year)) {
        day -= 365 + i64::from(leap(year));
        year += 1;
    }
    let lengths = [
        31,
        28 + i64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let clock = format!(
        "{:02}{:02}{hour:02}{minute:02}{second:02}Z",
        month + 1,
        day + 1
    );
    if year < 2050 {
        value(0x17, format!("{:02}{clock}", year % 100).as_bytes())
    } else {
        value(0x18, format!("{year}{clock}").as_bytes())
    }
}
