//! receipts.md, section 2: trees of RFC 6962, section 2.1, and the cumulative tree.

use crate::golden::{Calls, cases};
use lockstep_base::Digest;
use lockstep_base::digest::{hex, unhex};
use lockstep_base::merkle::{self, Accumulator};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

/// RFC 6962, section 2.1, word for word: `MTH({}) = SHA-256()`, `MTH({d(0)}) = SHA-256(0x00 ‖ d(0))`,
/// `MTH(D[n]) = SHA-256(0x01 ‖ MTH(D[0:k]) ‖ MTH(D[k:n]))` with k the largest power of two below n.
fn mth(data: &[Vec<u8>]) -> Vec<u8> {
    match data {
        [] => Sha256::digest([]).to_vec(),
        [one] => Sha256::digest([&[0], one.as_slice()].concat()).to_vec(),
        _ => {
            let k = power_below(data.len());
            Sha256::digest([&[1][..], &mth(&data[..k]), &mth(&data[k..])].concat()).to_vec()
        }
    }
}

/// RFC 6962, section 2.1.1: `PATH(m, D[n])`.
fn audit_path(m: usize, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if data.len() <= 1 {
        return vec![];
    }
    let k = power_below(data.len());
    let (mut path, sibling) = if m < k {
        (audit_path(m, &data[..k]), mth(&data[k..]))
    } else {
        (audit_path(m - k, &data[k..]), mth(&data[..k]))
    };
    path.push(sibling);
    path
}

fn power_below(n: usize) -> usize {
    let mut k = 1;
    while 2 * k < n {
        k *= 2;
    }
    k
}

fn data(count: usize) -> Vec<Vec<u8>> {
    (0..count as u32).map(|i| i.to_be_bytes().to_vec()).collect()
}

fn hashes(data: &[Vec<u8>]) -> Vec<Digest> {
    data.iter().map(|content| merkle::leaf(content)).collect()
}

/// The inputs and roots of the reference implementation of certificate transparency
/// (`merkle_tree_test.cc` of google/certificate-transparency): roots of the first 1 to 8.
#[test]
fn roots_are_those_of_certificate_transparency() {
    let inputs =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let leaves: Vec<Digest> = inputs.iter().map(|input| merkle::leaf(&unhex(input).expect("hex"))).collect();
    assert_eq!(
        merkle::empty_root().hex(),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    for (count, root) in (1..).zip(roots) {
        assert_eq!(merkle::root(&leaves[..count]).hex(), root, "{count} leaves");
    }
}

#[test]
fn roots_and_paths_are_those_of_rfc_6962() {
    for count in 0..=70 {
        let data = data(count);
        let leaves = hashes(&data);
        assert_eq!(merkle::root(&leaves).0.to_vec(), mth(&data), "{count} leaves");
        for i in 0..count {
            let path = merkle::path(&leaves, i).expect("in range");
            let shown: Vec<Vec<u8>> = path.iter().map(|node| node.0.to_vec()).collect();
            assert_eq!(shown, audit_path(i, &data), "leaf {i} of {count}");
        }
        assert_eq!(merkle::path(&leaves, count), None);
    }
}

#[test]
fn trees_are_the_golden_ones() {
    let mut calls = Calls::default();
    calls.say("leaf i of n is merkle_leaf(i as four bytes, big-endian)");
    calls.call("merkle_leaf", &[&hex(&7u32.to_be_bytes())], &merkle::leaf(&7u32.to_be_bytes()));
    let (left, right) = (Digest([1; 32]), Digest([2; 32]));
    calls.call("merkle_node", &[&left, &right], &merkle::node(&left, &right));
    for count in [0, 1, 2, 3, 4, 5, 7, 8, 11, 32, 33, 100] {
        calls.call("merkle_root", &[&count], &merkle::root(&hashes(&data(count))));
    }
    for (count, i) in [(1, 0), (2, 1), (5, 4), (7, 3), (33, 32), (100, 99)] {
        let path = merkle::path(&hashes(&data(count)), i).expect("in range");
        let path: Vec<String> = path.iter().map(Digest::hex).collect();
        calls.call("merkle_path", &[&count, &i], &format!("[{}]", path.join(",")));
    }
    calls.check("merkle");
}

#[test]
fn the_accumulator_has_the_root_of_every_prefix() {
    let leaves = hashes(&data(300));
    let mut accumulator = Accumulator::default();
    assert_eq!(accumulator.root(), merkle::empty_root());
    for (i, leaf) in leaves.iter().enumerate() {
        accumulator.push(*leaf);
        assert_eq!(accumulator.count(), i as u64 + 1);
        assert_eq!(accumulator.root().0.to_vec(), mth(&data(i + 1)), "{} leaves", i + 1);
    }
}

#[test]
fn a_path_for_absurd_counts_is_refused_and_not_a_panic() {
    let leaf = Digest([3; 32]);
    let long = vec![Digest::ZERO; 1000];
    for count in [0, 1, 2, usize::MAX / 2, usize::MAX / 2 + 2, usize::MAX - 1, usize::MAX] {
        for index in [0, 1, count.saturating_sub(1), count, usize::MAX] {
            assert_eq!(merkle::root_of_path(leaf, index, count, &long), None, "{index} of {count}");
            if count != 1 {
                assert_eq!(merkle::root_of_path(leaf, index, count, &[]), None, "{index} of {count}");
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_path_verifies_exactly_for_its_leaf_and_its_index(
        count in 1usize..200, index: prop::sample::Index, wrong in 0usize..200,
        bit in 0usize..256, level: prop::sample::Index,
    ) {
        let leaves = hashes(&data(count));
        let index = index.index(count);
        let root = merkle::root(&leaves);
        let path = merkle::path(&leaves, index).expect("in range");
        prop_assert_eq!(merkle::root_of_path(leaves[index], index, count, &path), Some(root));

        if wrong != index {
            prop_assert_ne!(merkle::root_of_path(leaves[index], wrong, count, &path), Some(root));
            if wrong < count {
                prop_assert_ne!(merkle::root_of_path(leaves[wrong], index, count, &path), Some(root));
            }
        }
        let mut longer = path.clone();
        longer.push(root);
        prop_assert_eq!(merkle::root_of_path(leaves[index], index, count, &longer), None);
        if !path.is_empty() {
            prop_assert_eq!(merkle::root_of_path(leaves[index], index, count, &path[1..]), None);
            let mut changed = path.clone();
            let level = level.index(path.len());
            changed[level].0[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(merkle::root_of_path(leaves[index], index, count, &changed), Some(root));
        }
    }

    #[test]
    fn an_inner_node_is_no_leaf(count in 2usize..100) {
        // The two subtree roots, offered as the content of one leaf, do not give the root.
        let data = data(count);
        let k = power_below(count);
        let both = [mth(&data[..k]), mth(&data[k..])].concat();
        prop_assert_ne!(merkle::leaf(&both), merkle::root(&hashes(&data)));
    }
}
