//! Bytes from outside never panic and never make the reader allocate what they only announce.

use crate::file::example;
use crate::golden::cases;
use lockstep_base::cbor;
use lockstep_base::config::ModelConfig;
use lockstep_base::manifest::Entry;
use lockstep_base::receipt::WireReceipt;
use lockstep_base::receipt_file::{MAGIC, ReceiptFile};
use lockstep_base::rng::SplitMix64;
use proptest::prelude::*;

#[test]
fn every_truncation_of_a_file_is_refused() {
    let bytes = example().to_bytes();
    for length in 0..bytes.len() {
        assert!(ReceiptFile::from_bytes(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
}

#[test]
fn ten_thousand_damaged_files_never_panic() {
    let bytes = example().to_bytes();
    for seed in 0..10_000 {
        let mut rng = SplitMix64::new(seed);
        let mut damaged = bytes.clone();
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(damaged.len() as u64) as usize;
            match rng.below(4) {
                0 => damaged[at] = rng.next_u64() as u8,
                1 => damaged.insert(at, rng.next_u64() as u8),
                2 => drop(damaged.remove(at)),
                _ => damaged.truncate(at.max(1)),
            }
        }
        if let Ok(file) = ReceiptFile::from_bytes(&damaged) {
            assert_eq!(file.to_bytes(), damaged, "seed {seed}");
            for signed in file.stages.iter().flat_map(|stage| &stage.receipts) {
                let _ = (signed.signer(), signed.to_wire(), signed.receipt.end_token());
            }
            for leaf in file.stages.iter().flat_map(|stage| &stage.served).flat_map(|span| &span.leaves) {
                let _ = leaf.index();
            }
        }
    }
}

/// Lengths of up to 2^64 - 1 that are announced and not there. A reader that trusted them would not
/// come back from here.
#[test]
fn announced_lengths_are_not_believed() {
    for header in [
        &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..],
        &[0x9b, 0, 0, 0, 1, 0, 0, 0, 0],
        &[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x7b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ] {
        // In the place of the whole file, of its list of tokens (field 7), and of a leaf's bytes.
        assert!(ReceiptFile::from_bytes(&[MAGIC, header].concat()).is_err());
        let mut prefix = MAGIC.to_vec();
        let whole = example().to_bytes();
        let tokens = cbor::encode(&example().tokens);
        let at = whole.windows(tokens.len()).position(|window| window == tokens).expect("the tokens");
        prefix.extend_from_slice(&whole[MAGIC.len()..at]);
        prefix.extend_from_slice(header);
        assert!(ReceiptFile::from_bytes(&prefix).is_err());
    }
}

/// A field too many is skipped before the comparison refuses it: skipping must not recurse.
#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let whole = example().to_bytes();
    for opener in [0x81u8, 0x9f, 0xc1] {
        let mut bytes = MAGIC.to_vec();
        bytes.push(0x8a); // ten fields, one more than a file has
        bytes.extend_from_slice(&whole[MAGIC.len() + 1..]);
        bytes.extend(std::iter::repeat_n(opener, 2_000_000));
        bytes.push(0);
        assert!(ReceiptFile::from_bytes(&bytes).is_err(), "{opener:#x}");
    }
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>) {
        prop_assert!(ReceiptFile::from_bytes(&bytes).is_err());
        prop_assert!(ReceiptFile::from_bytes(&[MAGIC, bytes.as_slice()].concat()).is_err());
        prop_assert!(WireReceipt::from_bytes(&bytes).is_err() || [136, 168].contains(&bytes.len()));
        let _ = cbor::decode::<Entry>("entry", &bytes);
        if let Ok(config) = cbor::decode::<ModelConfig>("configuration", &bytes) {
            let _ = config.validate();
        }
    }
}
