//! Models from the Hugging Face hub by name, in a way that survives bad networks and does not trust the server.
//!
//! A model is some small files and one or several large ones at a commit of a repository. What is asked for is
//! `owner/name[@revision][:file.gguf]` ([`ModelRef`]); what comes back is a folder as if the user had cloned the repository
//! ([`Fetched`]), with the files that an import needs and no others.
//!
//! ```text
//! GET {endpoint}/api/models/{name}/revision/{revision}       -> commit
//! GET {endpoint}/api/models/{name}/tree/{commit}?recursive=1 -> path, size, git id, SHA-256 of large files
//! GET {endpoint}/{name}/resolve/{commit}/{path}              -> bytes, or a redirect to wherever they are kept
//! ```
//!
//! What a server may do is bounded: names cannot leave the cache folder ([`RepoPath`]), sizes and counts have limits
//! ([`limits`]), every file must have the size and the hash that the tree states before it gets its name, and the token goes
//! to the endpoint alone, never to where it redirects. What the hub itself claims about a commit is believed: a model's bytes
//! are worth what its commit id is worth, so pin one (`@<40 hexadecimal digits>`) where that matters.
//!
//! A download that breaks leaves `FILE.part`; the next one goes on from there.

mod api;
mod cache;
mod download;
mod error;
mod hash;
mod http;
pub mod limits;
mod names;
mod select;
mod settings;

use std::path::PathBuf;

use api::Entry;
use cache::Snapshot;

pub use error::HubError;
pub use names::{ModelRef, RepoPath};
pub use settings::{Retry, Settings, Timeouts, Token};

/// How far a download is. Bytes count what was there already.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The file at work, by its path in the repository.
    pub file: &'a str,
    /// Bytes of all files that are there, verified or not.
    pub done: u64,
    /// Bytes of all files known so far (an index adds its shards).
    pub total: u64,
    /// The attempt to reach the server, from 1 on; more than 1 says that the network failed.
    pub attempt: u32,
}

/// A model on this machine.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// What to import: the folder, or the one file that was asked for.
    pub path: PathBuf,
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// Bytes that came over the network.
    pub downloaded: u64,
    /// Bytes of all files.
    pub total: u64,
}

/// The hub, as these settings see it.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    http: http::Http,
}

impl Hub {
    /// Checks the settings; connects to nothing.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn new(settings: Settings) -> Result<Self, HubError> {
        let http = http::Http::new(&settings)?;
        Ok(Self { settings, http })
    }

    /// Makes sure that the files of a model are in the cache and are what the hub says they are.
    ///
    /// # Errors
    /// [`HubError`]; files that were complete stay in the cache, and so do parts.
    pub fn fetch(
        &self,
        model: &ModelRef,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Fetched, HubError> {
        let listing = api::list(&self.http, model)?;
        let snapshot = Snapshot::create(&self.settings.cache, model, &listing.commit)?;
        let mut run =
            Run { hub: self, model, snapshot: &snapshot, progress, done: 0, total: 0, downloaded: 0 };
        let wanted = match model.file() {
            Some(file) => vec![
                listing
                    .entry(file.as_str())
                    .ok_or_else(|| HubError::NoFile { name: model.to_string(), file: file.to_string() })?,
            ],
            None => select::files(&listing)?,
        };
        run.all(&listing.commit, &wanted)?;
        if let Some(index) = wanted.iter().find(|entry| entry.path.as_str() == select::INDEX) {
            let shards = select::shards(&snapshot.place(&index.path), &listing)?;
            run.all(&listing.commit, &shards)?;
        }
        let (downloaded, total) = (run.downloaded, run.total);
        let path = match model.file() {
            Some(file) => snapshot.place(file),
            None => snapshot.folder().to_owned(),
        };
        Ok(Fetched { path, commit: listing.commit, downloaded, total })
    }
}

/// One fetch on its way.
struct Run<'a> {
    hub: &'a Hub,
    model: &'a ModelRef,
    snapshot: &'a Snapshot,
    progress: &'a mut dyn FnMut(Progress<'_>),
    done: u64,
    total: u64,
    downloaded: u64,
}

impl Run<'_> {
    fn all(&mut self, commit: &str, entries: &[&Entry]) -> Result<(), HubError> {
        self.total += entries.iter().map(|entry| entry.expected.size).sum::<u64>();
        if self.total > limits::MAX_TOTAL_BYTES {
            return Err(HubError::TooLarge {
                what: "bytes of all files".into(),
                got: self.total,
                max: limits::MAX_TOTAL_BYTES,
            });
        }
        for entry in entries {
            let (before, total, progress) = (self.done, self.total, &mut *self.progress);
            let mut report = |done: u64, attempt: u32| {
                progress(Progress { file: entry.path.as_str(), done: before + done, total, attempt });
            };
            let path = format!("{}/resolve/{commit}/{}", self.model.name(), entry.path.encoded());
            let place = self.snapshot.place(&entry.path);
            let file = download::Download { http: &self.hub.http, path: &path, place: &place, entry };
            self.downloaded += file.run(&mut report)?;
            self.done += entry.expected.size;
        }
        Ok(())
    }
}
