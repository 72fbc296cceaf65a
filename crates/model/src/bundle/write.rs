//! Writing a bundle: the same contents give the same bytes.

use super::entries::{bits_of, names};
use super::error::BundleError;
use super::layout::{HEADER_BYTES, Header, KIND_MODEL, Layout, Manifest, Placed};
use super::structure::Matrix;
use super::text::TokenizerSection;
use lockstep_base::cbor;
use lockstep_base::digest::Digest;
use lockstep_base::manifest::{self, Entry, EntryKind};
use lockstep_base::weights::{
    DenseWeights, Embedding, FfnWeights, Gain, LayerWeights, Linear, ModelWeights, Region,
};
use std::borrow::Cow;
use std::path::Path;

/// What goes into a bundle.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// All weights of a model.
    pub weights: &'a ModelWeights,
    /// Tokenizer.
    pub tokenizer: &'a TokenizerSection,
    /// Chat template, if the model has one.
    pub chat_template: Option<&'a str>,
}

/// One entry before it is placed.
pub(super) struct Section<'a> {
    entry: Entry,
    bytes: Cow<'a, [u8]>,
}

/// The bytes of a bundle.
///
/// # Errors
/// [`BundleError::Missing`] if `weights` are only a part of a model, [`BundleError::ManifestOrder`]
/// if the model has too many layers for a manifest.
pub fn write(contents: &Contents<'_>) -> Result<Vec<u8>, BundleError> {
    file(KIND_MODEL, sections(contents)?)
}

/// The bytes of a file of `kind` with these sections.
pub(super) fn file(kind: u32, mut sections: Vec<Section<'_>>) -> Result<Vec<u8>, BundleError> {
    sections.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
    let entries: Vec<Entry> = sections.iter().map(|section| section.entry.clone()).collect();
    let model_root = manifest::model_root(&entries).map_err(BundleError::ManifestOrder)?;
    let (manifest, file_bytes) = place(&entries);
    let mut file = vec![0; file_bytes as usize];
    let header =
        Header { kind, manifest_bytes: cbor::encode(&manifest).len() as u64, file_bytes, model_root };
    file[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    let encoded = cbor::encode(&manifest);
    file[HEADER_BYTES..HEADER_BYTES + encoded.len()].copy_from_slice(&encoded);
    for (placed, section) in manifest.0.iter().zip(&sections) {
        file[placed.offset as usize..][..section.bytes.len()].copy_from_slice(&section.bytes);
    }
    Ok(file)
}

/// Writes a bundle beside `path`, then renames it, so that an open bundle never changes.
///
/// # Errors
/// As [`write()`], and if the file cannot be written.
pub fn write_file(path: &Path, contents: &Contents<'_>) -> Result<Digest, BundleError> {
    replace(path, &write(contents)?)
}

/// Puts `bytes` at `path` in one step; the root in their header.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<Digest, BundleError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
    if let Err(source) = written {
        let _ = std::fs::remove_file(&partial);
        return Err(BundleError::Io { path: path.into(), source });
    }
    Ok(Digest(std::array::from_fn(|i| bytes[32 + i])))
}

/// Offsets depend on the manifest's length, which depends on the offsets. Both only grow with each
/// other, so that iterating from 0 rises to the smallest length that stands.
fn place(entries: &[Entry]) -> (Manifest, u64) {
    let mut manifest_bytes = 0;
    loop {
        let mut layout = Layout::after_manifest(manifest_bytes);
        let placed = entries
            .iter()
            .map(|entry| Placed {
                entry: entry.clone(),
                offset: layout.place(entry.bytes).expect("what is in memory fits 64 bits"),
            })
            .collect();
        let manifest = Manifest(placed);
        let length = cbor::encode(&manifest).len() as u64;
        if length == manifest_bytes {
            return (manifest, layout.end());
        }
        manifest_bytes = length;
    }
}

