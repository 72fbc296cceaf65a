//! receipts.md, section 4: secrets, salts and leaves.

use crate::golden::{Calls, arg, cases, counting};
use lockstep_base::Digest;
use lockstep_base::digest::hex;
use lockstep_base::leaf::{LeafIndex, TaskSecret, leaf_hash, leaves, opened_leaf_hash, salt};
use lockstep_base::limits::LEAF_BYTES_MAX;
use lockstep_base::op::{LAYER_EMBED, LAYER_HEAD, Op, Place};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn index(position: u32, layer: u16, op: Op, chunk: u32) -> LeafIndex {
    LeafIndex { place: Place { position, layer, op }, chunk }
}

#[test]
fn secrets_salts_and_leaves_are_the_golden_ones() {
    let mut calls = Calls::default();
    let task = TaskSecret(counting(0));
    let shown = hex(&task.0);
    for stage in [0, 1, 2, 63] {
        let secrets = task.stage(stage);
        calls.call("edge", &[&shown, &stage], &secrets.input);
        calls.call("edge", &[&shown, &(stage + 1)], &secrets.output);
        calls.call("stage", &[&shown, &stage], &secrets.own);
    }
    let secret = task.stage(0).input;
    for (index, bytes) in [
        (index(0, LAYER_EMBED, Op::Token, 0), 1u32.to_le_bytes().to_vec()),
        (index(31, LAYER_HEAD, Op::Sample, 0), vec![]),
        (index(32, 7, Op::Boundary, 3), counting::<200>(9).to_vec()),
        (index(u32::MAX, 1023, Op::AttnPartial, u32::MAX), vec![0xff; LEAF_BYTES_MAX]),
    ] {
        let place = index.place;
        let number = place.op as u8;
        calls.call("index", &[&place.position, &place.layer, &number, &index.chunk], &hex(&index.bytes()));
        let salt = salt(&secret, &index);
        calls.call("salt", &[&secret, &hex(&index.bytes())], &hex(&salt));
        let leaf = leaf_hash(&secret, &index, &bytes);
        calls.call("leaf", &[&hex(&salt), &hex(&index.bytes()), &arg(&bytes)], &leaf);
    }
    calls.check("leaves");
}

#[test]
fn op_ids_are_the_golden_ones() {
    let mut calls = Calls::default();
    for op in Op::ALL {
        let output = format!("{:?}", op.output());
        calls.call("op", &[&op.name()], &format!("{} {output}", *op as u8));
        assert_eq!(Op::from_id(*op as u8), Some(*op));
    }
    assert_eq!(Op::ALL.len(), (0..=u8::MAX).filter_map(Op::from_id).count());
    calls.check("ops");
}

#[test]
fn neighbours_share_the_secret_of_the_edge_between_them_and_no_other() {
    let task = TaskSecret(counting(7));
    let mut seen = BTreeSet::new();
    for stage in 0..64 {
        let (this, next) = (task.stage(stage), task.stage(stage + 1));
        assert_eq!(this.output, next.input);
        seen.insert(this.input);
        seen.insert(this.own);
    }
    assert_eq!(seen.len(), 2 * 64, "one edge secret and one own secret a stage, all different");
}

#[test]
fn an_output_is_cut_into_leaves_of_2048_bytes_and_none_is_one_empty_leaf() {
    let secret = Digest::of(&[b"stage"]);
    let place = Place { position: 5, layer: 2, op: Op::Boundary };
    for (bytes, lengths) in [
        (0, vec![0]),
        (1, vec![1]),
        (2048, vec![2048]),
        (2049, vec![2048, 1]),
        (3 * 2048, vec![2048, 2048, 2048]),
    ] {
        let output: Vec<u8> = (0..bytes).map(|i| i as u8).collect();
        let cut: Vec<_> = leaves(&secret, place, 4, &output).collect();
        assert_eq!(cut.iter().map(|(_, bytes, _)| bytes.len()).collect::<Vec<_>>(), lengths);
        for (i, (index, bytes, hash)) in cut.iter().enumerate() {
            assert_eq!(*index, LeafIndex { place, chunk: 4 + i as u32 });
            assert_eq!(*hash, leaf_hash(&secret, index, bytes));
        }
        assert_eq!(cut.iter().flat_map(|(_, bytes, _)| bytes.to_vec()).collect::<Vec<_>>(), output);
    }
}

#[test]
#[should_panic(expected = "at most 2048 bytes")]
fn a_leaf_is_never_longer_than_its_limit() {
    let _ = leaf_hash(&Digest::ZERO, &index(0, 0, Op::Embed, 0), &[0; LEAF_BYTES_MAX + 1]);
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let task = TaskSecret(counting(1));
    assert_eq!(format!("{task:?} {:?}", task.stage(0)), "TaskSecret(..) StageSecrets(..)");
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn an_opened_leaf_binds_its_salt_its_place_and_its_bytes(
        secret: [u8; 32], position: u32, layer: u16, op in 0..Op::ALL.len(), chunk: u32,
        bytes in prop::collection::vec(any::<u8>(), 1..64), bit in 0usize..8 * 16,
    ) {
        let secret = Digest(secret);
        let here = index(position, layer, Op::ALL[op], chunk);
        let shown = salt(&secret, &here);
        let leaf = leaf_hash(&secret, &here, &bytes);
        prop_assert_eq!(leaf, opened_leaf_hash(&shown, &here, &bytes));

        let mut other_salt = shown;
        other_salt[bit / 8] ^= 1 << (bit % 8);
        prop_assert_ne!(leaf, opened_leaf_hash(&other_salt, &here, &bytes));
        let mut other_bytes = bytes.clone();
        other_bytes[bit % bytes.len()] ^= 1;
        prop_assert_ne!(leaf, opened_leaf_hash(&shown, &here, &other_bytes));
        prop_assert_ne!(leaf, opened_leaf_hash(&shown, &here, &[&bytes[..], &[0]].concat()));
        for there in [
            index(position ^ 1, layer, Op::ALL[op], chunk),
            index(position, layer ^ 1, Op::ALL[op], chunk),
            index(position, layer, Op::ALL[(op + 1) % Op::ALL.len()], chunk),
            index(position, layer, Op::ALL[op], chunk ^ 1),
        ] {
            prop_assert_ne!(here.bytes(), there.bytes());
            prop_assert_ne!(leaf, opened_leaf_hash(&shown, &there, &bytes));
            prop_assert_ne!(shown, salt(&secret, &there));
        }
    }
}
