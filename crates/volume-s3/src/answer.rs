//! What a service answered, and why it did not. No text has an address with a signature in it.

use std::time::Duration;

use volume::StoreError;

/// Most bytes of an answer that is no content.
pub(crate) const TEXT_MAX: u64 = 4 << 20;

/// One answer.
pub(crate) struct Answer {
    pub status: u16,
    pub length: Option<u64>,
    pub sha256: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Worth another try: the service is overloaded or broken for now.
    pub fn is_passing(&self) -> bool {
        matches!(self.status, 408 | 429 | 500..=599)
    }

    /// The code in the body of a refusal, such as `NoSuchKey`.
    pub fn code(&self) -> &str {
        let text = std::str::from_utf8(&self.body).unwrap_or_default();
        let code = text
            .split_once("<Code>")
            .and_then(|(_, rest)| rest.split_once("</Code>"));
        let code = code.map_or("", |(code, _)| code);
        let plain = code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if plain { code } else { "" }
    }

    /// The error that this refusal stands for.
    pub fn refusal(&self, what: &str) -> StoreError {
        let code = self.code();
        match (self.status, code) {
            (404, "NoSuchBucket") => StoreError::Io(format!("{what}: there is no such bucket")),
            (404, _) => StoreError::NotFound,
            (401 | 403, _) => StoreError::Io(format!(
                "{what}: access denied ({} {code}): look at the access key, the region and the bucket's policy",
                self.status
            )),
            (301 | 302 | 307 | 308, _) => StoreError::Io(format!(
                "{what}: the service names another address ({} {code}), which is not followed: look at the \
                 endpoint and the region",
                self.status
            )),
            (status, "") => StoreError::Io(format!("{what}: status {status}")),
            (status, code) => StoreError::Io(format!("{what}: status {status} ({code})")),
        }
    }
}

/// Why there was no answer, and whether another try may have one.
pub(crate) fn failure(error: &ureq::Error) -> (String, bool) {
    match error {
        ureq::Error::Io(error) => (error.to_string(), true),
        ureq::Error::Timeout(_) => ("no answer in time".to_owned(), true),
        ureq::Error::HostNotFound => ("the host name was not found".to_owned(), true),
        ureq::Error::ConnectionFailed => ("the connection failed".to_owned(), true),
        ureq::Error::Protocol(_) => ("what answers does not speak HTTP".to_owned(), true),
        ureq::Error::Rustls(error) => (error.to_string(), false),
        ureq::Error::Tls(text) => ((*text).to_owned(), false),
        _ => ("the request could not be made".to_owned(), false),
    }
}

/// The last word after all tries.
pub(crate) fn gave_up(what: &str, last: &str, tries: u32, after: Duration) -> StoreError {
    let times = if tries == 1 { "try" } else { "tries" };
    let seconds = after.as_secs_f32();
    StoreError::Io(format!("{what}: {last}; {tries} {times} in {seconds:.1} s"))
}

#[cfg(test)]
mod tests {
    use super::{Answer, StoreError};

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            length: None,
            sha256: None,
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn missing_bucket_when_refused_is_told_from_a_missing_object() {
        let bucket = answer(404, "<Error><Code>NoSuchBucket</Code></Error>").refusal("b");
        assert_eq!(
            bucket,
            StoreError::Io("b: there is no such bucket".to_owned())
        );
        let object = answer(404, "<Error><Code>NoSuchKey</Code></Error>").refusal("b");
        assert_eq!(object, StoreError::NotFound);
    }

    #[test]
    fn code_of_a_refusal_when_it_is_no_plain_word_is_not_shown() {
        let shown = answer(400, "<Code>X\u{1b}[2J</Code>").refusal("b");
        assert_eq!(shown, StoreError::Io("b: status 400".to_owned()));
    }
}
