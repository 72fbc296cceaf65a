//! receipts.md, section 7: receipts, state roots, the wire form.

use crate::golden::{Calls, cases, counting};
use lockstep_base::Digest;
use lockstep_base::digest::hex;
use lockstep_base::keys::{CompactSignature, NodeKey};
use lockstep_base::limits::SPAN_TOKENS;
use lockstep_base::part::Part;
use lockstep_base::receipt::{
    FLAG_CLOSING, FLAG_FULL_TRACE, FLAG_PROVABLE, PROVABLE_WIRE_BYTES, Receipt, WIRE_BYTES, WireError,
    WireReceipt, state_root,
};
use proptest::prelude::*;

/// A receipt whose digests are told apart at sight.
pub(crate) fn receipt(stage: u16, span: u32) -> Receipt {
    Receipt {
        task: Digest([0x01; 32]),
        model_root: Digest([0x02; 32]),
        opset: "lockstep-1".into(),
        part: Part::layers(u32::from(stage)..u32::from(stage) + 1, 2),
        stage,
        first_token: span * SPAN_TOKENS,
        token_count: SPAN_TOKENS,
        parameters: Digest([0x03; 32]),
        masks: Digest::ZERO,
        adapters: Digest::ZERO,
        sampler_seed: Digest([0x04; 32]),
        in_root: Digest([0x05; 32]),
        out_root: Digest([0x06; 32]),
        state_root: Digest([0x07; 32]),
        code: Digest::ZERO,
        previous: Digest::ZERO,
        audit_class: Digest::ZERO,
        flags: FLAG_FULL_TRACE,
        commit_in: Digest::ZERO,
        commit_out: Digest::ZERO,
    }
}

pub(crate) fn key(number: u8) -> NodeKey {
    NodeKey::from_bytes(&[number; 32]).expect("a key")
}

#[test]
fn state_roots_and_wire_forms_are_the_golden_ones() {
    let mut calls = Calls::default();
    let (kv, trace) = (Digest(counting(0)), Digest(counting(32)));
    calls.call("state", &[&kv, &trace], &state_root(&kv, &trace));
    for (stage, span) in [(0, 0), (1, 3), (u16::MAX, u32::MAX / SPAN_TOKENS)] {
        let mut receipt = receipt(0, 0);
        receipt.stage = stage;
        receipt.first_token = span * SPAN_TOKENS;
        let signed = receipt.sign(&key(9));
        let wire = signed.to_wire();
        calls.call(
            "wire",
            &[&wire.flags, &stage, &span, &wire.out_root, &wire.state_root, &hex(&wire.signature.0)],
            &hex(&wire.to_bytes()),
        );
    }
    calls.check("receipts");
}

/// The gateway knows everything that is not sent: put back, the signature holds; put back with
/// another in root (the chaining of roots), it does not.
#[test]
fn what_is_not_sent_is_bound_by_the_signature() {
    let node = key(9);
    let first = receipt(0, 0);
    let second = Receipt { in_root: first.out_root, ..receipt(1, 0) };
    let signed = second.clone().sign(&node);
    let wire = WireReceipt::from_bytes(&signed.to_wire().to_bytes()).expect("a wire receipt");

    let filled = |in_root| Receipt {
        stage: wire.stage,
        flags: wire.flags,
        first_token: wire.span * SPAN_TOKENS,
        out_root: wire.out_root,
        state_root: wire.state_root,
        in_root,
        ..second.clone()
    };
    assert_eq!(wire.signature.recover(&filled(first.out_root).signing_hash()), Some(node.id()));
    assert_ne!(wire.signature.recover(&filled(Digest([9; 32])).signing_hash()), Some(node.id()));
}

#[test]
fn a_wire_receipt_of_another_length_or_version_is_refused() {
    let bytes = receipt(0, 0).sign(&key(1)).to_wire().to_bytes();
    for length in [0, 1, WIRE_BYTES - 1] {
        assert_eq!(WireReceipt::from_bytes(&bytes[..length]), Err(WireError::Length { got: length }));
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(WireReceipt::from_bytes(&longer), Err(WireError::Length { got: WIRE_BYTES + 1 }));
    for version in [0, 2, 255] {
        let mut other = bytes.clone();
        other[0] = version;
        assert_eq!(WireReceipt::from_bytes(&other), Err(WireError::Version { got: version }));
    }
}

/// Section 7.4: a receipt with commitments is longer by that to what left, and its flag says so.
#[test]
fn commitments_travel_with_their_flag() {
    let mut provable = receipt(0, 1);
    provable.flags |= FLAG_CLOSING | FLAG_PROVABLE;
    (provable.commit_in, provable.commit_out) = (Digest([7; 32]), Digest([8; 32]));
    let wire = provable.clone().sign(&key(1)).to_wire();
    let bytes = wire.to_bytes();
    assert_eq!((bytes.len(), &bytes[WIRE_BYTES..]), (PROVABLE_WIRE_BYTES, &[8; 32][..]));
    assert_eq!(WireReceipt::from_bytes(&bytes), Ok(wire));
    let short = WireReceipt::from_bytes(&bytes[..WIRE_BYTES]);
    assert_eq!(short, Err(WireError::Length { got: WIRE_BYTES }));
    let mut without = bytes;
    without[1] ^= FLAG_PROVABLE;
    assert_eq!(WireReceipt::from_bytes(&without), Err(WireError::Length { got: PROVABLE_WIRE_BYTES }));
    provable.flags ^= FLAG_PROVABLE;
    assert_eq!(provable.sign(&key(1)).to_wire().commit_out, Digest::ZERO);
}

#[test]
fn the_closing_receipt_says_so_and_ends_do_not_wrap() {
    let mut last = receipt(0, 1);
    assert!(!last.closing());
    assert_eq!(last.end_token(), 64);
    last.flags |= FLAG_CLOSING;
    assert!(last.closing());
    last.first_token = u32::MAX;
    assert_eq!(last.end_token(), u32::MAX);
}

#[test]
fn keys_and_traces_do_not_change_places_in_a_state_root() {
    let (a, b) = (Digest([1; 32]), Digest([2; 32]));
    assert_ne!(state_root(&a, &b), state_root(&b, &a));
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn the_wire_form_survives_its_bytes(
        stage: u16, flags: u8, span: u32, out: [u8; 32], state: [u8; 32], r: [u8; 32], s: [u8; 32],
    ) {
        let signature = CompactSignature([r, s].concat().try_into().expect("64 bytes"));
        let commit_out = if flags & FLAG_PROVABLE == 0 { Digest::ZERO } else { Digest(out) };
        let wire = WireReceipt { stage, flags, span, out_root: Digest(out), state_root: Digest(state), commit_out, signature };
        prop_assert_eq!(WireReceipt::from_bytes(&wire.to_bytes()), Ok(wire));
    }

    #[test]
    fn accepted_wire_bytes_are_the_bytes_of_what_was_read(mut bytes: [[u8; 8]; 17], version in 0u8..3) {
        bytes[0][0] = version;
        bytes[0][1] &= !FLAG_PROVABLE;
        let bytes = bytes.concat();
        match WireReceipt::from_bytes(&bytes) {
            Ok(wire) => prop_assert_eq!(wire.to_bytes().to_vec(), bytes),
            Err(error) => prop_assert_eq!(error, WireError::Version { got: version }),
        }
    }
}
