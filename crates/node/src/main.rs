//! The one binary `lockstep`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lockstep_node::cli::main()
}
