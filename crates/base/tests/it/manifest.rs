//! receipts.md, section 3: row trees, entries, the model root.

use crate::golden::{Calls, arg, counting};
use lockstep_base::Digest;
use lockstep_base::cbor;
use lockstep_base::digest::hex;
use lockstep_base::limits::MANIFEST_ENTRIES_MAX;
use lockstep_base::manifest::{
    BLOB_CHUNK_BYTES, Entry, EntryKind, ManifestError, blob_root, embedding_root, linear_root, model_root,
};
use lockstep_base::merkle;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{Embedding, GROUP_COLS, Linear, Region, WeightFormat, code_offset, id_index};

fn entries() -> Vec<Entry> {
    let linear = EntryKind::Linear { rows: 300, cols: 64, bits: 4, pre_shift: 7, out_frac: -2, bias: true };
    let embedding = EntryKind::Embedding { rows: 512, cols: 70_000, frac: 14 };
    [("config", EntryKind::Blob), ("embed", embedding), ("layers.0003.q", linear)]
        .into_iter()
        .zip(1u64..)
        .map(|((name, kind), i)| Entry {
            name: name.into(),
            kind,
            bytes: i << 20,
            root: Digest(counting(i as u8)),
        })
        .collect()
}

#[test]
fn entries_and_roots_are_the_golden_ones() {
    let mut calls = Calls::default();
    let entries = entries();
    for entry in &entries {
        let kind = match entry.kind {
            EntryKind::Blob => "[0,[]]".to_owned(),
            EntryKind::Embedding { rows, cols, frac } => format!("[1,[{rows},{cols},{frac}]]"),
            EntryKind::Linear { rows, cols, bits, pre_shift, out_frac, bias } => {
                format!("[2,[{rows},{cols},{bits},{pre_shift},{out_frac},{bias}]]")
            }
        };
        let name = hex(entry.name.as_bytes());
        calls.call("entry", &[&name, &kind, &entry.bytes, &entry.root], &hex(&cbor::encode(entry)));
    }
    calls.say("the model root over the three entries above");
    let leaves: Vec<String> = entries.iter().map(|entry| entry.leaf().hex()).collect();
    let root = model_root(&entries).expect("a manifest");
    calls.call("merkle_root_of", &[&format!("[{}]", leaves.join(","))], &root);
    calls.say("bytes without rows: n bytes 0, 1, 2, … under leaves of 4096");
    for count in [0, 1, 4096, 4097, 10_000] {
        let bytes: Vec<u8> = (0..count).map(|i| i as u8).collect();
        calls.call("blob_root", &[&count], &blob_root(&bytes));
    }
    calls.say("rows of linear layers: m, s, bias, codes, table ids");
    for (format, bias) in
        [(WeightFormat::Int8, false), (WeightFormat::Int8, true), (WeightFormat::Int4, true)]
    {
        let (linear, _) = linear(format, 6, 64, bias, 1);
        for row in [0, 5] {
            let bits = if format == WeightFormat::Int8 { 8 } else { 4 };
            let bias = linear.bias.get(row).map_or("none".into(), i32::to_string);
            let codes: Vec<u8> = logical_codes(&linear, row);
            let ids: Vec<String> = match format {
                WeightFormat::Int8 | WeightFormat::Int16 => vec![],
                WeightFormat::Int4 => (0..2).map(|group| linear.table_id(row, group).to_string()).collect(),
            };
            calls.call(
                "row",
                &[
                    &bits,
                    &linear.multipliers[row],
                    &linear.shifts[row],
                    &bias,
                    &arg(&codes),
                    &format!("[{}]", ids.join(",")),
                ],
                &hex(&linear.row_bytes(row)),
            );
        }
    }
    calls.check("manifest");
}

