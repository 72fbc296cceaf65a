//! The bytes of proofs, pinned: a changed golden file is a changed protocol (proofs.md, 2 and 5).

use crate::support::{compute, dense, inputs};
use lockstep_base::Digest;
use lockstep_base::rng::SplitMix64;
use lockstep_proof::net::prove;
use std::fmt::Write;

/// Rewritten by `LOCKSTEP_BLESS=1`.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/golden/proofs.txt");

/// Seed, widths, examples.
const CASES: [(u64, &[usize], usize); 4] =
    [(1, &[4, 1], 1), (2, &[4, 6, 3], 3), (3, &[3, 4, 5, 2], 2), (4, &[8, 16, 4], 100)];

#[test]
fn proofs_have_the_same_bytes() {
    let mut text = String::from("# seed widths examples: bytes, SHA-256 of the file\n");
    for (seed, widths, examples) in CASES {
        let mut rng = SplitMix64::new(seed);
        let net = dense(&mut rng, widths);
        let input = inputs(&mut rng, &net, examples);
        let (_, proof) = prove(&compute(), &net, &input).expect("a proof");
        let bytes = proof.as_bytes();
        writeln!(text, "{seed} {widths:?} {examples}: {}, {}", bytes.len(), Digest::of(&[bytes]))
            .expect("writing to a String");
    }
    if std::env::var_os("LOCKSTEP_BLESS").is_some() {
        std::fs::write(FILE, &text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(FILE).expect("the golden file is there");
    assert_eq!(text, golden, "LOCKSTEP_BLESS=1 rewrites it");
}
