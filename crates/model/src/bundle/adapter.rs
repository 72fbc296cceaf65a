//! Bundles of kind `adapter`: low-rank matrices beside those of one model, under a root of their own.
//!
//! The file is that of a model (header, manifest, entries); `config` is the CBOR of
//! `base::adapter::AdapterConfig`, `layers.0003.q.a` and `layers.0003.q.b` are linear layers in int8. An
//! adapter is small, so opening one reads and verifies all of it.

use super::entries::{bits_of, linear_bytes, names};
use super::error::BundleError;
use super::layout::{HEADER_BYTES, Header, KIND_ADAPTER, Manifest, Placed};
use super::load::split_linear;
use super::open::{check_layout, section};
use super::structure;
use super::verify::verify_rows;
use super::write::{blob, file, linear, replace};
use lockstep_base::adapter::{AdapterConfig, AdapterWeights, LayerAdapter, LowRank, Target};
use lockstep_base::cbor;
use lockstep_base::digest::Digest;
use lockstep_base::limits::{COLS_MAX, LAYERS_MAX, ROWS_MAX};
use lockstep_base::manifest::{self, Entry, EntryKind};
use lockstep_base::weights::{Linear, Region, Tables, WeightFormat};
use std::path::Path;

/// Bytes of an adapter's file that are read: the largest rank beside every matrix of a 70B model is below.
const ADAPTER_BYTES_MAX: u64 = 16 << 30;

/// The bytes of an adapter's bundle.
///
/// # Errors
/// [`BundleError::Adapter`] if its configuration is out of range, [`BundleError::ManifestOrder`] if it has too many
/// matrices.
pub fn write_adapter(adapter: &AdapterWeights) -> Result<Vec<u8>, BundleError> {
    adapter.config.validate()?;
    let mut all = vec![blob(names::CONFIG, cbor::encode(&adapter.config))];
    for (layer, parts) in (adapter.first_layer..).zip(&adapter.layers) {
        for target in Target::ALL {
            if let Some(part) = parts.get(target) {
                all.push(linear(name(layer, target, "a"), &part.a));
                all.push(linear(name(layer, target, "b"), &part.b));
            }
        }
    }
    file(KIND_ADAPTER, all)
}

/// Writes an adapter's bundle beside `path`, then renames it; its root.
///
/// # Errors
/// As [`write_adapter`], and if the file cannot be written.
pub fn write_adapter_file(path: &Path, adapter: &AdapterWeights) -> Result<Digest, BundleError> {
    replace(path, &write_adapter(adapter)?)
}

/// Reads and verifies the adapter at `path`.
///
/// # Errors
/// [`BundleError`], naming the header field, the entry or the number.
pub fn open_adapter(path: &Path) -> Result<AdapterWeights, BundleError> {
    let io = |source| BundleError::Io { path: path.into(), source };
    let got = std::fs::metadata(path).map_err(io)?.len();
    if got > ADAPTER_BYTES_MAX {
        return Err(BundleError::FileBytes { got, expected: ADAPTER_BYTES_MAX, by: "limit for adapters" });
    }
    read_adapter(std::fs::read(path).map_err(io)?)
}

/// The same for bytes in memory.
///
/// # Errors
/// As [`open_adapter`].
pub fn read_adapter(bytes: Vec<u8>) -> Result<AdapterWeights, BundleError> {
    let data = Region::from(bytes);
    let header = Header::parse(&data, KIND_ADAPTER)?;
    let manifest_end = HEADER_BYTES + header.manifest_bytes as usize;
    let Manifest(placed) = cbor::decode("manifest", &data[HEADER_BYTES..manifest_end])
        .map_err(|error| BundleError::Manifest { bytes: header.manifest_bytes, error })?;
    let entries: Vec<Entry> = placed.iter().map(|placed| placed.entry.clone()).collect();
    let root = manifest::model_root(&entries).map_err(BundleError::ManifestOrder)?;
    if root != header.model_root {
        return Err(BundleError::ModelRoot { got: root, expected: header.model_root });
    }
    check_layout(&placed, &header)?;
    let mut config = None;
    let mut layers: Vec<LayerAdapter> = Vec::new();
    let mut halves = Halves::default();
    for (index, Placed { entry, .. }) in placed.iter().enumerate() {
        let bytes = section(&data, &placed, index, manifest_end as u64)?;
        if entry.name == names::CONFIG {
            let got = manifest::blob_root(&bytes);
            if got != entry.root || entry.kind != EntryKind::Blob {
                return Err(BundleError::Root { entry: entry.name.clone(), got, expected: entry.root });
            }
            let read: AdapterConfig = cbor::decode("config", &bytes)
                .map_err(|error| BundleError::Cbor { entry: entry.name.clone(), error })?;
            read.validate()?;
            config = Some(read);
            continue;
        }
        // `config` sorts before every layer.
        let config = config.as_ref().ok_or_else(|| BundleError::Missing { entry: names::CONFIG.into() })?;
        let (layer, target, half) =
            parse_name(&entry.name).ok_or_else(|| BundleError::Unexpected { entry: entry.name.clone() })?;
        let matrix = read_half(entry, &bytes, half, config)?;
        if let Some(part) = halves.pair(layer, target, half, matrix) {
            layers.resize(layers.len().max(layer + 1), LayerAdapter::default());
            layers[layer].set(target, part);
        }
    }
    if let Some((layer, target, half)) = halves.single() {
        return Err(BundleError::Missing { entry: name(layer, target, half.other().name()) });
    }
    let config = config.ok_or_else(|| BundleError::Missing { entry: names::CONFIG.into() })?;
    Ok(AdapterWeights { config, root, first_layer: 0, layers })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    A,
    B,
}