/// What a row stores, in column order: int8 codes, or one nibble a column.
fn logical_codes(linear: &Linear, row: usize) -> Vec<u8> {
    (0..linear.cols)
        .map(|col| {
            let byte = linear.codes[linear.code_offset(row, col)];
            match linear.format {
                WeightFormat::Int8 | WeightFormat::Int16 => byte,
                WeightFormat::Int4 if col % GROUP_COLS < 16 => byte & 15,
                WeightFormat::Int4 => byte >> 4,
            }
        })
        .collect()
}

/// A seeded layer, and the int8 meaning of its weights `(rows, cols)`.
fn linear(format: WeightFormat, rows: usize, cols: usize, bias: bool, seed: u64) -> (Linear, Vec<Vec<i8>>) {
    let mut rng = SplitMix64::new(seed);
    let tables = tables();
    let mut codes = vec![0u8; format.code_bytes(rows, cols)];
    let mut ids = vec![0u8; format.id_bytes(rows, cols)];
    let mut meaning = vec![vec![0i8; cols]; rows];
    for row in 0..rows {
        for col in 0..cols {
            let at = code_offset(format, cols, row, col);
            match format {
                WeightFormat::Int8 | WeightFormat::Int16 => {
                    meaning[row][col] = rng.below(255) as i8;
                    codes[at] = meaning[row][col] as u8;
                }
                WeightFormat::Int4 => {
                    let (group, id_at) = (col / GROUP_COLS, 2 * id_index(cols, row, col / GROUP_COLS));
                    let id = (row + group) % tables.len();
                    ids[id_at..id_at + 2].copy_from_slice(&(id as u16).to_le_bytes());
                    let nibble = rng.below(16) as u8;
                    codes[at] |= if col % GROUP_COLS < 16 { nibble } else { nibble << 4 };
                    meaning[row][col] = tables[id][usize::from(nibble)];
                }
            }
        }
    }
    let linear = Linear {
        rows,
        cols,
        format,
        codes: Region::from(codes),
        table_ids: Region::from(ids),
        multipliers: (0..rows).map(|row| 1 + row as u8).collect(),
        shifts: (0..rows).map(|row| 20 + row as u8).collect(),
        bias: if bias { (0..rows).map(|row| row as i32 * 1000 - 2500).collect() } else { vec![] },
        pre_shift: 5,
        out_frac: 10,
    };
    (linear, meaning)
}

fn tables() -> Vec<[i8; 16]> {
    (1..=4i8).map(|step| std::array::from_fn(|i| step * (i as i8 - 8))).collect()
}

/// The packed order is a permutation: every column of every row has its own place, and reading the
/// place back gives the weight that was meant.
#[test]
fn packed_matrices_mean_what_was_packed() {
    for format in [WeightFormat::Int8, WeightFormat::Int4] {
        for (rows, cols) in [(1, 32), (4, 64), (6, 96), (9, 128)] {
            let (linear, meaning) = linear(format, rows, cols, false, rows as u64);
            for row in 0..rows {
                assert_eq!(
                    linear.row_weights(row, &tables()),
                    meaning[row],
                    "{format:?} {rows} x {cols}, row {row}"
                );
            }
        }
    }
}

/// Every stored bit of a row is under its leaf, and under no other row's.
#[test]
fn a_changed_bit_of_a_row_changes_its_leaf_and_no_other() {
    for format in [WeightFormat::Int8, WeightFormat::Int4] {
        let (original, _) = linear(format, 6, 64, true, 3);
        let rows = |linear: &Linear| (0..6).map(|row| linear.row_bytes(row)).collect::<Vec<_>>();
        let root = linear_root(&original);
        assert_eq!(
            root,
            merkle::root(&rows(&original).iter().map(|row| merkle::leaf(row)).collect::<Vec<_>>())
        );
        for (row, col) in [(0, 0), (2, 17), (3, 31), (5, 63)] {
            let mut changed = original.clone();
            let mut codes = original.codes.to_vec();
            codes[original.code_offset(row, col)] ^= 0x10;
            changed.codes = Region::from(codes);
            assert_ne!(linear_root(&changed), root);
            for (other, (before, after)) in rows(&original).iter().zip(rows(&changed)).enumerate() {
                assert_eq!(*before != after, other == row, "{format:?}, row {other}");
            }
        }
        for change in [
            |l: &mut Linear| l.multipliers[4] ^= 1,
            |l: &mut Linear| l.shifts[4] ^= 1,
            |l: &mut Linear| l.bias[4] ^= 1,
        ] {
            let mut changed = original.clone();
            change(&mut changed);
            assert_ne!(linear_root(&changed), root);
        }
    }
}

