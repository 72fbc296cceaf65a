//! receipts.md, section 1: digests, domain tags, hexadecimal.

use crate::golden::{Calls, arg, cases};
use lockstep_base::Digest;
use lockstep_base::digest::{domain_tag, hex, unhex};
use lockstep_base::keys::keccak256;
use proptest::prelude::*;

#[test]
fn digests_and_tags_are_the_golden_ones() {
    let mut calls = Calls::default();
    for bytes in [&b""[..], b"abc", &[0; 200]] {
        calls.call("sha256", &[&arg(bytes)], &Digest::of(&[bytes]));
        calls.call("keccak256", &[&arg(bytes)], &keccak256(&[bytes]));
    }
    for tag in ["lockstep/edge", "lockstep/stage", "lockstep/salt", "lockstep/leaf", "lockstep/state"] {
        calls.call("tag", &[&tag], &hex(&domain_tag(tag)));
        calls.call("tagged", &[&tag, &arg(b"abc")], &Digest::tagged(tag, &[b"abc"]));
    }
    calls.check("digests");
}

#[test]
fn parts_are_concatenated_before_hashing() {
    assert_eq!(Digest::of(&[b"ab", b"", b"c"]), Digest::of(&[b"abc"]));
    assert_eq!(keccak256(&[b"ab", b"c"]), keccak256(&[b"abc"]));
    assert_eq!(Digest::tagged("lockstep/leaf", &[b"ab", b"c"]), Digest::of(&[b"lockstep/leaf\0\0\0abc"]));
}

#[test]
#[should_panic(expected = "at most 16 bytes")]
fn a_tag_longer_than_its_field_is_a_programming_error() {
    let _ = domain_tag("lockstep/too-long");
}

#[test]
fn a_digest_reads_its_own_text_with_or_without_prefix_and_nothing_else() {
    let digest = Digest::of(&[b"abc"]);
    assert_eq!(Digest::from_hex(&digest.hex()), Some(digest));
    assert_eq!(Digest::from_hex(&format!("0x{digest}")), Some(digest));
    assert_eq!(Digest::from_hex(&digest.hex().to_uppercase()), Some(digest));
    assert_eq!(Digest::from_hex(&digest.hex()[2..]), None);
    assert_eq!(Digest::from_hex(&format!("{digest}00")), None);
    for text in ["0", "0x0", "zz", "0X00", "+1", " 1", "1 ", "é", "00é", "0x0x00"] {
        assert_eq!(unhex(text), None, "{text:?}");
    }
    assert_eq!(unhex("0x"), Some(vec![]));
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn unhex_inverts_hex(bytes: Vec<u8>) {
        prop_assert_eq!(unhex(&hex(&bytes)), Some(bytes));
    }

    #[test]
    fn unhex_never_panics(text: String) {
        if let Some(bytes) = unhex(&text) {
            prop_assert_eq!(hex(&bytes), text.trim_start_matches("0x").to_lowercase());
        }
    }
}
