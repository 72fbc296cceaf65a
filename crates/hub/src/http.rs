//! Requests with redirects by hand: where a server sends us decides what we send along.
//!
//! The token goes to the endpoint's own origin (scheme, host, port) and is left out everywhere else; a redirect from https to
//! http is refused. An answer is a success, something that waiting may mend ([`Failure::Passing`]), or an error.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use crate::HubError;
use crate::limits::{MAX_REDIRECTS, MAX_RETRY_AFTER_S, MAX_URL_BYTES};
use crate::names::shortened;
use crate::settings::{Retry, Settings, Token};

const USER_AGENT: &str = concat!("lockstep/", env!("CARGO_PKG_VERSION"));

/// Why a request brought nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The network, or a server that has no time.
    Passing {
        reason: String,
        /// What the server asked for.
        wait: Option<Duration>,
    },
    /// Trying again would change nothing.
    Final(HubError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    pub(crate) fn passing(reason: impl Into<String>) -> Self {
        Self::Passing { reason: reason.into(), wait: None }
    }
}

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    https: bool,
    host: String,
    port: u16,
}

impl Origin {
    fn of(uri: &Uri) -> Result<Self, &'static str> {
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("expected http or https"),
        };
        let authority = uri.authority().ok_or("expected a host")?;
        if authority.as_str().contains('@') {
            return Err("expected no user name in it");
        }
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        Ok(Self { https, host: authority.host().to_ascii_lowercase(), port })
    }

    fn is_loopback(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// A client of one hub.
#[derive(Debug)]
pub(crate) struct Http {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<Token>,
    pub(crate) retry: Retry,
}

/// An answer with one of the statuses 200, 206 and 416.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) url: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// `X-Linked-Size` and `X-Linked-Etag` of the endpoint's own answer, before it redirected.
    pub(crate) linked: HeaderMap,
    pub(crate) body: ureq::Body,
}

impl Answer {
    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A header of the endpoint's own answer.
    pub(crate) fn linked(&self, name: &str) -> Option<&str> {
        self.linked.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Http {
    pub(crate) fn new(settings: &Settings) -> Result<Self, HubError> {
        let wrong = |reason| HubError::Endpoint { got: shortened(&settings.endpoint), reason };
        let uri: Uri = settings.endpoint.parse().map_err(|_| wrong("expected an address"))?;
        let origin = Origin::of(&uri).map_err(wrong)?;
        if uri.query().is_some() || settings.endpoint.ends_with('/') {
            return Err(wrong("expected no query and no slash at the end"));
        }
        if settings.token.is_some() && !origin.https && !origin.is_loopback() {
            return Err(wrong("a token is sent over https only"));
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .accept_encoding("identity")
            .timeout_resolve(Some(settings.timeouts.connect))
            .timeout_connect(Some(settings.timeouts.connect))
            .timeout_recv_response(Some(settings.timeouts.answer))
            .timeout_per_read(Some(settings.timeouts.silence))
            .timeout_per_write(Some(settings.timeouts.silence));
        if origin.https {
            config = config.https_only(true).tls_config(tls()?);
        }
        let agent = config.build().new_agent();
        let (endpoint, token) = (settings.endpoint.clone(), settings.token.clone());
        Ok(Self { agent, endpoint, origin, token, retry: settings.retry })
    }

    /// The address of a path below the endpoint.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint)
    }

    /// Whether an address belongs to the endpoint.
    pub(crate) fn is_own(&self, url: &str) -> bool {
        url.parse::<Uri>().is_ok_and(|uri| Origin::of(&uri).as_ref() == Ok(&self.origin))
    }

    /// One request, redirects followed.
    pub(crate) fn get(&self, url: &str, headers: &[(&str, String)]) -> Result<Answer, Failure> {
        let mut url = url.to_owned();
        let mut linked = HeaderMap::new();
        for _ in 0..=MAX_REDIRECTS {
            let own = self.is_own(&url);
            let response = self.send(&url, own, headers)?;
            let status = response.status().as_u16();
            if own && linked.is_empty() {
                linked.clone_from(response.headers());
            }
            match status {
                200 | 206 | 416 => {
                    let (parts, body) = response.into_parts();
                    return Ok(Answer { url, status, headers: parts.headers, linked, body });
                }
                301 | 302 | 303 | 307 | 308 => url = next_url(&url, response.headers())?,
                _ => return Err(failure(url, status, own, response.headers())),
            }
        }
        Err(HubError::Redirect { to: shortened(&url), url, reason: "expected at most 5 in a row" }.into())
    }

    fn send(
        &self,
        url: &str,
        own: bool,
        headers: &[(&str, String)],
    ) -> Result<Response<ureq::Body>, Failure> {
        let mut request = self.agent.get(url);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(token) = self.token.as_ref().filter(|_| own) {
            request = request.header("authorization", token.header());
        }
        request.call().map_err(|error| match error {
            error if is_lasting(&error) => {
                Failure::Final(HubError::Connection { url: url.into(), reason: error.to_string() })
            }
            other => Failure::passing(other.to_string()),
        })
    }

    /// A bounded answer of the API, tried until it comes.
    pub(crate) fn text(&self, url: &str, max: u64) -> Result<(Vec<u8>, HeaderMap), HubError> {
        let mut in_vain = 0;
        loop {
            let (reason, wait) = match self.text_once(url, max) {
                Ok(text) => return Ok(text),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { reason, wait }) => (reason, wait),
            };
            in_vain += 1;
            self.pause(url, in_vain, reason, wait)?;
        }
    }

    /// Waits before the next attempt, or says that there is none.
    pub(crate) fn pause(
        &self,
        url: &str,
        in_vain: u32,
        reason: String,
        wait: Option<Duration>,
    ) -> Result<(), HubError> {
        if in_vain >= self.retry.attempts {
            return Err(HubError::Network { url: url.into(), reason, attempts: in_vain });
        }
        std::thread::sleep(wait.unwrap_or_else(|| self.retry.wait(in_vain)));
        Ok(())
    }

    fn text_once(&self, url: &str, max: u64) -> Result<(Vec<u8>, HeaderMap), Failure> {
        let mut answer = self.get(url, &[("accept", "application/json".into())])?;
        if answer.status != 200 {
            let (url, status) = (answer.url, answer.status);
            return Err(HubError::Status { url, status, expected: "200" }.into());
        }
        let stated = answer.header("content-length").and_then(|len| len.parse::<u64>().ok());
        let mut text = Vec::new();
        let reader = answer.body.as_reader().take(max + 1);
        let ended = { reader }.read_to_end(&mut text);
        if text.len() as u64 > max {
            let what = format!("bytes of {url}");
            return Err(HubError::TooLarge { what, got: text.len() as u64, max }.into());
        }
        ended.map_err(|error| Failure::passing(error.to_string()))?;
        match stated {
            Some(expected) if expected != text.len() as u64 => {
                Err(Failure::passing(format!("ended after {} of {expected} bytes", text.len())))
            }
            _ => Ok((text, answer.headers)),
        }
    }
}

/// Whether another attempt would end the same way: a certificate that is not believed, an address that is none.
fn is_lasting(error: &ureq::Error) -> bool {
    use ureq::Error;
    match error {
        Error::Io(error) => {
            let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
        }
        Error::Tls(_) | Error::Rustls(_) | Error::RequireHttpsOnly(_) | Error::BadUri(_) => true,
        _ => false,
    }
}

/// The system's certificates, and ring behind rustls.
fn tls() -> Result<TlsConfig, HubError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let reason = found.errors.first().map_or_else(|| "none at all".into(), ToString::to_string);
        return Err(HubError::NoCertificates { reason });
    }
    let roots = found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .build())
}

