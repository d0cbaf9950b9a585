//! Lists of names, page by page. A list is a hint: what it hides or invents shows when objects are authenticated; what
//! it costs is bounded here.

use std::time::Instant;

use rusty_s3::actions::ListObjectsV2;
use volume::StoreError;

use crate::client::Client;

/// Most names, and pages, of one directory.
const NAMES_MAX: usize = 1 << 20;
const PAGES_MAX: usize = 1 << 12;
/// A whole list may take as many times as long as another call.
const DEADLINES: u32 = 10;
/// Most elements inside each other: a list has three. The parser goes as deep as its input.
const DEPTH_MAX: usize = 16;

type Result<T> = std::result::Result<T, StoreError>;

impl Client {
    /// The names of objects and directories in a directory; the empty path is the volume's own.
    pub fn list(&self, dir: &str) -> Result<Vec<String>> {
        let mut above = self.key(dir);
        if !dir.is_empty() {
            above.push('/');
        }
        let what = self.what("list", dir);
        let failed = |problem: &str| StoreError::Io(format!("{what}: {problem}"));
        let (begin, within) = (Instant::now(), self.deadline() * DEADLINES);
        let mut names = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let left = within.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Err(failed("the list did not end in time"));
            }
            let left = left.min(self.deadline());
            let answer = self.list_page(&what, &above, token.as_deref(), left)?;
            let (found, next) =
                parse(&answer.body, &above).ok_or_else(|| failed("the answer is not a list"))?;
            names.extend(found);
            if names.len() > NAMES_MAX {
                return Err(failed(&format!("more than {NAMES_MAX} names")));
            }
            if next.is_none() {
                return Ok(names);
            }
            token = next;
        }
        Err(failed(&format!("more than {PAGES_MAX} pages")))
    }
}

/// The names directly below `above`, and the token of the next page.
fn parse(body: &[u8], above: &str) -> Option<(Vec<String>, Option<String>)> {
    let text = std::str::from_utf8(body)
        .ok()
        .filter(|text| is_flat(text))?;
    let page = ListObjectsV2::parse_response(text).ok()?;
    let keys = page.contents.iter().map(|one| one.key.as_str());
    let below = page.common_prefixes.iter().map(|one| one.prefix.as_str());
    let names = keys.chain(below).filter_map(|key| {
        let name = key.strip_prefix(above)?;
        let name = name.strip_suffix('/').unwrap_or(name);
        (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
    });
    Some((names.collect(), page.next_continuation_token))
}

/// Whether no element lies deeper than [`DEPTH_MAX`]. Comments and declarations, which no service sends, are refused:
/// so each `<` begins a tag, and each tag ends at the first `>` outside of quotes.
fn is_flat(text: &str) -> bool {
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some((_, tag)) = rest.split_once('<') {
        if tag.starts_with('!') {
            return false;
        }
        let mut quote = None;
        let end = tag.bytes().position(|byte| {
            match (quote, byte) {
                (None, b'"' | b'\'') => quote = Some(byte),
                (Some(open), _) if open == byte => quote = None,
                (None, b'>') => return true,
                _ => {}
            }
            false
        });
        let Some((inside, after)) = end.and_then(|end| tag.split_at_checked(end)) else {
            return false;
        };
        if inside.starts_with('/') {
            depth = depth.saturating_sub(1);
        } else if !inside.starts_with('?') && !inside.ends_with('/') {
            depth += 1;
        }
        if depth > DEPTH_MAX {
            return false;
        }
        rest = after;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{is_flat, parse};

    fn list(inside: &str) -> Vec<u8> {
        let head = r#"<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">"#;
        format!("{head}{inside}</ListBucketResult>").into_bytes()
    }

    #[test]
    fn names_of_a_page_are_those_directly_below_and_no_others() {
        let page = list(
            "<Contents><Key>p/metadata/a</Key></Contents><Contents><Key>other/b</Key></Contents>\
             <Contents><Key>p/metadata/deep/c</Key></Contents><Contents><Key>p/metadata/</Key></Contents>\
             <CommonPrefixes><Prefix>p/metadata/d/</Prefix></CommonPrefixes>\
             <IsTruncated>true</IsTruncated><NextContinuationToken>t&amp;1</NextContinuationToken>",
        );
        let (names, token) = parse(&page, "p/metadata/").expect("a list");
        assert_eq!(names, ["a", "d"]);
        assert_eq!(token.as_deref(), Some("t&1"));
    }

    #[test]
    fn page_when_nested_without_end_is_refused_instead_of_parsed() {
        for (open, close) in [("<a>", "</a>"), ("<a b='/>'>", ""), ("<?x?><a/ >", "")] {
            let many = open.repeat(300_000) + &close.repeat(300_000);
            assert_eq!(parse(&list(&many), ""), None);
        }
        assert_eq!(
            parse(&list(&"<![CDATA[</a>]]><a>".repeat(100_000)), ""),
            None
        );
        assert_eq!(parse(b"<ListBucketResult", ""), None);
    }

    #[test]
    fn page_when_wide_is_flat() {
        assert!(is_flat(&"<?pi?><a><b/><c d='>'>x</c></a>".repeat(10_000)));
    }
}
