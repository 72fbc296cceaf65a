//! The one binary `lockstep`.
fn main() {}
