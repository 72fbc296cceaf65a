//! Settings: a TOML file, then `LOCKSTEP_*`, then flags; each value remembers where it came from.
//!
//! The file is `config.toml` in `LOCKSTEP_HOME`, or in the platform's configuration directory
//! (`~/.config/lockstep`). It may be absent; a key that nobody knows is refused, so that a typing
//! error does not pass for a setting.

use std::fmt;
use std::path::{Path, PathBuf};

/// Bytes of a configuration file.
pub const FILE_BYTES_MAX: u64 = 64 << 10;

/// What can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Bundle that commands use where none is named.
    Bundle,
    /// Threads that compute.
    Threads,
    /// Instructions that compute.
    Kernel,
    /// Address of the HTTP API.
    Listen,
}

impl Key {
    /// All of them.
    pub const ALL: [Key; 4] = [Key::Bundle, Key::Threads, Key::Kernel, Key::Listen];

    /// Its name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Key::Bundle => "bundle",
            Key::Threads => "threads",
            Key::Kernel => "kernel",
            Key::Listen => "listen",
        }
    }

    /// Its name in the environment.
    #[must_use]
    pub fn variable(self) -> &'static str {
        match self {
            Key::Bundle => "LOCKSTEP_BUNDLE",
            Key::Threads => "LOCKSTEP_THREADS",
            Key::Kernel => "LOCKSTEP_KERNEL",
            Key::Listen => "LOCKSTEP_LISTEN",
        }
    }

    /// The value where nobody sets one.
    #[must_use]
    pub fn default(self) -> String {
        match self {
            Key::Bundle => "the embedded model".into(),
            Key::Threads => std::thread::available_parallelism().map_or(1, usize::from).to_string(),
            Key::Kernel => "auto".into(),
            Key::Listen => "127.0.0.1:8080".into(),
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// A variable of the environment.
    Environment(&'static str),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Environment(variable) => write!(f, "environment {variable}"),
            Origin::Flag => f.write_str("flag"),
        }
    }
}

/// A value with its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The value as text.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Why the configuration file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is too long.
    #[error("{path}: {got} bytes, expected at most {FILE_BYTES_MAX}")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        got: u64,
    },
    /// It is no TOML.
    #[error("{path}: {error}")]
    Toml {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        error: Box<toml::de::Error>,
    },
    /// A key that nobody knows.
    #[error("{path}: unknown key {got:?}, expected one of bundle, threads, kernel, listen")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        got: String,
    },
    /// A value of a type that no setting has.
    #[error("{path}: {key} is {got}, expected a string or an integer")]
    Type {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Type of the value.
        got: &'static str,
    },
}

/// The file and the environment, read once.
#[derive(Debug, Clone, Default)]
pub struct Config {
    path: Option<PathBuf>,
    file: Vec<(Key, String)>,
    environment: Vec<(Key, String)>,
}

impl Config {
    /// Reads the file (if there is one) and the environment.
    ///
    /// # Errors
    /// [`ConfigError`] naming the file and the key.
    pub fn load() -> Result<Config, ConfigError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let environment =
            Key::ALL.into_iter().filter_map(|key| Some((key, variable(key.variable())?))).collect();
        let path = directory(variable).map(|directory| directory.join("config.toml"));
        let file = match &path {
            Some(path) if path.is_file() => read(path)?,
            _ => Vec::new(),
        };
        Ok(Config { path, file, environment })
    }

    /// Where the file is, or would be.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The value of `key`; `flag` goes before everything else.
    #[must_use]
    pub fn get(&self, key: Key, flag: Option<String>) -> Setting {
        let find = |values: &[(Key, String)]| {
            values.iter().find(|(other, _)| *other == key).map(|(_, value)| value.clone())
        };
        if let Some(value) = flag {
            return Setting { value, origin: Origin::Flag };
        }
        if let Some(value) = find(&self.environment) {
            return Setting { value, origin: Origin::Environment(key.variable()) };
        }
        match (find(&self.file), &self.path) {
            (Some(value), Some(path)) => Setting { value, origin: Origin::File(path.clone()) },
            _ => Setting { value: key.default(), origin: Origin::Default },
        }
    }
}

/// The directory of the configuration file.
fn directory(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let under = |name: &str, rest: &str| variable(name).map(|base| Path::new(&base).join(rest));
    under("LOCKSTEP_HOME", "")
        .or_else(|| under("XDG_CONFIG_HOME", "lockstep"))
        .or_else(|| under("APPDATA", "lockstep"))
        .or_else(|| under("HOME", ".config/lockstep"))
}

/// The directory of what a program keeps for itself: `LOCKSTEP_HOME`, or the platform's data directory.
#[must_use]
pub fn data_directory() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let under = |name: &str, rest: &str| variable(name).map(|base| Path::new(&base).join(rest));
    under("LOCKSTEP_HOME", "")
        .or_else(|| under("XDG_DATA_HOME", "lockstep"))
        .or_else(|| under("LOCALAPPDATA", "lockstep"))
        .or_else(|| under("HOME", ".local/share/lockstep"))
}

fn read(path: &Path) -> Result<Vec<(Key, String)>, ConfigError> {
    let io = |error| ConfigError::Io { path: path.into(), error };
    let got = std::fs::metadata(path).map_err(io)?.len();
    if got > FILE_BYTES_MAX {
        return Err(ConfigError::TooLong { path: path.into(), got });
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let table: toml::Table =
        text.parse().map_err(|error| ConfigError::Toml { path: path.into(), error: Box::new(error) })?;
    table.into_iter().map(|(name, value)| entry(path, name, value)).collect()
}

fn entry(path: &Path, name: String, value: toml::Value) -> Result<(Key, String), ConfigError> {
    let Some(key) = Key::ALL.into_iter().find(|key| key.name() == name) else {
        return Err(ConfigError::UnknownKey { path: path.into(), got: name });
    };
    match value {
        toml::Value::String(text) => Ok((key, text)),
        toml::Value::Integer(number) => Ok((key, number.to_string())),
        other => Err(ConfigError::Type { path: path.into(), key: name, got: other.type_str() }),
    }
}
