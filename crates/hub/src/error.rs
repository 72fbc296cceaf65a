//! One variant per check of a download.

use std::path::PathBuf;

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that is none.
    #[error("model {got:?}: expected owner/name[@revision][:file.gguf], {reason}")]
    ModelName {
        /// What was written.
        got: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An endpoint that is none.
    #[error("endpoint {got:?}: {reason}")]
    Endpoint {
        /// What was written.
        got: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A token that cannot stand in a header.
    #[error("HF_TOKEN: expected printable ASCII without spaces")]
    Token,
    /// No folder to keep files in.
    #[error("no cache folder: neither XDG_CACHE_HOME nor HOME is set; name one with --cache")]
    NoCache,
    /// No certificates to check servers with.
    #[error(
        "no root certificates found on this system ({reason}); install ca-certificates or set SSL_CERT_FILE"
    )]
    NoCertificates {
        /// What was found instead.
        reason: String,
    },
    /// A file of the cache.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Somebody else downloads the same file.
    #[error("{path} is being downloaded by another process")]
    Busy {
        /// The part.
        path: PathBuf,
    },
    /// The hub wants to know who asks.
    #[error(
        "{url}: status {status}: the model is gated, private or does not exist; accept its licence at the hub and set HF_TOKEN"
    )]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// There is no such model, revision or file.
    #[error("{url}: status 404: no such model, revision or file")]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// Any other status that waiting does not mend.
    #[error("{url}: got status {status}, expected {expected}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// What would have been right.
        expected: &'static str,
    },
    /// The network, after all attempts.
    #[error(
        "{url}: {reason} (after {attempts} attempts without progress); what came so far is kept, try again to go on"
    )]
    Network {
        /// What was asked for.
        url: String,
        /// What failed last.
        reason: String,
        /// Attempts.
        attempts: u32,
    },
    /// A server that cannot be talked to safely.
    #[error("{url}: {reason}")]
    Connection {
        /// What was asked for.
        url: String,
        /// What is wrong: with its certificate, mostly.
        reason: String,
    },
    /// A redirect that is not followed.
    #[error("{url}: redirect to {to:?}: {reason}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Where it led.
        to: String,
        /// Why it is not followed.
        reason: &'static str,
    },
    /// An answer that is not what the protocol says.
    #[error("{url}: {reason}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A path that could leave the cache.
    #[error("the hub names a file {got:?}: {reason}")]
    Path {
        /// The path, shortened.
        got: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A number above its limit.
    #[error("{what}: got {got}, expected at most {max}")]
    TooLarge {
        /// What was measured.
        what: String,
        /// The value found.
        got: u64,
        /// Largest accepted value.
        max: u64,
    },
    /// A server that sends a file of another size than its listing states.
    #[error("{file}: the server sends {got} bytes, its listing says {expected}")]
    Size {
        /// The file.
        file: String,
        /// What is sent.
        got: u64,
        /// What was listed.
        expected: u64,
    },
    /// A file that is not what its listing says. It was deleted.
    #[error("{file}: {kind} is {got}, expected {expected}; the file was deleted")]
    Hash {
        /// The file.
        file: String,
        /// Which hash.
        kind: &'static str,
        /// Of what came.
        got: String,
        /// Of what was listed.
        expected: String,
    },
    /// The repository has no such file.
    #[error("{name} has no file {file:?}")]
    NoFile {
        /// The model.
        name: String,
        /// The file.
        file: String,
    },
    /// The repository has nothing that can be imported.
    #[error("{name} has no {expected}{hint}")]
    NoModel {
        /// The model.
        name: String,
        /// What was looked for.
        expected: &'static str,
        /// What to do instead.
        hint: String,
    },
}

impl HubError {
    pub(crate) fn io(path: &std::path::Path) -> impl Fn(std::io::Error) -> Self + '_ {
        |error| Self::Io { path: path.into(), error }
    }
}
