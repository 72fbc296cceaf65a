//! receipts.md, section 1: only the one deterministic encoding (RFC 8949, section 4.2) is accepted.

use crate::file::example;
use crate::golden::cases;
use lockstep_base::Digest;
use lockstep_base::cbor::{self, CborError};
use lockstep_base::config::{FeedForward, ModelConfig, Positions};
use lockstep_base::digest::unhex;
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_base::receipt_file::{MAGIC, ReceiptFile};
use proptest::prelude::*;

/// What the reader says: accepted, another encoding of something it understands, or nothing of it.
#[derive(Debug, PartialEq)]
enum Says {
    Yes,
    NotCanonical,
    Malformed,
}

fn says<T: minicbor::Encode<()> + for<'b> minicbor::Decode<'b, ()>>(text: &str) -> Says {
    let bytes = unhex(&text.replace([' ', '|'], "")).expect("hex");
    match cbor::decode::<T>("test value", &bytes) {
        Ok(_) => Says::Yes,
        Err(CborError::NotCanonical { .. }) => Says::NotCanonical,
        Err(_) => Says::Malformed,
    }
}

#[test]
fn a_part_has_one_encoding() {
    use Says::{Malformed, NotCanonical, Yes};
    for (why, text, expected) in [
        ("the one encoding", "86 f4 02 04 f4 00 01", Yes),
        ("an integer in one byte more", "86 f4 1802 04 f4 00 01", NotCanonical),
        ("an integer in two bytes more", "86 f4 190002 04 f4 00 01", NotCanonical),
        ("an integer in four bytes more", "86 f4 1a00000002 04 f4 00 01", NotCanonical),
        ("an integer in eight bytes more", "86 f4 1b0000000000000002 04 f4 00 01", NotCanonical),
        ("an array length in one byte more", "9806 f4 02 04 f4 00 01", NotCanonical),
        ("an array of indefinite length", "9f f4 02 04 f4 00 01 ff", NotCanonical),
        ("a trailing byte", "86 f4 02 04 f4 00 01 00", NotCanonical),
        ("a field too many", "87 f4 02 04 f4 00 01 00", NotCanonical),
        ("a field too few", "85 f4 02 04 f4 00", Malformed),
        ("a length that is not there", "87 f4 02 04 f4 00 01", Malformed),
        ("cut short", "86 f4 02 04 f4 00", Malformed),
        ("nothing", "", Malformed),
        ("a number for a truth", "86 00 02 04 f4 00 01", Malformed),
        ("a float for a number", "86 f4 f94000 04 f4 00 01", Malformed),
        ("a negative number", "86 f4 20 04 f4 00 01", Malformed),
        ("more than 32 bits", "86 f4 1b0000000100000000 04 f4 00 01", Malformed),
        ("more than 16 bits", "86 f4 02 04 f4 1a00010000 01", Malformed),
        ("a tag", "c1 86 f4 02 04 f4 00 01", Malformed),
        ("a map", "a6 00f4 0102 0204 03f4 0400 0501", Malformed),
        ("null", "f6", Malformed),
    ] {
        assert_eq!(says::<Part>(text), expected, "{why}");
    }
    assert_eq!(cbor::encode(&Part::layers(2..4, 5)), unhex("86f40204f40001").expect("hex"));
}

#[test]
fn texts_and_byte_strings_have_one_encoding() {
    use Says::{Malformed, NotCanonical, Yes};
    for (why, text, expected) in [
        ("no stops", "86 00 00 1a00010000 05 80 80", Yes),
        ("one stop", "86 00 00 1a00010000 05 80 81 6161", Yes),
        ("a text with a long length", "86 00 00 1a00010000 05 80 81 780161", NotCanonical),
        ("a list of indefinite length", "86 00 00 1a00010000 05 9fff 80", NotCanonical),
        ("a text in pieces", "86 00 00 1a00010000 05 80 81 7f6161ff", Malformed),
        ("bytes for a text", "86 00 00 1a00010000 05 80 81 4161", Malformed),
        ("a text that is not UTF-8", "86 00 00 1a00010000 05 80 81 61ff", Malformed),
    ] {
        assert_eq!(says::<Parameters>(text), expected, "{why}");
    }
    let zeros = "00".repeat(32);
    for (why, text, expected) in [
        ("32 bytes", format!("5820{zeros}"), Yes),
        ("a length in two bytes", format!("590020{zeros}"), NotCanonical),
        ("31 bytes", format!("581f{}", &zeros[2..]), Malformed),
        ("33 bytes", format!("5821{zeros}00"), Malformed),
        ("in pieces", format!("5f5820{zeros}ff"), Malformed),
        ("an array of numbers", format!("9820{zeros}"), Malformed),
    ] {
        assert_eq!(says::<Digest>(&text), expected, "{why}");
    }
}

#[test]
fn an_absent_number_is_null_and_never_left_out() {
    let config = |bos| ModelConfig {
        opset: "lockstep-1".into(),
        name: "m".into(),
        n_layers: 1,
        d_model: 2,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 2,
        d_ffn: 2,
        vocab: 3,
        context: 4,
        residual_frac: 8,
        norm_eps: 1,
        positions: Positions::Rope,
        feed_forward: FeedForward::Gated,
        bos,
        eos: vec![2],
        ..ModelConfig::decoder()
    };
    for bos in [None, Some(1)] {
        let bytes = cbor::encode(&config(bos));
        assert_eq!(bytes[..2], [0x98, 26], "always 26 fields");
        // After it: one token, nine numbers and kinds, one pattern of three fields.
        let after_bos = 2 + 9 + 5;
        assert_eq!(bytes[bytes.len() - 1 - after_bos], if bos.is_none() { 0xf6 } else { 1 });
        assert_eq!(cbor::decode::<ModelConfig>("configuration", &bytes), Ok(config(bos)));
    }
}

/// Whatever is accepted encodes to the same bytes: a file cannot be had in two forms.
#[test]
fn no_change_of_one_byte_of_a_file_is_a_second_encoding() {
    let bytes = example().to_bytes();
    let original = example();
    for at in MAGIC.len()..bytes.len() {
        for change in [1, 0x20, 0x40, 0x80, 0xff] {
            let mut other = bytes.clone();
            other[at] ^= change;
            if let Ok(file) = ReceiptFile::from_bytes(&other) {
                assert_eq!(file.to_bytes(), other, "byte {at}");
                assert_ne!(file, original, "byte {at}");
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn accepted_bytes_are_the_encoding_of_what_was_read(bytes: Vec<u8>) {
        if let Ok(value) = cbor::decode::<Parameters>("parameters", &bytes) {
            prop_assert_eq!(cbor::encode(&value), bytes.clone());
        }
        if let Ok(value) = cbor::decode::<Part>("part", &bytes) {
            prop_assert_eq!(cbor::encode(&value), bytes);
        }
    }

    #[test]
    fn parts_survive_their_encoding(
        embed: bool, first_layer: u32, end_layer: u32, head: bool, shard: u16, shards: u16,
    ) {
        let part = Part { embed, first_layer, end_layer, head, shard, shards };
        prop_assert_eq!(cbor::decode::<Part>("part", &cbor::encode(&part)), Ok(part));
    }
}