impl Half {
    fn name(self) -> &'static str {
        match self {
            Half::A => "a",
            Half::B => "b",
        }
    }

    fn other(self) -> Half {
        match self {
            Half::A => Half::B,
            Half::B => Half::A,
        }
    }
}

/// A, until its B comes: entries are sorted by name, so it is the next one.
#[derive(Default)]
struct Halves(Option<(usize, Target, Half, Linear)>);

impl Halves {
    fn pair(&mut self, layer: usize, target: Target, half: Half, matrix: Linear) -> Option<LowRank> {
        match (self.0.take(), half) {
            (Some((of_layer, of, Half::A, a)), Half::B) if (of_layer, of) == (layer, target) => {
                Some(LowRank { a, b: matrix })
            }
            // What was left over is reported: it never finds its other half any more.
            (Some(left), _) => {
                self.0 = Some(left);
                None
            }
            (None, _) => {
                self.0 = Some((layer, target, half, matrix));
                None
            }
        }
    }

    fn single(&self) -> Option<(usize, Target, Half)> {
        self.0.as_ref().map(|(layer, target, half, _)| (*layer, *target, *half))
    }
}

fn name(layer: usize, target: Target, part: &str) -> String {
    names::layer(layer, &format!("{}.{part}", target.name()))
}

/// `layers.0003.q.a`, in its one spelling.
fn parse_name(text: &str) -> Option<(usize, Target, Half)> {
    let mut words = text.strip_prefix("layers.")?.split('.');
    let layer: usize = words.next()?.parse().ok()?;
    let target = words.next()?;
    let target = Target::ALL.into_iter().find(|known| known.name() == target)?;
    let half = [Half::A, Half::B].into_iter().find(|half| text == name(layer, target, half.name()))?;
    (layer < LAYERS_MAX as usize).then_some((layer, target, half))
}

fn read_half(
    entry: &Entry,
    bytes: &Region,
    half: Half,
    config: &AdapterConfig,
) -> Result<Linear, BundleError> {
    let refuse = |got: String, expected: &str| BundleError::Shape {
        entry: entry.name.clone(),
        got,
        expected: expected.into(),
    };
    let EntryKind::Linear { rows, cols, bits, bias, .. } = entry.kind else {
        return Err(refuse("a blob or an embedding".into(), "a linear layer"));
    };
    // The offset of a layer norm in front becomes a bias of A.
    if bits != bits_of(WeightFormat::Int8) || (bias && half == Half::B) {
        return Err(refuse(format!("{bits} bits, bias {bias}"), "8 bits, in B without bias"));
    }
    if !(1..=ROWS_MAX).contains(&rows) || !(1..=COLS_MAX).contains(&cols) || !cols.is_multiple_of(32) {
        let expected = "1 to 1048576 rows, at most 65024 columns, a multiple of 32";
        return Err(refuse(format!("{rows} x {cols}"), expected));
    }
    let expected = linear_bytes(WeightFormat::Int8, rows, cols, bias);
    if entry.bytes != expected {
        return Err(BundleError::EntryBytes { entry: entry.name.clone(), got: entry.bytes, expected });
    }
    let matrix =
        split_linear(&entry.kind, bytes).ok_or_else(|| BundleError::Missing { entry: entry.name.clone() })?;
    verify_rows(entry, &matrix)?;
    let (shape, fracs) = match half {
        Half::A => ((config.rank, cols), 0..=14),
        Half::B => ((rows, config.rank_padded()), 0..=24),
    };
    structure::check_matrix(&entry.name, shape, &fracs, &matrix, &Tables::default())?;
    Ok(matrix)
}