fn sections<'a>(contents: &Contents<'a>) -> Result<Vec<Section<'a>>, BundleError> {
    let weights = contents.weights;
    let missing = |entry: &str| BundleError::Missing { entry: entry.into() };
    if weights.first_layer != 0 || weights.layers.len() != weights.config.n_layers as usize {
        return Err(missing(&names::layer(weights.layers.len(), "q")));
    }
    let mut all = vec![
        blob(names::CONFIG, cbor::encode(&weights.config)),
        blob(names::TOKENIZER, cbor::encode(contents.tokenizer)),
        blob(names::EXP2, weights.tables.exp2.iter().flat_map(|x| x.to_le_bytes()).collect()),
        blob(names::EXP2_SAMPLE, weights.tables.exp2_sample.iter().flat_map(|x| x.to_le_bytes()).collect()),
        blob(names::ACTIVATION, weights.tables.activation.iter().flat_map(|x| x.to_le_bytes()).collect()),
        embedding(names::EMBED, weights.embed.as_ref().ok_or_else(|| missing(names::EMBED))?),
    ];
    match &weights.head {
        Some(head) => all.push(linear(names::HEAD.into(), head)),
        None if weights.config.pooling.is_none() => return Err(missing(names::HEAD)),
        None => {}
    }
    let tables = &weights.tables;
    if !tables.alibi.is_empty() {
        let bytes = tables.alibi.iter().flat_map(|slope| {
            let [low, high] = slope.a.to_le_bytes();
            [low, high, slope.b]
        });
        all.push(blob(names::ALIBI, bytes.collect()));
    }
    for (name, table) in [(names::SCORE_CAP, &tables.score_cap), (names::LOGIT_CAP, &tables.logit_cap)] {
        if !table.is_empty() {
            all.push(blob(name, table.iter().flat_map(|x| x.to_le_bytes()).collect()));
        }
    }
    all.extend(weights.embed_norm.as_ref().map(|gain| gain_section(names::EMBED_NORM, gain)));
    if let Some(template) = contents.chat_template {
        all.push(blob(names::CHAT_TEMPLATE, template.as_bytes().to_vec()));
    }
    if let Some(positions) = &weights.positions {
        all.push(embedding(names::POSITIONS, positions));
    }
    if !weights.tables.rope.is_empty() {
        all.push(blob(
            names::ROPE,
            weights.tables.rope.iter().flatten().flat_map(|x| x.to_le_bytes()).collect(),
        ));
    }
    if !weights.tables.int4.is_empty() {
        all.push(blob(names::INT4, weights.tables.int4.iter().flatten().map(|x| *x as u8).collect()));
    }
    for (index, layer) in weights.layers.iter().enumerate() {
        all.push(blob(
            &names::k_center(index),
            layer.k_center.iter().flat_map(|x| x.to_le_bytes()).collect(),
        ));
        let matrices = layer_matrices(layer);
        all.extend(
            matrices.into_iter().map(|(matrix, weights)| linear(names::layer(index, matrix.name()), weights)),
        );
        if let FfnWeights::Experts { router, experts } = &layer.ffn {
            all.push(linear(names::layer(index, Matrix::Router.name()), router));
            for (matrix, parts) in expert_matrices(experts) {
                let name = names::layer(index, matrix.name());
                let stacked = stack(&parts).ok_or_else(|| missing(&name))?;
                all.push(linear(name, &stacked));
            }
        }
        let gains = [
            ("q_norm", &layer.q_norm),
            ("k_norm", &layer.k_norm),
            ("attn_post", &layer.attn_post),
            ("ffn_post", &layer.ffn_post),
        ];
        for (name, gain) in gains {
            all.extend(gain.as_ref().map(|gain| gain_section(&names::layer(index, name), gain)));
        }
    }
    Ok(all)
}

fn expert_matrices(experts: &[DenseWeights]) -> Vec<(Matrix, Vec<&Linear>)> {
    let mut all = vec![
        (Matrix::ExpertUp, experts.iter().map(|expert| &expert.up).collect()),
        (Matrix::ExpertDown, experts.iter().map(|expert| &expert.down).collect()),
    ];
    let gates: Vec<&Linear> = experts.iter().filter_map(|expert| expert.gate.as_ref()).collect();
    if !gates.is_empty() {
        all.push((Matrix::ExpertGate, gates));
    }
    all
}

