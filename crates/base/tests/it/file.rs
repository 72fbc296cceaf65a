//! receipts.md, section 8: the receipt file.

use crate::golden::{Calls, counting};
use crate::receipts::{key, receipt};
use lockstep_base::Digest;
use lockstep_base::cbor::CborError;
use lockstep_base::digest::hex;
use lockstep_base::leaf::TaskSecret;
use lockstep_base::op::{Op, Place};
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_base::receipt::{FLAG_CLOSING, Receipt, SignedReceipt};
use lockstep_base::receipt_file::{
    MAGIC, ReceiptFile, ReceiptFileError, ServedLeaf, ServedSpan, StageRecord,
};

/// Two stages with two chained receipts each; the second stage served one span.
pub(crate) fn example() -> ReceiptFile {
    let stages = (0..2u16)
        .map(|stage| {
            let node = key(stage as u8 + 1);
            let first = receipt(stage, 0);
            let last = Receipt {
                previous: first.struct_hash(),
                token_count: 3,
                flags: first.flags | FLAG_CLOSING,
                ..receipt(stage, 1)
            };
            StageRecord {
                part: Part::layers(u32::from(stage)..u32::from(stage) + 1, 2),
                node: node.id(),
                receipts: [first, last].map(|receipt| receipt.sign(&node)).to_vec(),
                served: if stage == 0 { vec![] } else { vec![served()] },
            }
        })
        .collect();
    ReceiptFile {
        version: 1,
        model_root: Digest([0x02; 32]),
        task: Digest([0x01; 32]),
        secret: TaskSecret(counting(0xa0)),
        parameters: Parameters { stop: vec!["\n".into()], stop_tokens: vec![2], ..Parameters::greedy(4) },
        sampler_seed: Digest([0x04; 32]),
        prompt_tokens: 32,
        tokens: (0..36).map(|i| i * 1000).collect(),
        stages,
        earlier: None,
    }
}

fn served() -> ServedSpan {
    let leaf = |position, layer, op: Op, bytes: &[u8]| ServedLeaf {
        position,
        layer,
        op: op as u8,
        chunk: 0,
        bytes: bytes.to_vec(),
    };
    ServedSpan {
        first_token: 32,
        leaves: vec![leaf(32, 1, Op::KCodes, &[1, 2, 3]), leaf(32, 1, Op::Scores, &counting::<64>(0))],
    }
}

#[test]
fn the_file_is_the_golden_one() {
    let mut calls = Calls::default();
    calls.say("a receipt file, 32 bytes a line; check.py reads it and checks its signatures and its chain");
    for (line, bytes) in example().to_bytes().chunks(32).enumerate() {
        calls.call("file", &[&(line * 32)], &hex(bytes));
    }
    calls.check("receipt_file");
}

#[test]
fn a_file_survives_its_bytes_and_its_signatures_hold() {
    let file = example();
    let bytes = file.to_bytes();
    assert!(bytes.starts_with(MAGIC));
    let read = ReceiptFile::from_bytes(&bytes).expect("a receipt file");
    assert_eq!(read, file);
    for stage in &read.stages {
        let signers: Vec<_> = stage.receipts.iter().map(SignedReceipt::signer).collect();
        assert_eq!(signers, [Some(stage.node); 2]);
        assert_eq!(stage.receipts[1].receipt.previous, stage.receipts[0].receipt.struct_hash());
    }
}

#[test]
fn other_magic_another_version_and_other_content_are_refused() {
    let bytes = example().to_bytes();
    let magic = |got: &[u8]| Err(ReceiptFileError::Magic { got: got.to_vec() });
    assert_eq!(ReceiptFile::from_bytes(&[]), magic(&[]));
    assert_eq!(ReceiptFile::from_bytes(b"LSRCPT"), magic(b"LSRCPT"));
    assert_eq!(ReceiptFile::from_bytes(b"GGUF\x03\0\0\0more"), magic(b"GGUF\x03\0\0\0"));

    let version = ReceiptFile { version: 2, ..example() };
    assert_eq!(ReceiptFile::from_bytes(&version.to_bytes()), Err(ReceiptFileError::Version { got: 2 }));

    let trailing = [&bytes[..], &[0]].concat();
    let error = ReceiptFile::from_bytes(&trailing).expect_err("a trailing byte");
    assert!(matches!(error, ReceiptFileError::Cbor(CborError::NotCanonical { .. })), "{error}");
    let error = ReceiptFile::from_bytes(&bytes[..bytes.len() - 1]).expect_err("cut short");
    assert!(matches!(error, ReceiptFileError::Cbor(CborError::Malformed { .. })), "{error}");
}

#[test]
fn a_served_leaf_of_an_unknown_op_has_no_index() {
    let mut leaf = served().leaves.remove(0);
    let place = Place { position: 32, layer: 1, op: Op::KCodes };
    assert_eq!(leaf.index().map(|index| (index.place, index.chunk)), Some((place, 0)));
    leaf.op = Op::ALL.len() as u8;
    assert_eq!(leaf.index(), None);
}
