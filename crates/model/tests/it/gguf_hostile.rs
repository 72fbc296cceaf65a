//! GGUF files that are not what they claim: an error that names what is wrong, never a panic, and no memory that the file
//! does not hold.

use std::fs;

use lockstep_model::source::gguf::{Gguf, GgufError, limits};
use lockstep_model::source::{self, SourceError};
use proptest::prelude::*;

use crate::gguf_file::{Description, File, Meta, text_bytes};

fn open_bytes(bytes: &[u8]) -> Result<Gguf, SourceError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let opened = Gguf::open(&path);
    let model = source::open_weights(&path);
    if opened.is_err() {
        assert!(model.is_err(), "a header that cannot be read makes no model");
    }
    opened
}

fn refused(bytes: &[u8]) -> GgufError {
    match open_bytes(bytes) {
        Err(SourceError::Gguf { error, .. }) => error,
        other => panic!("got {other:?}"),
    }
}

fn small() -> File {
    Description::read("llama").file()
}

#[test]
fn every_truncation_is_refused() {
    let bytes = small().bytes();
    let header = bytes.len().min(6_000);
    let lengths = (0..header).step_by(7).chain([0, 1, 3, 4, 8, 16, 24, bytes.len() - 1]);
    for len in lengths {
        assert!(open_bytes(&bytes[..len]).is_err(), "{len} bytes");
    }
    // What follows the last tensor is padding.
    assert!(open_bytes(&[&bytes[..], &[0; 100]].concat()).is_ok());
}

#[test]
fn magic_version_and_byte_order() {
    let bytes = small().bytes();
    assert!(matches!(refused(b"GIF89a...."), GgufError::Magic { .. }));
    for version in [0, 1, 4, 3u32.swap_bytes()] {
        let changed = [&bytes[..4], &version.to_le_bytes(), &bytes[8..]].concat();
        assert!(matches!(refused(&changed), GgufError::Version { got } if got == version));
    }
}

#[test]
fn counts_and_lengths_are_compared_with_the_file_first() {
    let bytes = small().bytes();
    let with = |at: usize, value: u64| [&bytes[..at], &value.to_le_bytes(), &bytes[at + 8..]].concat();
    for huge in [1 << 20, 1 << 40, u64::MAX] {
        assert!(matches!(refused(&with(8, huge)), GgufError::TooLarge { what: "tensors", .. }));
        assert!(matches!(refused(&with(16, huge)), GgufError::TooLarge { what: "metadata entries", .. }));
        assert!(matches!(refused(&with(24, huge)), GgufError::TooLarge { what: "metadata key", .. }));
    }
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    for (value, what) in [
        (Meta::Raw(8, u64::MAX.to_le_bytes().into()), "text"),
        (Meta::Raw(8, (1u64 << 40).to_le_bytes().into()), "text"),
        (Meta::Raw(9, array(4, u64::MAX)), "array of numbers"),
        (Meta::Raw(9, array(0, 1 << 45)), "array of bytes"),
        (Meta::Raw(9, array(8, 1 << 60)), "array of texts"),
        (Meta::Raw(9, array(9, 1 << 60)), "array of arrays"),
    ] {
        let mut file = small();
        file.metadata.push(("x".into(), value));
        assert!(open_bytes(&file.bytes()).is_err(), "{what}");
    }
}

#[test]
fn metadata_types_duplicates_and_depth() {
    let with = |value: Meta| {
        let mut file = File::default();
        file.set("x", value);
        file.bytes()
    };
    assert!(matches!(refused(&with(Meta::Raw(13, vec![0; 8]))), GgufError::ValueType { got: 13, .. }));
    let array_of = |inner: &[u8], kind: u32| [&kind.to_le_bytes()[..], &1u64.to_le_bytes(), inner].concat();
    let numbers = array_of(&[7], 0);
    let deep = |depth: usize| (1..depth).fold(numbers.clone(), |inner, _| array_of(&inner, 9));
    assert!(open_bytes(&with(Meta::Raw(9, deep(limits::MAX_ARRAY_DEPTH as usize)))).is_ok());
    let too_deep = refused(&with(Meta::Raw(9, deep(limits::MAX_ARRAY_DEPTH as usize + 1))));
    assert!(matches!(too_deep, GgufError::TooLarge { what: "depth of a metadata array", .. }), "{too_deep}");
    let metadata = vec![("x".into(), Meta::U32(1)), ("x".into(), Meta::U32(2))];
    let twice = File { metadata, ..File::default() };
    assert!(matches!(refused(&twice.bytes()), GgufError::DuplicateKey { .. }));
    let mut key = with(Meta::U32(1));
    for bad in [0xff, 0x1b, b'\n'] {
        key[24 + 8] = bad;
        assert!(matches!(refused(&key), GgufError::NotText { .. }), "{bad}");
    }
    for alignment in [0u32, 3, 48] {
        let mut file = File::default();
        file.set("general.alignment", Meta::U32(alignment));
        assert!(matches!(refused(&file.bytes()), GgufError::Alignment { .. }), "{alignment}");
    }
    let mut file = File::default();
    file.set("general.alignment", Meta::U32(1 << 30));
    assert!(matches!(refused(&file.bytes()), GgufError::TooLarge { .. }));
}