#[test]
fn an_embedding_opens_row_by_row() {
    let codes: Vec<u8> = (0..5 * 3 * 2).collect();
    let embedding = Embedding { rows: 5, cols: 3, frac: 9, codes: Region::from(codes) };
    assert_eq!(embedding.code(2, 1), i16::from_le_bytes([14, 15]));
    let leaves: Vec<Digest> = (0..5).map(|row| merkle::leaf(embedding.row_bytes(row))).collect();
    let path = merkle::path(&leaves, 3).expect("in range");
    let opened = merkle::root_of_path(merkle::leaf(embedding.row_bytes(3)), 3, 5, &path);
    assert_eq!(opened, Some(embedding_root(&embedding)));
}

#[test]
fn entries_out_of_order_or_too_many_are_refused() {
    let mut swapped = entries();
    swapped.swap(0, 1);
    let order =
        |before: &str, got: &str| Err(ManifestError::Order { before: before.into(), got: got.into() });
    assert_eq!(model_root(&swapped), order("embed", "config"));
    let mut twice = entries();
    twice.insert(1, twice[0].clone());
    assert_eq!(model_root(&twice), order("config", "config"));
    assert_eq!(model_root(&[]), Err(ManifestError::Count { got: 0 }));
    let many = vec![entries().remove(0); MANIFEST_ENTRIES_MAX + 1];
    assert_eq!(model_root(&many), Err(ManifestError::Count { got: MANIFEST_ENTRIES_MAX + 1 }));
}

#[test]
fn the_model_root_binds_every_field_of_every_entry() {
    let root = model_root(&entries()).expect("a manifest");
    let changes: [fn(&mut Entry); 4] = [
        |entry| entry.name.push('x'),
        |entry| entry.kind = EntryKind::Embedding { rows: 1, cols: 1, frac: 1 },
        |entry| entry.bytes += 1,
        |entry| entry.root.0[31] ^= 1,
    ];
    for at in 0..entries().len() {
        for change in changes {
            let mut other = entries();
            change(&mut other[at]);
            assert_ne!(model_root(&other).expect("still sorted"), root);
        }
        let mut fewer = entries();
        fewer.remove(at);
        assert_ne!(model_root(&fewer).expect("still sorted"), root);
    }
}

#[test]
fn a_blob_is_cut_into_chunks_of_4096_bytes() {
    let bytes = vec![7; BLOB_CHUNK_BYTES + 1];
    let (first, second) = bytes.split_at(BLOB_CHUNK_BYTES);
    assert_eq!(blob_root(&bytes), merkle::node(&merkle::leaf(first), &merkle::leaf(second)));
    assert_eq!(blob_root(first), merkle::leaf(first));
    assert_eq!(blob_root(&[]), merkle::empty_root());
}

#[test]
fn a_region_outside_its_owner_does_not_exist() {
    let region = Region::from(vec![1, 2, 3, 4]);
    assert_eq!(&*region.slice(1..3).expect("inside"), &[2, 3]);
    let inner = region.slice(1..3).expect("inside");
    assert_eq!(&*inner.slice(1..2).expect("inside"), &[3]);
    #[expect(clippy::reversed_empty_ranges, reason = "a range that runs backwards is what is refused")]
    for range in [0..3, 2..1, 3..3, 0..usize::MAX, usize::MAX..usize::MAX] {
        assert!(inner.slice(range).is_none());
    }
}
