//! Opening a bundle: header, manifest, configuration. Nothing else is read until it is asked for.

use super::entries::{self, Expected, names};
use super::error::BundleError;
use super::layout::{HEADER_BYTES, Header, KIND_MODEL, Layout, Manifest, Placed};
use lockstep_base::cbor;
use lockstep_base::config::ModelConfig;
use lockstep_base::digest::Digest;
use lockstep_base::manifest::{self, Entry};
use lockstep_base::weights::Region;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// An opened bundle. Its manifest is bound to the model root and its configuration is valid;
/// everything else is verified when it is read.
#[derive(Clone, Debug)]
pub struct Bundle {
    pub(super) data: Region,
    pub(super) placed: Vec<Placed>,
    pub(super) config: ModelConfig,
    pub(super) model_root: Digest,
    manifest_end: u64,
}

impl Bundle {
    /// Maps the file at `path`.
    ///
    /// A bundle must not be changed while it is open: [`super::write_file`] replaces whole files
    /// and never writes into one.
    ///
    /// # Errors
    /// [`BundleError`], naming the header field or the entry.
    #[allow(unsafe_code)]
    pub fn open(path: &Path) -> Result<Bundle, BundleError> {
        let io = |source| BundleError::Io { path: path.into(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(BundleError::NoHeader { got: 0, expected: HEADER_BYTES as u64 });
        }
        // SAFETY: the map is read-only and private to this process. The one hazard is another process that
        // truncates or changes the file meanwhile; bundles are replaced by rename, never written in place.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        Bundle::from_owner(Arc::new(map))
    }

    /// A bundle in memory: `Vec<u8>`, or `&'static [u8]` for one that is compiled in.
    ///
    /// # Errors
    /// [`BundleError`], naming the header field or the entry.
    pub fn from_bytes(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Bundle, BundleError> {
        Bundle::from_owner(Arc::new(bytes))
    }

    fn from_owner(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Result<Bundle, BundleError> {
        let length = (*owner).as_ref().len();
        let data = Region::new(owner, 0..length).expect("the whole of the owner");
        let header = Header::parse(&data, KIND_MODEL)?;
        let manifest_end = HEADER_BYTES + header.manifest_bytes as usize;
        let Manifest(placed) = cbor::decode("manifest", &data[HEADER_BYTES..manifest_end])
            .map_err(|error| BundleError::Manifest { bytes: header.manifest_bytes, error })?;
        let entries: Vec<Entry> = placed.iter().map(|placed| placed.entry.clone()).collect();
        let got = manifest::model_root(&entries).map_err(BundleError::ManifestOrder)?;
        if got != header.model_root {
            return Err(BundleError::ModelRoot { got, expected: header.model_root });
        }
        check_layout(&placed, &header)?;
        let config = read_config(&data, &placed, manifest_end as u64)?;
        check_entries(&placed, &config)?;
        Ok(Bundle { data, placed, config, model_root: header.model_root, manifest_end: manifest_end as u64 })
    }

    /// The commitment to everything in the bundle.
    #[must_use]
    pub fn model_root(&self) -> Digest {
        self.model_root
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The manifest, sorted by name.
    #[must_use]
    pub fn entries(&self) -> &[Placed] {
        &self.placed
    }

    /// Bytes of the whole file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.data.len() as u64
    }

    /// The entry with this name.
    pub(super) fn find(&self, name: &str) -> Result<usize, BundleError> {
        find(&self.placed, name).ok_or_else(|| BundleError::Missing { entry: name.into() })
    }

    /// Unverified bytes of an entry; the padding in front of it is verified here.
    pub(super) fn section(&self, index: usize) -> Result<Region, BundleError> {
        section(&self.data, &self.placed, index, self.manifest_end)
    }
}

pub(super) fn find(placed: &[Placed], name: &str) -> Option<usize> {
    placed.binary_search_by(|placed| placed.entry.name.as_str().cmp(name)).ok()
}

pub(super) fn section(
    data: &Region,
    placed: &[Placed],
    index: usize,
    manifest_end: u64,
) -> Result<Region, BundleError> {
    let Placed { entry, offset } = &placed[index];
    let before =
        if index == 0 { manifest_end } else { placed[index - 1].offset + placed[index - 1].entry.bytes };
    let gap = &data[before as usize..*offset as usize];
    if let Some(at) = gap.iter().position(|byte| *byte != 0) {
        return Err(BundleError::Padding { entry: entry.name.clone(), at: before + at as u64 });
    }
    let range = *offset as usize..(*offset + entry.bytes) as usize;
    Ok(data.slice(range).expect("the layout was compared with the file"))
}

/// Every entry lies where the one layout has it, and the file ends where the last one does.
pub(super) fn check_layout(placed: &[Placed], header: &Header) -> Result<(), BundleError> {
    let mut layout = Layout::after_manifest(header.manifest_bytes);
    for Placed { entry, offset } in placed {
        let expected = layout
            .place(entry.bytes)
            .ok_or_else(|| BundleError::Overflow { entry: entry.name.clone(), got: entry.bytes })?;
        if *offset != expected {
            return Err(BundleError::Offset { entry: entry.name.clone(), got: *offset, expected });
        }
    }
    if layout.end() != header.file_bytes {
        return Err(BundleError::FileBytes {
            got: header.file_bytes,
            expected: layout.end(),
            by: "manifest",
        });
    }
    Ok(())
}

fn read_config(data: &Region, placed: &[Placed], manifest_end: u64) -> Result<ModelConfig, BundleError> {
    let index =
        find(placed, names::CONFIG).ok_or_else(|| BundleError::Missing { entry: names::CONFIG.into() })?;
    let bytes = section(data, placed, index, manifest_end)?;
    let (got, expected) = (manifest::blob_root(&bytes), placed[index].entry.root);
    if got != expected {
        return Err(BundleError::Root { entry: names::CONFIG.into(), got, expected });
    }
    let config: ModelConfig = cbor::decode("config", &bytes)
        .map_err(|error| BundleError::Cbor { entry: names::CONFIG.into(), error })?;
    config.validate().map_err(BundleError::Config)?;
    Ok(config)
}

/// The entries are exactly those of a model of this configuration, with its shapes.
fn check_entries(placed: &[Placed], config: &ModelConfig) -> Result<(), BundleError> {
    let mut expected: BTreeMap<String, (Expected, bool)> = entries::expected(config)
        .into_iter()
        .map(|(name, expected, required)| (name, (expected, required)))
        .collect();
    for Placed { entry, .. } in placed {
        let name = || entry.name.clone();
        let Some((wanted, _)) = expected.remove(&entry.name) else {
            return Err(BundleError::Unexpected { entry: name() });
        };
        let bytes = wanted.check(&entry.kind, config).map_err(|(got, expected)| BundleError::Shape {
            entry: name(),
            got,
            expected,
        })?;
        if let Some(expected) = bytes.filter(|bytes| *bytes != entry.bytes) {
            return Err(BundleError::EntryBytes { entry: name(), got: entry.bytes, expected });
        }
        let tables = entry.bytes / entries::INT4_TABLE_BYTES as u64;
        let whole = entry.bytes % entries::INT4_TABLE_BYTES as u64 == 0;
        if wanted == Expected::Int4Tables && !(whole && (1..=entries::INT4_TABLES_MAX).contains(&tables)) {
            let expected = tables.clamp(1, entries::INT4_TABLES_MAX) * entries::INT4_TABLE_BYTES as u64;
            return Err(BundleError::EntryBytes { entry: name(), got: entry.bytes, expected });
        }
    }
    match expected.into_iter().find(|(_, (_, required))| *required) {
        Some((entry, _)) => Err(BundleError::Missing { entry }),
        None => Ok(()),
    }
}
