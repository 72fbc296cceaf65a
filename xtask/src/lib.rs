//! Tidy checks of the repository, as tests: `cargo test -p lockstep-xtask`.
//!
//! What ARCHITECTURE.md and CONTRIBUTING.md promise about the sources is checked here, so that no
//! reviewer has to. The checks are in `tests/it/`; this library reads what they look at. Each check
//! is also run on a small text that breaks it: a check that finds nothing ever is not one.
//!
//! # Layout
//! - [`repo`]: the files of the repository
//! - [`code`]: Rust sources without comments and texts, and what stands in them
//! - [`markdown`]: links, headings and code of documents
//! - [`packages`]: the workspace's crates and what they depend on

pub mod code;
pub mod markdown;
pub mod packages;
pub mod repo;
