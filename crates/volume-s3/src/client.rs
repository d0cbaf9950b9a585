//! Signed requests over HTTP(S), with deadlines and a bounded number of tries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64;
use rusty_s3::actions::S3Action;
use rusty_s3::{Bucket, Credentials, UrlStyle};
use ureq::http::Response;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body};
use url::Url;
use volume::StoreError;

use crate::Config;
use crate::answer::{Answer, TEXT_MAX, failure, gave_up};

/// Most tries of one call, and the pauses between them.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How long a signature is good.
const SIGNED_FOR: Duration = Duration::from_mins(5);
/// Bytes per second: each of so many adds a second to a call's deadline.
const SLOWEST: u64 = 256 << 10;

const CHECKSUM: &str = "x-amz-checksum-sha256";

type Result<T> = std::result::Result<T, StoreError>;

/// Speaks to one bucket.
pub(crate) struct Client {
    agent: Agent,
    bucket: Bucket,
    credentials: Option<Credentials>,
    prefix: String,
    deadline: Duration,
}

impl Client {
    pub fn new(config: &Config) -> Result<Self> {
        let unfit = |what: String| StoreError::Io(format!("the endpoint cannot be used: {what}"));
        let endpoint = Url::parse(&config.endpoint).map_err(|error| unfit(error.to_string()))?;
        let secured = endpoint.scheme() == "https";
        let (name, region) = (config.bucket.clone(), config.region.clone());
        let bucket = Bucket::new(endpoint, UrlStyle::Path, name, region)
            .map_err(|_| unfit("it is not http(s)://HOST".to_owned()))?;
        let credentials = config.credentials.as_ref().map(|key| match &key.token {
            Some(token) => Credentials::new_with_token(&key.id, key.secret.as_str(), token),
            None => Credentials::new(&key.id, key.secret.as_str()),
        });
        let prefix = match config.prefix.trim_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        Ok(Self {
            agent: agent(if secured { &config.authorities } else { &[] })?,
            bucket,
            credentials,
            prefix,
            deadline: config.deadline,
        })
    }

    /// Up to `length` bytes at `offset`; fewer only at the end of the object.
    pub fn read(&self, path: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let key = self.key(path);
        let range = format!("bytes={offset}-{}", offset.saturating_add(length - 1));
        let what = self.what("read", path);
        let answer = Self::call(&what, self.within(length), |timeout| {
            let url = self
                .bucket
                .get_object(self.credentials.as_ref(), &key)
                .sign(SIGNED_FOR);
            let request = self.agent.get(url.as_str()).header("range", &range);
            let request = request.config().timeout_global(Some(timeout)).build();
            take(request.call()?, length)
        })?;
        match answer.status {
            206 => Ok(answer.body),
            200 if offset == 0 => Ok(answer.body), // the whole object, cut to what was asked for
            200 => Err(StoreError::Io(format!(
                "{what}: the service does not read ranges"
            ))),
            416 => Ok(Vec::new()),
            _ => Err(answer.refusal(&what)),
        }
    }

    /// The object's size.
    pub fn size(&self, path: &str) -> Result<u64> {
        let answer = self.head(path)?;
        answer
            .length
            .ok_or_else(|| StoreError::Io(self.what("stat", path) + ": the answer has no length"))
    }

    fn head(&self, path: &str) -> Result<Answer> {
        let key = self.key(path);
        let what = self.what("stat", path);
        let answer = Self::call(&what, self.deadline, |timeout| {
            let mut action = self.bucket.head_object(self.credentials.as_ref(), &key);
            action
                .headers_mut()
                .insert("x-amz-checksum-mode", "ENABLED");
            let url = action.sign(SIGNED_FOR);
            let request = self.agent.head(url.as_str());
            let request = request.header("x-amz-checksum-mode", "ENABLED");
            let request = request.config().timeout_global(Some(timeout)).build();
            take(request.call()?, 0)
        })?;
        match answer.status {
            200 => Ok(answer),
            _ => Err(answer.refusal(&what)),
        }
    }

    /// Uploads an object whole, then asks the service what it holds: its checksum if it has one, else the content.
    pub fn put(&self, path: &str, data: &[u8]) -> Result<()> {
        let key = self.key(path);
        let what = self.what("upload", path);
        let sum = BASE64.encode(digest(&SHA256, data).as_ref());
        let answer = Self::call(&what, self.within(data.len() as u64), |timeout| {
            let mut action = self.bucket.put_object(self.credentials.as_ref(), &key);
            action.headers_mut().insert(CHECKSUM, sum.as_str());
            let url = action.sign(SIGNED_FOR);
            let request = self.agent.put(url.as_str()).header(CHECKSUM, &sum);
            let request = request.config().timeout_global(Some(timeout)).build();
            take(request.send(data)?, TEXT_MAX)
        })?;
        if !matches!(answer.status, 200 | 201 | 204) {
            return Err(answer.refusal(&what));
        }
        let held = self.head(path)?;
        let same = match held.sha256 {
            Some(found) => found == sum && held.length == Some(data.len() as u64),
            None => self.read(path, 0, data.len() as u64 + 1)? == data,
        };
        if same {
            return Ok(());
        }
        Err(StoreError::Io(format!(
            "{what}: the service holds other bytes than those that were sent"
        )))
    }

