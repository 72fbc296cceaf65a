//! Checks the proof of an answer with a model's key: a program of its own, that knows neither the runtime nor any weights.
//!
//! ```text
//! lockstep-verify KEY PROOF      0 the proof holds: its claim is printed, tokens as numbers
//!                                1 it does not, or a file is none      2 other arguments
//! ```
//!
//! `lockstep verify-proof` does the same and more. This one is for who wants to read all that they trust: `cargo build -p lockstep-proof --no-default-features --bin lockstep-verify` builds nothing else.
//! It refuses files that have proofs of only some stages: whoever drew them is not asked here.

use lockstep_proof::file::{AnswerFile, Claimed, FILE_BYTES_MAX};
use lockstep_proof::key::{KEY_BYTES_MAX, Key};
use std::io::Read as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [key, proof] = &arguments[..] else {
        eprintln!("usage: lockstep-verify KEY PROOF");
        return ExitCode::from(2);
    };
    match verified(key, proof) {
        Ok(file) => {
            print(&file);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("NOT verified: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The file, if its proof holds with the key.
fn verified(key: &str, proof: &str) -> Result<AnswerFile, String> {
    let key = Key::from_bytes(&read(key, KEY_BYTES_MAX)?).map_err(|error| format!("{key}: {error}"))?;
    let named = |error: &dyn core::fmt::Display| format!("{proof}: {error}");
    let file = AnswerFile::from_bytes(&read(proof, FILE_BYTES_MAX)?).map_err(|error| named(&error))?;
    if file.sample.is_some() {
        return Err(named(&"proofs of only some stages, expected all of them"));
    }
    file.verify_with_key(&key).map_err(|error| named(&error))?;
    Ok(file)
}

/// A file of at most so many bytes. A pipe or a device tells no length: one byte more is read, at most.
fn read(path: &str, limit: usize) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| format!("{path}: {error}"))?;
    file.take(limit as u64 + 1).read_to_end(&mut content).map_err(|error| format!("{path}: {error}"))?;
    Ok(content)
}

fn print(file: &AnswerFile) {
    println!("verified: model {}", file.root);
    if let Some(adapter) = file.adapter {
        println!("adapter {adapter}");
    }
    println!("prompt  {:?}", file.prompt());
    match &file.claimed {
        Claimed::Greedy => println!("answer  {:?}, greedily", file.answer()),
        Claimed::Sampled(sampling) => println!("answer  {:?}, drawn: {sampling:?}", file.answer()),
        Claimed::Pooled(vector) => println!("vector  {vector:?}"),
    }
}
