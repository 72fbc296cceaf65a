//! Where the hub is, who asks, where files are kept, how long to wait.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::HubError;

/// The public hub.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// A secret of the user; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// # Errors
    /// [`HubError::Token`] if it cannot stand in a header.
    pub fn new(token: &str) -> Result<Self, HubError> {
        match token.trim() {
            "" => Err(HubError::Token),
            token if token.len() > 1_024 || !token.bytes().all(|b| b.is_ascii_graphic()) => {
                Err(HubError::Token)
            }
            token => Ok(Self(token.into())),
        }
    }

    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// When to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in a row that bring not one byte.
    pub attempts: u32,
    /// Wait after the first of them; doubles with each.
    pub first_wait: Duration,
    /// Longest such wait.
    pub longest_wait: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 6, first_wait: Duration::from_millis(500), longest_wait: Duration::from_secs(30) }
    }
}

impl Retry {
    /// The wait after so many attempts in vain.
    pub(crate) fn wait(&self, in_vain: u32) -> Duration {
        let factor = 1u32.checked_shl(in_vain.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first_wait.saturating_mul(factor).min(self.longest_wait)
    }
}

/// How long a server may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To find it and shake hands.
    pub connect: Duration,
    /// To begin an answer.
    pub answer: Duration,
    /// Between two pieces of an answer.
    pub silence: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(20), answer: seconds(60), silence: seconds(60) }
    }
}

/// Everything that a [`crate::Hub`] needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// Sent to the endpoint and nowhere else.
    pub token: Option<Token>,
    /// Folder of downloaded files.
    pub cache: PathBuf,
    /// When to give up.
    pub retry: Retry,
    /// How long a server may be silent.
    pub timeouts: Timeouts,
}

impl Settings {
    /// The public hub without a token, files below `cache`.
    #[must_use]
    pub fn new(cache: &Path) -> Self {
        Self {
            endpoint: DEFAULT_ENDPOINT.into(),
            token: None,
            cache: cache.into(),
            retry: Retry::default(),
            timeouts: Timeouts::default(),
        }
    }

    /// From `HF_ENDPOINT` and `HF_TOKEN`; the cache is the one named, or the user's (`XDG_CACHE_HOME`, `LOCALAPPDATA`,
    /// `HOME/.cache`).
    ///
    /// # Errors
    /// [`HubError::NoCache`], [`HubError::Token`].
    pub fn from_env(
        cache: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, HubError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let below = |name: &str, rest: &str| set(name).map(|base| Path::new(&base).join(rest));
        let cache = cache
            .map(PathBuf::from)
            .or_else(|| below("XDG_CACHE_HOME", "lockstep/hub"))
            .or_else(|| below("LOCALAPPDATA", "lockstep/hub"))
            .or_else(|| below("HOME", ".cache/lockstep/hub"))
            .ok_or(HubError::NoCache)?;
        let token = set("HF_TOKEN").map(|token| Token::new(&token)).transpose()?;
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into());
        Ok(Self { endpoint: endpoint.trim_end_matches('/').into(), token, ..Self::new(&cache) })
    }
}
