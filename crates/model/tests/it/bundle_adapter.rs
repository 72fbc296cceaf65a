//! Bundles of kind `adapter`: what was written is read, and nothing else is.

use lockstep_base::adapter::{AdapterError, AdapterWeights, Target};
use lockstep_base::digest::Digest;
use lockstep_base::weights::WeightFormat;
use lockstep_model::bundle::{Bundle, BundleError, read_adapter, write_adapter};
use lockstep_runtime::synthetic::{self, small_config};

const BASE: Digest = Digest([7; 32]);

fn adapter() -> AdapterWeights {
    let model = synthetic::model(&small_config(), WeightFormat::Int8, 1);
    let mut adapter = synthetic::adapter(&model, BASE, 6, 2);
    adapter.layers.truncate(2);
    adapter
}

/// The bytes of every matrix come back, under a root that depends on them and on nothing else.
#[test]
fn what_was_written_is_read() {
    let written = adapter();
    let bytes = write_adapter(&written).expect("writes");
    let read = read_adapter(bytes.clone()).expect("reads");
    assert_eq!(read.config, written.config);
    assert_eq!(read.layers.len(), written.layers.len());
    for (read, written) in read.layers.iter().zip(&written.layers) {
        for target in Target::ALL {
            let (read, written) = (read.get(target).expect("a part"), written.get(target).expect("a part"));
            for (read, written) in [(&read.a, &written.a), (&read.b, &written.b)] {
                assert_eq!(read.codes[..], written.codes[..]);
                assert_eq!((read.out_frac, read.pre_shift), (written.out_frac, written.pre_shift));
                assert_eq!((&read.shifts, &read.multipliers), (&written.shifts, &written.multipliers));
            }
        }
    }
    assert_eq!(bytes, write_adapter(&written).expect("writes"), "the same contents give the same bytes");
    let model = synthetic::model(&small_config(), WeightFormat::Int8, 1);
    assert_eq!(read.check_fits(BASE, &model.config, 0, &model.layers), Ok(()));
    let other = Digest([8; 32]);
    let wrong = read.check_fits(other, &model.config, 0, &model.layers);
    assert_eq!(wrong, Err(AdapterError::Base { got: other, expected: BASE }));
    let narrow = lockstep_base::config::ModelConfig { d_ffn: 64, ..small_config() };
    let model = synthetic::model(&narrow, WeightFormat::Int8, 1);
    let error = read.check_fits(BASE, &model.config, 0, &model.layers).expect_err("other widths");
    assert_eq!(error.to_string(), "adapter, layer 0, gate: rows of B is 80, expected 64");
}

/// No byte of the file can change without a refusal: a sample of every fifth, and all of header and manifest.
#[test]
fn flipped_and_missing_bytes_are_refused() {
    let bytes = write_adapter(&adapter()).expect("writes");
    for at in (0..bytes.len()).filter(|at| *at < 2_000 || at % 5 == 0) {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(read_adapter(changed).is_err(), "byte {at}");
    }
    for length in (0..bytes.len()).step_by(97) {
        assert!(read_adapter(bytes[..length].to_vec()).is_err(), "{length} bytes");
    }
}

/// A model is not an adapter, nor an adapter a model.
#[test]
fn kinds_are_not_confused() {
    let bytes = write_adapter(&adapter()).expect("writes");
    let error = Bundle::from_bytes(bytes).expect_err("a model is expected");
    assert!(matches!(error, BundleError::HeaderField { field: "kind", got: 1, expected: 0 }), "{error}");
}

/// An A without its B is named, and a rank out of range refused, even where all hashes fit.
#[test]
fn halves_and_ranks_are_checked() {
    let mut none = adapter();
    none.config.rank = 0;
    let error = write_adapter(&none).expect_err("no rank");
    assert_eq!(error.to_string(), "adapter of rank 0, expected 1 to 1024");
    let mut other = adapter();
    other.config.rank = 7;
    let error = read_adapter(write_adapter(&other).expect("writes")).expect_err("rows of A");
    assert!(error.to_string().ends_with("has 6 rows, expected 7"), "{error}");
}