#[test]
fn all_value_types_are_read() {
    let mut file = File::default();
    for (kind, bytes) in
        [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)]
    {
        file.set(&format!("n{kind}"), Meta::Raw(kind, vec![1; bytes]));
        file.set(&format!("a{kind}"), {
            let head = [&u32::to_le_bytes(kind)[..], &2u64.to_le_bytes()].concat();
            Meta::Raw(9, [head, vec![1; 2 * bytes]].concat())
        });
    }
    file.set("text", Meta::text("ä")).set("texts", Meta::texts(&["a", "", "bc"]));
    let gguf = open_bytes(&file.bytes()).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.unsigned("n0").unwrap(), Some(1));
    assert_eq!(metadata.unsigned("n11").unwrap(), Some(0x0101_0101_0101_0101));
    assert_eq!(metadata.float("n6").unwrap(), Some(f64::from(f32::from_bits(0x0101_0101))));
    assert_eq!(metadata.flag("n7").unwrap(), Some(true));
    assert!(metadata.unsigned("n6").is_err() && metadata.text("n0").is_err() && metadata.flag("n0").is_err());
    assert_eq!(metadata.text("text").unwrap(), Some("ä"));
    let texts: Vec<&[u8]> = metadata.texts("texts").unwrap().unwrap().iter().collect();
    assert_eq!(texts, [&b"a"[..], b"", b"bc"]);
    let numbers = metadata.numbers("a2", "numbers", |n| n.unsigned()).unwrap().unwrap();
    assert_eq!(numbers, [0x101, 0x101]);
    assert_eq!(metadata.unsigned("absent").unwrap(), None);
    assert_eq!(metadata.iter().count(), 24);
}

#[test]
fn tensors_outside_the_file_or_over_each_other_are_refused() {
    let edit = |edit: fn(&mut File)| {
        let mut file = small();
        edit(&mut file);
        refused(&file.bytes())
    };
    let error = edit(|f| f.tensor("output.weight").offset = Some(1 << 50));
    assert!(matches!(error, GgufError::OutOfFile { .. }), "{error}");
    let error = edit(|f| f.tensor("output.weight").offset = Some(u64::MAX - 31));
    assert!(matches!(error, GgufError::OutOfFile { .. }), "{error}");
    let error = edit(|f| f.tensor("output.weight").offset = Some(0));
    assert!(matches!(error, GgufError::Overlap { .. }), "{error}");
    let error = edit(|f| f.tensor("output.weight").offset = Some(33));
    assert!(matches!(error, GgufError::Misaligned { .. }), "{error}");
    let error = edit(|f| f.tensor("output.weight").dims = vec![1 << 62, 1 << 62]);
    assert!(matches!(error, GgufError::Dimensions { .. }), "{error}");
    let error = edit(|f| f.tensor("output.weight").dims = vec![32, 1 << 40]);
    assert!(matches!(error, GgufError::OutOfFile { .. }), "{error}");
    let error = edit(|f| f.tensor("output.weight").dims = vec![32, 0]);
    assert!(matches!(error, GgufError::Dimensions { .. }), "{error}");
    for dims in [vec![], vec![1; 5]] {
        let mut file = small();
        file.tensor("output.weight").dims = dims;
        assert!(matches!(refused(&file.bytes()), GgufError::TooLarge { .. }));
    }
    let error = edit(|f| {
        let tensor = f.tensor("output.weight");
        (tensor.kind, tensor.dims) = (8, vec![31, 64]);
    });
    assert!(matches!(error, GgufError::Block { got: 31, block: 32, .. }), "{error}");
    for (kind, name) in [(16, "IQ2_XXS"), (39, "MXFP4"), (4_000, "number 4000")] {
        let mut file = small();
        file.tensor("output.weight").kind = kind;
        let text = refused(&file.bytes()).to_string();
        assert!(text.contains(name) && text.contains("Q4_K"), "{text}");
    }
    let error = edit(|f| f.tensor("output.weight").name = "token_embd.weight".into());
    assert!(matches!(error, GgufError::DuplicateTensor { .. }), "{error}");
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let mut file = small();
    file.tensor("blk.1.ffn_up.weight").data[40..44].copy_from_slice(&f32::NAN.to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, file.bytes()).unwrap();
    match source::open_weights(&path) {
        Err(SourceError::NotFinite { name, index, .. }) => {
            assert_eq!((name.as_str(), index), ("blk.1.ffn_up.weight", 10));
        }
        other => panic!("{other:?}"),
    }
}

/// A file whose header claims a terabyte of anything is refused by its length alone: nothing is allocated for it.
#[test]
fn claims_cost_nothing() {
    let mut head = b"GGUF".to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend([0; 8]);
    head.extend(1u64.to_le_bytes());
    head.extend(text_bytes(b"x"));
    head.extend(9u32.to_le_bytes());
    head.extend(12u32.to_le_bytes());
    head.extend((1u64 << 37).to_le_bytes());
    match refused(&head) {
        GgufError::Truncated { got, expected, .. } => assert_eq!((got, expected), (0, 1 << 40)),
        other => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), valid in any::<bool>()) {
        if valid {
            bytes.splice(0..0, *b"GGUF\x03\0\0\0");
        }
        let _ = open_bytes(&bytes);
    }

    /// One changed byte of header or data: an error, or a model that was checked like any other.
    #[test]
    fn damaged_files_never_panic(at in 0usize..4_000, byte in any::<u8>()) {
        let mut bytes = small().bytes();
        bytes[at] = byte;
        let _ = open_bytes(&bytes);
    }
}
