//! receipts.md, section 1: node keys, addresses and compact signatures (EIP-2098, EIP-2).

use crate::golden::{cases, counting};
use lockstep_base::Digest;
use lockstep_base::cbor;
use lockstep_base::digest::unhex;
use lockstep_base::keys::{BadKey, CompactSignature, NodeId, NodeKey, id_of_public, keccak256};
use proptest::prelude::*;

/// Half of the order of secp256k1: the largest s that EIP-2 allows.
const HALF_ORDER: &str = "7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0";
/// The x coordinate of the generator: an r for which a point exists.
const GENERATOR_X: &str = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

fn key() -> NodeKey {
    NodeKey::from_bytes(&counting::<32>(1)).expect("a key")
}

/// The examples of EIP-2098: one key, two messages, their compact signatures.
#[test]
fn signatures_are_those_of_eip_2098() {
    let key = NodeKey::from_bytes(&unhex(&"1234567890".repeat(7)[..64]).expect("hex")).expect("a key");
    for (text, compact) in [
        (
            "Hello World",
            "68a020a209d3d56c46f38cc50a33f704f4a9a10a59377f8dd762ac66910e9b90\
                         7e865ad05c4035ab5792787d4a0297a43617ae897930a6fe4d822b8faea52064",
        ),
        (
            "It's a small(er) world",
            "9328da16089fcba9bececa81663203989f2df5fe1faa6291a45381c81bd17f76\
                                    939c6d6b623b42da56557e5e734a43dc83345ddfadec52cbe24d0cc64f550793",
        ),
    ] {
        let length = text.len().to_string();
        let hash = keccak256(&[b"\x19Ethereum Signed Message:\n", length.as_bytes(), text.as_bytes()]);
        let signature = key.sign(&hash);
        assert_eq!(signature.0.to_vec(), unhex(compact).expect("hex"));
        assert_eq!(signature.recover(&hash), Some(key.id()));
    }
}

#[test]
fn the_address_of_the_key_one_is_ethereums() {
    let mut one = [0; 32];
    one[31] = 1;
    let key = NodeKey::from_bytes(&one).expect("a key");
    assert_eq!(key.id().to_string(), "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf");
    assert_eq!(id_of_public(&key.public()), Some(key.id()));
}

#[test]
fn what_is_no_secret_key_is_refused() {
    let order = unhex("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141").expect("hex");
    for bytes in [&[][..], &[1; 31], &[1; 33], &[0; 32], &[0xff; 32], &order] {
        assert_eq!(NodeKey::from_bytes(bytes).unwrap_err(), BadKey { got: bytes.len() });
    }
}

#[test]
fn a_key_does_not_show_in_debug_output() {
    assert_eq!(format!("{:?}", key()), format!("NodeKey({})", key().id()));
    assert_eq!(*key().to_bytes(), counting::<32>(1));
}

#[test]
fn a_high_s_is_refused() {
    let hash = Digest::of(&[b"message"]);
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&unhex(GENERATOR_X).expect("hex"));
    bytes[32..].copy_from_slice(&unhex(HALF_ORDER).expect("hex"));
    assert!(CompactSignature(bytes).recover(&hash).is_some(), "the largest low s");
    bytes[63] += 1;
    assert_eq!(CompactSignature(bytes).recover(&hash), None, "EIP-2: one more is the smallest high s");
}

#[test]
fn degenerate_signatures_recover_nobody() {
    let hash = Digest::of(&[b"message"]);
    let signature = key().sign(&hash);
    let (zeros, ones) = ([0; 32], [0xff; 32]);
    for r in [&zeros, &ones] {
        let mut bytes = signature.0;
        bytes[..32].copy_from_slice(r);
        assert_eq!(CompactSignature(bytes).recover(&hash), None);
    }
    for s in [&zeros, &ones] {
        let mut bytes = signature.0;
        bytes[32..].copy_from_slice(s);
        assert_eq!(CompactSignature(bytes).recover(&hash), None);
    }
}

#[test]
fn what_is_no_point_has_no_address() {
    let point = key().public();
    for bytes in [&[][..], &point[..32], &[0; 33], &[2; 65], &[5; 33]] {
        assert_eq!(id_of_public(bytes), None);
    }
    let mut outside = point;
    outside[1..].copy_from_slice(&[0xff; 32]);
    assert_eq!(id_of_public(&outside), None, "x above the field");
}

#[test]
fn ids_and_signatures_have_one_length() {
    assert_eq!(cbor::decode::<NodeId>("id", &cbor::encode(&key().id())), Ok(key().id()));
    assert!(cbor::decode::<NodeId>("id", &[0x53; 20]).is_err(), "19 bytes");
    let signature = key().sign(&Digest::ZERO);
    let bytes = cbor::encode(&signature);
    assert_eq!(cbor::decode::<CompactSignature>("signature", &bytes), Ok(signature));
    assert!(cbor::decode::<CompactSignature>("signature", &bytes[..bytes.len() - 1]).is_err());
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn whoever_signed_is_recovered_and_nobody_else(
        secret in prop::array::uniform32(1u8..), hash: [u8; 32], bit in 0usize..512,
    ) {
        let key = NodeKey::from_bytes(&secret).expect("a key below the order");
        let hash = Digest(hash);
        let signature = key.sign(&hash);
        prop_assert_eq!(signature.recover(&hash), Some(key.id()));
        prop_assert_eq!(key.sign(&hash), signature, "RFC 6979: no randomness");

        let mut other = signature;
        other.0[bit / 8] ^= 1 << (bit % 8);
        prop_assert_ne!(other.recover(&hash), Some(key.id()));
        let mut hash = hash;
        hash.0[bit / 16] ^= 1 << (bit % 8);
        prop_assert_ne!(signature.recover(&hash), Some(key.id()));
    }

    #[test]
    fn random_signatures_never_panic(signature: [u8; 32], rest: [u8; 32], hash: [u8; 32]) {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&signature);
        bytes[32..].copy_from_slice(&rest);
        let _ = CompactSignature(bytes).recover(&Digest(hash));
    }
}
