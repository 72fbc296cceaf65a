//! Golden vectors: one call a line, `function argument … = result`, in hexadecimal. Arguments are in
//! the file, so that a program in another language can recompute the results.

use lockstep_base::digest::hex;
use proptest::test_runner::{Config, RngSeed};
use std::fmt::Write;
use std::path::PathBuf;

/// Lines of one golden file while a test computes them.
#[derive(Default)]
pub(crate) struct Calls(String);

impl Calls {
    /// A comment line.
    pub(crate) fn say(&mut self, text: &str) {
        writeln!(self.0, "# {text}").expect("a String takes everything");
    }

    /// One call and its result.
    pub(crate) fn call(&mut self, function: &str, arguments: &[&dyn ToString], result: &impl ToString) {
        let arguments: Vec<String> = arguments.iter().map(|argument| argument.to_string()).collect();
        writeln!(self.0, "{function} {} = {}", arguments.join(" "), result.to_string())
            .expect("a String takes everything");
    }

    /// Compares with `golden/<name>.txt`, or rewrites it under `LOCKSTEP_BLESS=1`.
    pub(crate) fn check(&self, name: &str) {
        let path = path(name);
        if std::env::var_os("LOCKSTEP_BLESS").is_some_and(|value| value == "1") {
            std::fs::write(&path, &self.0).expect("a golden file can be written");
            return;
        }
        let expected = read(name);
        for (number, (got, expected)) in self.0.lines().zip(expected.lines()).enumerate() {
            assert_eq!(got, expected, "{}:{} (LOCKSTEP_BLESS=1 rewrites it)", path.display(), number + 1);
        }
        assert_eq!(self.0.lines().count(), expected.lines().count(), "lines of {}", path.display());
    }
}

/// The text of `golden/<name>.txt`.
pub(crate) fn read(name: &str) -> String {
    let path = path(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(format!("{name}.txt"))
}

/// Bytes as an argument: hexadecimal, `-` for none at all.
pub(crate) fn arg(bytes: &[u8]) -> String {
    if bytes.is_empty() { "-".into() } else { hex(bytes) }
}

/// The bytes `first, first + 1, …`: secrets and digests that are told apart at sight.
pub(crate) fn counting<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|i| first.wrapping_add(i as u8))
}

/// Properties run the same cases everywhere; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` choose others.
pub(crate) fn cases(cases: u32) -> Config {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config
}
