//! A bundle opens to what was written; nothing that was changed, cut or appended gets through unnamed.

use crate::quantise_models::{bundle_of, facts, families, gpt2, integers, llama, options};
use lockstep_base::part::Part;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::ModelWeights;
use lockstep_model::bundle::{Bundle, BundleError, Contents, HEADER_BYTES, write_file};
use lockstep_model::quantise::{Progress, WeightFormat, quantise};
use std::fmt::Write as _;

fn verified(bytes: Vec<u8>) -> Result<(), BundleError> {
    Bundle::from_bytes(bytes)?.verify_all(&mut |_, _, _| {})
}

fn tiny(format: WeightFormat) -> Vec<u8> {
    bundle_of(&integers(&llama(1), format, 9).0)
}

fn text_of(weights: &ModelWeights) -> String {
    format!("{weights:?}")
}

/// The committed meaning of a small model: any change of folding, rounding, formats, packing or trees shows here.
/// Rewrite with LOCKSTEP_BLESS=1.
#[test]
fn model_roots_are_those_on_record() {
    let mut text = String::new();
    for (name, model) in [("llama", llama(1)), ("gpt2", gpt2(2))] {
        for format in [WeightFormat::Int8, WeightFormat::Int4] {
            let bundle = Bundle::from_bytes(bundle_of(&integers(&model, format, 9).0)).unwrap();
            writeln!(
                text,
                "{name} {format:?}: model root {}, {} bytes",
                bundle.model_root(),
                bundle.file_bytes()
            )
            .unwrap();
            for placed in bundle.entries() {
                let entry = &placed.entry;
                writeln!(
                    text,
                    "  {:6} {:6} {} {:?} {}",
                    placed.offset, entry.bytes, entry.root, entry.kind, entry.name
                )
                .unwrap();
            }
        }
    }
    for (name, model) in families(1) {
        for format in [WeightFormat::Int8, WeightFormat::Int16] {
            let bundle = Bundle::from_bytes(bundle_of(&integers(&model, format, 9).0)).unwrap();
            writeln!(text, "{name} {format:?}: model root {}", bundle.model_root()).unwrap();
        }
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/bundle_golden.txt");
    if std::env::var_os("LOCKSTEP_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (line, (got, expected)) in text.lines().zip(golden.lines()).enumerate() {
        assert_eq!(got, expected, "line {} of {}", line + 1, path.display());
    }
    assert_eq!(text.len(), golden.len());
}

/// The same source, options and seed give the same bytes; another seed another root.
#[test]
fn imports_are_deterministic() {
    for format in [WeightFormat::Int8, WeightFormat::Int4] {
        let make = |seed| bundle_of(&integers(&gpt2(5), format, seed).0);
        let (first, second, other) = (make(3), make(3), make(4));
        assert!(first == second, "two imports differ in {format:?}");
        assert_ne!(first[32..64], other[32..64], "the seed does nothing in {format:?}");
    }
}

/// What is loaded is what was written, whole or in parts, from memory or from a file.
#[test]
fn a_bundle_gives_back_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let plain = [(llama(1), WeightFormat::Int4), (gpt2(2), WeightFormat::Int8)];
    let others = families(3).into_iter().flat_map(|(_, model)| {
        [WeightFormat::Int8, WeightFormat::Int16, WeightFormat::Int4].map(|format| (model.clone(), format))
    });
    for (model, format) in plain.into_iter().chain(others) {
        let (weights, _) = integers(&model, format, 9);
        let path = folder.path().join("tiny.lock");
        let tokenizer = crate::quantise_models::tokenizer(weights.config.vocab);
        let contents = Contents { weights: &weights, tokenizer: &tokenizer, chat_template: None };
        let root = write_file(&path, &contents).unwrap();
        let bundle = Bundle::open(&path).unwrap();
        assert_eq!(bundle.model_root(), root);
        bundle.verify_all(&mut |_, done, total| assert!(done <= total)).unwrap();
        let layers = bundle.config().n_layers;
        let whole = bundle.load(&Part::whole(layers)).unwrap();
        assert_eq!(text_of(&whole), text_of(&weights));
        for (loaded, written) in whole.layers.iter().zip(&weights.layers) {
            for (loaded, written) in loaded.ffn.networks().iter().zip(written.ffn.networks()) {
                assert_eq!(loaded.down.codes[..], written.down.codes[..]);
            }
            assert_eq!(loaded.q.table_ids[..], written.q.table_ids[..]);
        }
        let last = bundle.load(&Part::layers(1..layers, layers)).unwrap();
        assert!(last.embed.is_none() && last.positions.is_none() && last.embed_norm.is_none());
        assert_eq!(last.head.is_some(), weights.head.is_some());
        assert_eq!((last.first_layer, last.layers.len()), (1, layers as usize - 1));
        let up = |layer: &lockstep_base::weights::LayerWeights| layer.ffn.networks()[0].up.codes.to_vec();
        assert_eq!(up(&last.layers[0]), up(&weights.layers[1]));
        assert_eq!(bundle.tokenizer().unwrap().vocab_size(), weights.config.vocab as usize);
        assert_eq!(bundle.tokenizer().unwrap().bos(), facts().bos);
        assert_eq!(bundle.chat_template().unwrap(), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file stays behind");
    }
}

/// One flipped bit anywhere is refused, and the error names the header field, the manifest or the entry that
/// holds the byte. Every byte of header and manifest, every 5th of the rest (all of them over five runs' seeds).
#[test]
fn every_flipped_byte_is_refused_and_named() {
    for format in [WeightFormat::Int8, WeightFormat::Int4] {
        let good = tiny(format);
        let bundle = Bundle::from_bytes(good.clone()).unwrap();
        let sections_at = bundle.entries()[0].offset as usize;
        let seed = 17;
        let mut rng = SplitMix64::new(seed);
        for at in 0..good.len() {
            if at >= sections_at && rng.below(5) != 0 {
                continue;
            }
            let mut bad = good.clone();
            bad[at] ^= 1 << rng.below(8);
            let error =
                verified(bad).expect_err(&format!("seed {seed}: byte {at} of {format:?}")).to_string();
            let holder =
                bundle.entries().iter().find(|placed| (at as u64) < placed.offset + placed.entry.bytes);
            let named = if at < HEADER_BYTES {
                error.contains("header field")
            } else if at < sections_at {
                error.contains("manifest") || error.contains("padding in front of entry")
            } else {
                error.contains(&holder.unwrap().entry.name)
            };
            assert!(named, "seed {seed}: byte {at}: {error}");
        }
    }
}

/// A file that was cut anywhere, or grew, is refused at opening.
#[test]
fn truncated_and_grown_files_are_refused() {
    let good = tiny(WeightFormat::Int8);
    let lengths = (0..200).chain((200..good.len()).step_by(61)).chain([good.len() - 1]);
    for length in lengths {
        let error = Bundle::from_bytes(good[..length].to_vec()).expect_err(&format!("{length} bytes"));
        let expected = match error {
            BundleError::NoHeader { got, .. } => got == length as u64 && length < HEADER_BYTES,
            BundleError::FileBytes { got, expected, .. } => {
                got == length as u64 && expected == good.len() as u64
            }
            _ => false,
        };
        assert!(expected, "{length} bytes: {error}");
    }
    let error = Bundle::from_bytes([good.as_slice(), &[0]].concat()).unwrap_err();
    assert!(matches!(error, BundleError::FileBytes { .. }), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty");
    std::fs::write(&path, []).unwrap();
    assert!(matches!(Bundle::open(&path), Err(BundleError::NoHeader { got: 0, .. })));
    let missing = Bundle::open(&folder.path().join("none")).unwrap_err();
    assert!(matches!(missing, BundleError::Io { .. }), "{missing}");
}

/// Parts that are not parts of the model are refused.
#[test]
fn impossible_parts_are_refused() {
    let bundle = Bundle::from_bytes(tiny(WeightFormat::Int8)).unwrap();
    let whole = Part::whole(2);
    for part in [
        Part { end_layer: 3, ..whole },
        Part { first_layer: 2, end_layer: 1, ..whole },
        Part { first_layer: u32::MAX, end_layer: u32::MAX, ..whole },
        Part { shard: 1, shards: 2, ..whole },
    ] {
        assert!(matches!(bundle.load(&part), Err(BundleError::Part { layers: 2, .. })), "{part}");
    }
}

/// A damaged layer does not stop those who do not serve it.
#[test]
fn loading_a_part_reads_only_that_part() {
    let good = tiny(WeightFormat::Int8);
    let bundle = Bundle::from_bytes(good.clone()).unwrap();
    let placed = bundle.entries().iter().find(|placed| placed.entry.name == "layers.0001.up").unwrap();
    let mut bad = good;
    bad[placed.offset as usize + 5] ^= 4;
    let bundle = Bundle::from_bytes(bad).unwrap();
    bundle.load(&Part::layers(0..1, 2)).unwrap();
    let error = bundle.load(&Part::layers(1..2, 2)).unwrap_err();
    assert!(
        matches!(&error, BundleError::Root { entry, got, expected } if entry == "layers.0001.up" && got != expected),
        "{error}"
    );
}

/// No calibration is allowed too (shapes with random weights), and says so in the report.
#[test]
fn a_bundle_without_calibration_opens() {
    let mut options = options(WeightFormat::Int4, 0);
    options.calibration_tokens = 0;
    let (weights, report) = quantise(&gpt2(8), &facts(), &options, &mut Progress::none()).unwrap();
    assert_eq!(report.calibration_tokens, 0);
    verified(bundle_of(&weights)).unwrap();
}
