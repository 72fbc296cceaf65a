//! `lockstep config`: what is set, and by whom.

use super::CommandResult;
use super::compute::ComputeArgs;
use crate::config::{Config, Key, Setting};
use crate::output::table;
use serde_json::{Map, Value, json};
use std::io::{Write as _, stdout};

/// Settings: a TOML file, then LOCKSTEP_* variables, then flags.
#[derive(Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Show every setting with its value and where it came from
    ///
    /// A file (config.toml in LOCKSTEP_HOME, or in the platform's configuration directory) comes
    /// first, then LOCKSTEP_BUNDLE, LOCKSTEP_THREADS, LOCKSTEP_KERNEL and LOCKSTEP_LISTEN, then
    /// flags; the last one that says something counts.
    ///
    /// Examples:
    ///   lockstep config show
    ///   LOCKSTEP_KERNEL=scalar lockstep config show --threads 2 --json
    #[command(verbatim_doc_comment)]
    Show {
        /// Flags, which count before everything else
        #[command(flatten)]
        compute: ComputeArgs,
        /// One JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub fn run(command: ConfigCommand) -> CommandResult {
    let ConfigCommand::Show { compute, json } = command;
    let config = Config::load()?;
    let flag = |key| match key {
        Key::Threads => compute.threads.map(|threads| threads.to_string()),
        Key::Kernel => compute.kernel.clone(),
        Key::Bundle | Key::Listen => None,
    };
    let settings = Key::ALL.map(|key| (key, config.get(key, flag(key))));
    if json {
        let entry = |(key, setting): &(Key, Setting)| {
            (key.name().to_owned(), json!({ "value": setting.value, "origin": setting.origin.to_string() }))
        };
        writeln!(stdout(), "{}", Value::Object(settings.iter().map(entry).collect::<Map<_, _>>()))?;
        return Ok(());
    }
    let mut rows = vec![vec!["setting".into(), "value".into(), "from".into()]];
    rows.extend(
        settings
            .into_iter()
            .map(|(key, setting)| vec![key.name().into(), setting.value, setting.origin.to_string()]),
    );
    write!(stdout(), "{}", table(&rows))?;
    match config.path() {
        Some(path) if path.is_file() => writeln!(stdout(), "file: {}", path.display())?,
        Some(path) => writeln!(stdout(), "file: {} (does not exist)", path.display())?,
        None => writeln!(stdout(), "file: none (no home directory)")?,
    }
    Ok(())
}

/// What is wrong with a value, and who set it.
pub(super) fn invalid(key: Key, setting: &Setting, expected: &str) -> String {
    format!("{} = {:?} (from: {}), expected {expected}", key.name(), setting.value, setting.origin)
}
