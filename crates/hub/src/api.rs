//! What is in a repository: its commit and its files.

use serde::Deserialize;

use crate::HubError;
use crate::hash::{Expected, Hash, is_hex};
use crate::http::Http;
use crate::limits::{MAX_API_BYTES, MAX_FILES, MAX_PAGES, MAX_URL_BYTES};
use crate::names::{ModelRef, RepoPath, encode, shortened};

/// Bytes of a commit and of a git blob id.
const SHA1_BYTES: usize = 20;
const SHA256_BYTES: usize = 32;

/// A file of the repository.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: RepoPath,
    pub(crate) expected: Expected,
}

/// All files of one commit whose names are usable.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) name: String,
    pub(crate) commit: String,
    pub(crate) entries: Vec<Entry>,
}

impl Listing {
    pub(crate) fn entry(&self, path: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.path.as_str() == path)
    }
}

#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    oid: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// Asks for the commit behind the revision, then for its files.
pub(crate) fn list(http: &Http, model: &ModelRef) -> Result<Listing, HubError> {
    let api = format!("api/models/{}", model.name());
    let url = http.url(&format!("{api}/revision/{}", encode(model.revision(), false)));
    let (text, _) = http.text(&url, MAX_API_BYTES)?;
    let info: ModelInfo = parse(&url, &text)?;
    if !is_hex(&info.sha, SHA1_BYTES) {
        let reason = format!("sha: got {:?}, expected a commit", shortened(&info.sha));
        return Err(HubError::Answer { url, reason });
    }
    let mut entries = Vec::new();
    let mut next = Some(http.url(&format!("{api}/tree/{}?recursive=1", info.sha)));
    for _ in 0..MAX_PAGES {
        let Some(url) = next else { break };
        let (text, headers) = http.text(&url, MAX_API_BYTES)?;
        let page: Vec<TreeEntry> = parse(&url, &text)?;
        let files = page.into_iter().filter(|entry| entry.kind == "file");
        // A name that is not usable is never used: only what `select` knows by name, or an index names, is fetched.
        for (entry, path) in
            files.filter_map(|entry| RepoPath::new(&entry.path).ok().map(|path| (entry, path)))
        {
            entries.push(Entry { path, expected: expected(&url, entry)? });
        }
        if entries.len() > MAX_FILES {
            let (what, got) = ("files of the repository".into(), entries.len() as u64);
            return Err(HubError::TooLarge { what, got, max: MAX_FILES as u64 });
        }
        next = match headers.get("link").and_then(|link| link.to_str().ok()).and_then(next_page) {
            Some(link) if !http.is_own(link) => {
                let reason = "the next page is on another host";
                return Err(HubError::Redirect { url, to: shortened(link), reason });
            }
            link => link.map(String::from),
        };
    }
    if next.is_some() {
        let what = "pages of the listing".into();
        return Err(HubError::TooLarge { what, got: MAX_PAGES as u64 + 1, max: MAX_PAGES as u64 });
    }
    Ok(Listing { name: model.to_string(), commit: info.sha, entries })
}

fn parse<'a, T: Deserialize<'a>>(url: &str, text: &'a [u8]) -> Result<T, HubError> {
    serde_json::from_slice(text)
        .map_err(|error| HubError::Answer { url: url.into(), reason: error.to_string() })
}

fn expected(url: &str, entry: TreeEntry) -> Result<Expected, HubError> {
    let (size, hash, right) = match entry.lfs {
        Some(lfs) => {
            let hex = lfs.oid.strip_prefix("sha256:").unwrap_or(&lfs.oid).to_owned();
            let right = is_hex(&hex, SHA256_BYTES);
            (lfs.size, Hash::Sha256(hex), right)
        }
        None => {
            let right = is_hex(&entry.oid, SHA1_BYTES);
            (entry.size, Hash::GitBlob(entry.oid), right)
        }
    };
    if !right {
        let (path, kind, got) = (shortened(&entry.path), hash.kind(), shortened(hash.hex()));
        let reason = format!("{path:?}: got {kind} {got:?}, expected lower-case hexadecimal");
        return Err(HubError::Answer { url: url.into(), reason });
    }
    Ok(Expected { size, hash })
}

/// `Link: <address>; rel="next"` (RFC 8288).
fn next_page(link: &str) -> Option<&str> {
    let with_rel = |part: &&str| part.contains("rel=\"next\"");
    let part = link.split(',').find(with_rel).filter(|part| part.len() <= MAX_URL_BYTES)?;
    part.trim_start().strip_prefix('<')?.split_once('>').map(|(address, _)| address)
}