    /// Removes an object; a service does not say whether it was there.
    pub fn remove(&self, path: &str) -> Result<()> {
        let key = self.key(path);
        let what = self.what("remove", path);
        let answer = Self::call(&what, self.deadline, |timeout| {
            let url = self
                .bucket
                .delete_object(self.credentials.as_ref(), &key)
                .sign(SIGNED_FOR);
            let request = self.agent.delete(url.as_str());
            let request = request.config().timeout_global(Some(timeout)).build();
            take(request.call()?, TEXT_MAX)
        })?;
        match answer.status {
            200 | 204 => Ok(()),
            _ => Err(answer.refusal(&what)),
        }
    }

    /// One page of the names that begin with `above`, up to the next slash; `token` continues an earlier page.
    pub fn list_page(
        &self,
        what: &str,
        above: &str,
        token: Option<&str>,
        within: Duration,
    ) -> Result<Answer> {
        let answer = Self::call(what, within, |timeout| {
            let mut action = self.bucket.list_objects_v2(self.credentials.as_ref());
            action.with_prefix(above);
            action.with_delimiter("/");
            if let Some(token) = token {
                action.with_continuation_token(token);
            }
            let url = action.sign(SIGNED_FOR);
            let request = self.agent.get(url.as_str());
            let request = request.config().timeout_global(Some(timeout)).build();
            take(request.call()?, TEXT_MAX)
        })?;
        match (answer.status, answer.refusal(what)) {
            (200, _) => Ok(answer),
            (status, StoreError::NotFound) => {
                Err(StoreError::Io(format!("{what}: status {status}")))
            }
            (_, refusal) => Err(refusal),
        }
    }

    /// How long a call may take that carries so many bytes.
    fn within(&self, bytes: u64) -> Duration {
        self.deadline + Duration::from_secs(bytes / SLOWEST)
    }

    /// How long one call tries, its bytes apart.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The key of an object; of the empty path, what all keys begin with.
    pub fn key(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// For messages: without the address, which may be signed.
    pub fn what(&self, action: &str, path: &str) -> String {
        format!("{action} s3://{}/{}", self.bucket.name(), self.key(path))
    }

    /// Tries until there is an answer that stands, the tries are used up, or `within` is over.
    fn call(
        what: &str,
        within: Duration,
        attempt: impl Fn(Duration) -> std::result::Result<Answer, ureq::Error>,
    ) -> Result<Answer> {
        let begin = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            tries += 1;
            let left = within.saturating_sub(begin.elapsed());
            let last = match attempt(left.max(FIRST_PAUSE)) {
                Ok(answer) if answer.is_passing() => format!("status {}", answer.status),
                Ok(answer) => return Ok(answer),
                Err(error) => match failure(&error) {
                    (text, true) => text,
                    (text, false) => return Err(gave_up(what, &text, tries, begin.elapsed())),
                },
            };
            if tries >= TRIES || begin.elapsed() + pause >= within {
                return Err(gave_up(what, &last, tries, begin.elapsed()));
            }
            std::thread::sleep(pause);
            pause *= 2;
        }
    }
}

/// A client of HTTP that follows no redirection: a signature is for one address.
fn agent(authorities: &[u8]) -> Result<Agent> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut certificates: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(authorities) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(_) => {
                let text = "the file of certificate authorities is not PEM";
                return Err(StoreError::Io(text.to_owned()));
            }
        }
    }
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(RootCerts::from(certificates))
        .build();
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent("securetf")
        .tls_config(tls)
        .timeout_connect(Some(Duration::from_secs(5)))
        .build();
    Ok(config.into())
}

/// Reads an answer whose body has at most `most` bytes that matter.
fn take(mut response: Response<Body>, most: u64) -> std::result::Result<Answer, ureq::Error> {
    let status = response.status().as_u16();
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let length = header("content-length").and_then(|text| text.parse().ok());
    let sha256 = header(CHECKSUM);
    let most = if matches!(status, 200 | 206) {
        most
    } else {
        TEXT_MAX
    };
    let mut body = Vec::new();
    let mut reader = std::io::Read::take(response.body_mut().as_reader(), most);
    std::io::Read::read_to_end(&mut reader, &mut body)?;
    Ok(Answer {
        status,
        length,
        sha256,
        body,
    })
}
