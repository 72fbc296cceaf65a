//! Names that are valid by construction: what a user asks for, and what a server calls its files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::HubError;
use crate::limits::{MAX_NAME_BYTES, MAX_PATH_BYTES};

/// The revision where none is named.
const DEFAULT_REVISION: &str = "main";

/// `owner/name[@revision][:file]`; the owner of a few old models is the hub itself and left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRef {
    name: String,
    revision: String,
    file: Option<RepoPath>,
}

impl ModelRef {
    /// `owner/name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Branch, tag or commit.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The one file that is wanted.
    #[must_use]
    pub fn file(&self) -> Option<&RepoPath> {
        self.file.as_ref()
    }

    /// The last part of the name: what a bundle is called by default.
    #[must_use]
    pub fn short_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

impl FromStr for ModelRef {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let wrong = |reason| HubError::ModelName { got: shortened(text), reason };
        let (rest, file) = match text.split_once(':') {
            Some((rest, file)) => (rest, Some(RepoPath::new(file)?)),
            None => (text, None),
        };
        if file.as_ref().is_some_and(|file| !file.has_extension("gguf")) {
            return Err(wrong("and only a .gguf file can be asked for by itself"));
        }
        let (name, revision) = rest.split_once('@').unwrap_or((rest, DEFAULT_REVISION));
        let mut parts = 0;
        for part in name.split('/') {
            parts += 1;
            if !is_name(part) {
                return Err(wrong("with letters, digits, '-', '_' and '.' in owner and name"));
            }
        }
        if parts > 2 {
            return Err(wrong("with one '/' in it"));
        }
        // Branches may have slashes; they are escaped in addresses.
        if !revision.split('/').all(is_name) || revision.len() > MAX_NAME_BYTES {
            return Err(wrong("with a branch, a tag or a commit as revision"));
        }
        Ok(Self { name: name.into(), revision: revision.into(), file })
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.revision)?;
        self.file.as_ref().map_or(Ok(()), |file| write!(f, ":{file}"))
    }
}

fn is_name(part: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_NAME_BYTES).contains(&part.len()) && !part.starts_with('.') && part.bytes().all(known)
}

/// The path of a file in a repository: relative, downward, of plain components.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepoPath(String);

impl RepoPath {
    /// # Errors
    /// [`HubError::Path`] for anything that could mean a place outside the folder it is joined to, on any system.
    pub fn new(path: &str) -> Result<Self, HubError> {
        let wrong = |reason| Err(HubError::Path { got: shortened(path), reason });
        if path.is_empty() || path.len() > MAX_PATH_BYTES {
            return wrong("expected 1 to 512 bytes");
        }
        if path.chars().any(|c| c.is_control() || matches!(c, '\\' | ':' | '<' | '>' | '"' | '|' | '?' | '*'))
        {
            return wrong("expected no control characters and none of \\ : < > \" | ? *");
        }
        for part in path.split('/') {
            if part.is_empty() || part == "." || part == ".." {
                return wrong("expected a relative path without '.', '..' and empty parts");
            }
            if part.ends_with(['.', ' ']) || part.starts_with(' ') {
                return wrong("expected no parts that end with a dot or a space");
            }
            // These mean something here; a server may not write them.
            if [".part", ".etag"].iter().any(|end| part.to_ascii_lowercase().ends_with(end)) {
                return wrong("expected no names that end with .part or .etag");
            }
        }
        Ok(Self(path.into()))
    }

    /// As the repository writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Below a folder.
    #[must_use]
    pub fn under(&self, folder: &Path) -> PathBuf {
        self.0.split('/').fold(folder.to_owned(), |path, part| path.join(part))
    }

    /// Percent-encoded for an address; slashes stay.
    #[must_use]
    pub fn encoded(&self) -> String {
        encode(&self.0, true)
    }

    /// Whether it is at the top of the repository.
    #[must_use]
    pub fn is_top(&self) -> bool {
        !self.0.contains('/')
    }

    /// Whether it ends with this extension.
    #[must_use]
    pub fn has_extension(&self, extension: &str) -> bool {
        self.0.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case(extension))
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything but unreserved characters (RFC 3986, 2.3) as `%XX`.
pub(crate) fn encode(text: &str, keep_slash: bool) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        if plain || (keep_slash && byte == b'/') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// For error messages: outside text, bounded.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