/// Where a redirect leads: an address, or a path on the same host.
fn next_url(url: &str, headers: &HeaderMap) -> Result<String, HubError> {
    let to = headers.get("location").and_then(|to| to.to_str().ok()).unwrap_or("");
    let wrong = |reason| HubError::Redirect { url: url.into(), to: shortened(to), reason };
    if to.is_empty() || to.len() > MAX_URL_BYTES {
        return Err(wrong("expected an address"));
    }
    let from: Uri = url.parse().map_err(|_| wrong("expected an address to start from"))?;
    let next = if to.starts_with('/') && !to.starts_with("//") {
        let (scheme, authority) = (from.scheme_str().unwrap_or(""), from.authority());
        format!("{scheme}://{}{to}", authority.map_or("", |authority| authority.as_str()))
    } else {
        to.to_owned()
    };
    let target: Uri = next.parse().map_err(|_| wrong("expected an address"))?;
    let target = Origin::of(&target).map_err(wrong)?;
    if Origin::of(&from).is_ok_and(|from| from.https) && !target.https {
        return Err(wrong("expected https to stay https"));
    }
    Ok(next)
}

fn failure(url: String, status: u16, own: bool, headers: &HeaderMap) -> Failure {
    match status {
        408 | 425 | 429 | 500 | 502..=504 => {
            let seconds =
                headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
            let wait = seconds.map(|seconds| Duration::from_secs(seconds.min(MAX_RETRY_AFTER_S)));
            Failure::Passing { reason: format!("status {status}"), wait }
        }
        // A signed address that has expired; asking the endpoint again brings a fresh one.
        401 | 403 if !own => Failure::passing(format!("status {status} at the redirect")),
        401 | 403 => HubError::Unauthorized { url, status }.into(),
        404 => HubError::NotFound { url }.into(),
        _ => HubError::Status { url, status, expected: "200 or 206" }.into(),
    }
}
