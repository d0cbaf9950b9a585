//! DNS messages (RFC 1035 §4), as little as a responder for a handful of names needs. Pure.

use std::net::IpAddr;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
const TTL_S: u32 = 60;
const POINTER_TO_QUESTION: [u8; 2] = [0xc0, 0x0c]; // §4.1.4: the name at offset 12

const OK: u8 = 0;
const FORMAT_ERROR: u8 = 1;
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;

/// What to send back, and the name if the policy does not know it and the program meant to reach it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) message: Vec<u8>,
    pub(super) unknown: Option<String>,
}

/// The answer to one query; none for what is no query at all. `names` are lower case, without a final dot.
pub(super) fn answer(query: &[u8], names: &[(String, Vec<IpAddr>)]) -> Option<Answer> {
    let header: &[u8; HEADER] = query.first_chunk()?;
    let [id_high, id_low, flags, _, questions_high, questions_low, ..] = *header;
    if flags & 0x80 != 0 {
        return None; // a response
    }
    let reply = |code: u8, question: &[u8], records: &[Vec<u8>]| {
        let count = u16::try_from(records.len()).unwrap_or(0).to_be_bytes();
        let recursion = 0x80 | code; // RA: stub resolvers distrust a server without it
        let mut message = vec![id_high, id_low, 0x84 | (flags & 0x79), recursion]; // QR, AA; opcode and RD as asked
        message.extend([0, u8::from(!question.is_empty())]);
        message.extend(count);
        message.extend([0; 4]);
        message.extend(question);
        message.extend(records.concat());
        message
    };
    let known = |message| {
        Some(Answer {
            message,
            unknown: None,
        })
    };
    if flags >> 3 != 0 {
        return known(reply(NOT_IMPLEMENTED, &[], &[]));
    }
    let rest = query.get(HEADER..)?;
    let question = (questions_high == 0 && questions_low == 1).then(|| Question::parse(rest));
    let Some(Some(question)) = question else {
        return known(reply(FORMAT_ERROR, &[], &[]));
    };
    let found = names.iter().filter(|(name, _)| *name == question.name);
    let addresses: Vec<IpAddr> = found.flat_map(|(_, all)| all.iter().copied()).collect();
    if addresses.is_empty() || question.class != CLASS_IN {
        let forward = question.kind != TYPE_PTR;
        return Some(Answer {
            message: reply(NO_SUCH_NAME, question.raw, &[]),
            unknown: forward.then_some(question.name),
        });
    }
    let wanted = addresses.into_iter().filter(|address| match question.kind {
        TYPE_A => address.is_ipv4(),
        TYPE_AAAA => address.is_ipv6(),
        _ => false,
    });
    let records: Vec<Vec<u8>> = wanted
        .map(|address| record(question.kind, address))
        .collect();
    known(reply(OK, question.raw, &records))
}

fn record(kind: u16, address: IpAddr) -> Vec<u8> {
    let data = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut record = POINTER_TO_QUESTION.to_vec();
    record.extend(kind.to_be_bytes());
    record.extend(CLASS_IN.to_be_bytes());
    record.extend(TTL_S.to_be_bytes());
    record.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    record.extend(data);
    record
}

struct Question<'a> {
    raw: &'a [u8],
    name: String,
    kind: u16,
    class: u16,
}

impl<'a> Question<'a> {
    /// Labels of 1 to 63 bytes, at most 255 bytes in all, no compression; letters are lowered.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (mut at, mut labels) = (0_usize, Vec::new());
        loop {
            let length = usize::from(*bytes.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            if length > 63 || at + length > 254 {
                return None;
            }
            let label = bytes.get(at..at + length)?;
            let plain = label
                .iter()
                .all(|byte| byte.is_ascii_graphic() && *byte != b'.');
            labels.push(
                String::from_utf8(label.to_ascii_lowercase())
                    .ok()
                    .filter(|_| plain)?,
            );
            at += length;
        }
        let [kind_high, kind_low, class_high, class_low] = *bytes.get(at..)?.first_chunk()?;
        Some(Self {
            raw: bytes.get(..at + 4)?,
            name: labels.join("."),
            kind: u16::from_be_bytes([kind_high, kind_low]),
            class: u16::from_be_bytes([class_high, class_low]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1]; // RD, AD; one additional (EDNS)
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend([0, 0, 41, 4, 0xb0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    fn names() -> Vec<(String, Vec<IpAddr>)> {
        let both = vec!["100.64.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        vec![("worker-1".to_owned(), both)]
    }

    #[test]
    fn a_known_name_has_its_address_of_the_family_asked_for() {
        let v4 = answer(&query("Worker-1", TYPE_A), &names()).unwrap();
        assert_eq!(v4.message[..4], [0x12, 0x34, 0x85, 0x80]);
        assert_eq!(v4.message[4..12], [0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(v4.message[v4.message.len() - 6..], [0, 4, 100, 64, 0, 2]);
        assert_eq!(v4.unknown, None);
        let v6 = answer(&query("worker-1", TYPE_AAAA), &names()).unwrap();
        assert_eq!(v6.message[v6.message.len() - 2..], [0, 2]);
        let other = answer(&query("worker-1", 15), &names()).unwrap();
        assert_eq!((other.message[3] & 15, other.message[7]), (OK, 0));
    }

    #[test]
    fn an_unknown_name_is_told_and_reported() {
        let refused = answer(&query("evil.example", TYPE_A), &names()).unwrap();
        assert_eq!(refused.message[3] & 15, NO_SUCH_NAME);
        assert_eq!(refused.unknown.as_deref(), Some("evil.example"));
        let reverse = answer(&query("2.0.64.100.in-addr.arpa", TYPE_PTR), &names()).unwrap();
        assert_eq!(
            (reverse.message[3] & 15, reverse.unknown),
            (NO_SUCH_NAME, None)
        );
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let whole = query("worker-1", TYPE_A);
        for length in HEADER..HEADER + 13 {
            let cut = answer(&whole[..length], &names()).unwrap();
            assert_eq!(cut.message[3] & 15, FORMAT_ERROR, "{length}");
        }
        assert_eq!(answer(&whole[..5], &names()), None);
        let mut pointer = whole.clone();
        pointer[12] = 0xc0;
        assert_eq!(
            answer(&pointer, &names()).unwrap().message[3] & 15,
            FORMAT_ERROR
        );
        let mut response = whole.clone();
        response[2] |= 0x80;
        assert_eq!(answer(&response, &names()), None);
        let mut update = whole;
        update[2] |= 5 << 3;
        assert_eq!(
            answer(&update, &names()).unwrap().message[3] & 15,
            NOT_IMPLEMENTED
        );
    }
}