/// Layers of the same format and width, one below the other; `None` if they differ.
fn stack(parts: &[&Linear]) -> Option<Linear> {
    let first = parts.first()?;
    let same = |part: &&Linear| {
        (part.rows, part.cols, part.format, part.pre_shift, part.out_frac, part.bias.len())
            == (first.rows, first.cols, first.format, first.pre_shift, first.out_frac, first.bias.len())
    };
    if !parts.iter().all(same) {
        return None;
    }
    let bytes = |of: fn(&Linear) -> &Region| {
        Region::from(parts.iter().flat_map(|part| of(part).iter().copied()).collect::<Vec<u8>>())
    };
    Some(Linear {
        rows: parts.len() * first.rows,
        cols: first.cols,
        format: first.format,
        codes: bytes(|part| &part.codes),
        table_ids: bytes(|part| &part.table_ids),
        multipliers: parts.iter().flat_map(|part| part.multipliers.iter().copied()).collect(),
        shifts: parts.iter().flat_map(|part| part.shifts.iter().copied()).collect(),
        bias: parts.iter().flat_map(|part| part.bias.iter().copied()).collect(),
        pre_shift: first.pre_shift,
        out_frac: first.out_frac,
    })
}

fn gain_section(name: &str, gain: &Gain) -> Section<'static> {
    let mut bytes = gain.eps.to_le_bytes().to_vec();
    bytes.extend([gain.out_frac as u8, gain.centred.into()]);
    bytes.extend(gain.mantissas.iter().flat_map(|x| x.to_le_bytes()));
    bytes.extend(gain.shifts.iter().map(|x| *x as u8));
    bytes.extend(gain.offsets.iter().flat_map(|x| x.to_le_bytes()));
    blob(name, bytes)
}

fn layer_matrices(layer: &LayerWeights) -> Vec<(Matrix, &Linear)> {
    let mut all =
        vec![(Matrix::Q, &layer.q), (Matrix::K, &layer.k), (Matrix::V, &layer.v), (Matrix::O, &layer.o)];
    if let Some(ffn) = layer.ffn.dense() {
        all.extend(ffn.gate.as_ref().map(|gate| (Matrix::Gate, gate)));
        all.extend([(Matrix::Up, &ffn.up), (Matrix::Down, &ffn.down)]);
    }
    all
}

pub(super) fn blob(name: &str, bytes: Vec<u8>) -> Section<'static> {
    let root = manifest::blob_root(&bytes);
    let entry = Entry { name: name.into(), kind: EntryKind::Blob, bytes: bytes.len() as u64, root };
    Section { entry, bytes: bytes.into() }
}

fn embedding<'a>(name: &str, table: &'a Embedding) -> Section<'a> {
    let kind = EntryKind::Embedding { rows: table.rows as u32, cols: table.cols as u32, frac: table.frac };
    let bytes: &[u8] = &table.codes;
    let entry =
        Entry { name: name.into(), kind, bytes: bytes.len() as u64, root: manifest::embedding_root(table) };
    Section { entry, bytes: bytes.into() }
}

pub(super) fn linear(name: String, weights: &Linear) -> Section<'static> {
    let kind = EntryKind::Linear {
        rows: weights.rows as u32,
        cols: weights.cols as u32,
        bits: bits_of(weights.format),
        pre_shift: weights.pre_shift,
        out_frac: weights.out_frac,
        bias: !weights.bias.is_empty(),
    };
    let mut bytes = Vec::with_capacity(weights.codes.len() + weights.table_ids.len() + 6 * weights.rows);
    bytes.extend_from_slice(&weights.codes);
    bytes.extend_from_slice(&weights.table_ids);
    bytes.extend_from_slice(&weights.multipliers);
    bytes.extend_from_slice(&weights.shifts);
    weights.bias.iter().for_each(|bias| bytes.extend_from_slice(&bias.to_le_bytes()));
    let entry = Entry { name, kind, bytes: bytes.len() as u64, root: manifest::linear_root(weights) };
    Section { entry, bytes: bytes.into() }
}
