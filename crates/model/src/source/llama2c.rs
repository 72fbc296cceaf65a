//! llama2.c checkpoints, both float layouts (github.com/karpathy/llama2.c, `export.py` and `run.c`).
//!
//! ```text
//! legacy   7 x i32: dim hidden n_layers n_heads n_kv_heads vocab seq      (vocab < 0: the head is not the embedding)
//!          embed, attn_norm of all layers, q of all layers, k, v, o, ffn_norm, gate, down, up, final_norm,
//!          cos and sin tables (seq x head_dim/2 each, skipped: they follow from theta), head if untied
//! version 1  "ak42", i32 1, the same 7 x i32, u8 tied, zeros up to 256 bytes
//!          attn_norm, ffn_norm, final_norm, embed, q, k, v, o, gate, down, up, head if untied
//! ```
//! Both rotate adjacent pairs with theta 10000, so q and k are taken as they are. The RMS epsilon is 1e-5 by convention.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::SourceError;
use super::config::{FloatConfig, HeadKind, Sizes};
use super::files::{file_len, io_error, read_f32};
use super::matrix::{Matrix, checked_vector, element_count};
use super::model::{DenseFfn, Ffn, FloatLayer, FloatModel, Linear, NormWeights};
use super::positions::{Positions, Rope};

/// First bytes of every layout that has a version.
const MAGIC: u32 = 0x616b_3432;
const LEGACY_HEADER_BYTES: u64 = 28;
const V1_HEADER_BYTES: usize = 256;
const ROPE_THETA: f64 = 10_000.0;
const NORM_EPS: f64 = 1e-5;

/// Which of the two orders the tensors follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Legacy,
    V1,
}

/// Reads a checkpoint of either layout.
pub fn load(path: &Path) -> Result<FloatModel, SourceError> {
    let got = file_len(path)?;
    let mut file = File::open(path).map_err(io_error(path))?;
    let (layout, config) = read_header(path, &mut file, got)?;
    let expected = expected_bytes(layout, &config)?;
    if got != expected {
        return Err(SourceError::Length { path: path.into(), got, expected });
    }
    let mut reader = Reader { path, file };
    match layout {
        Layout::Legacy => read_legacy(&mut reader, config),
        Layout::V1 => read_v1(&mut reader, config),
    }?
    .checked()
}

fn read_header(path: &Path, file: &mut File, len: u64) -> Result<(Layout, FloatConfig), SourceError> {
    if len < LEGACY_HEADER_BYTES {
        return Err(SourceError::Length { path: path.into(), got: len, expected: LEGACY_HEADER_BYTES });
    }
    let mut header = vec![0u8; LEGACY_HEADER_BYTES as usize];
    file.read_exact(&mut header).map_err(io_error(path))?;
    if word(&header, 0) as u32 != MAGIC {
        let vocab = word(&header, 5);
        return Ok((Layout::Legacy, config(path, &header, 0, vocab > 0)?));
    }
    if len < V1_HEADER_BYTES as u64 {
        return Err(SourceError::Length { path: path.into(), got: len, expected: V1_HEADER_BYTES as u64 });
    }
    header.resize(V1_HEADER_BYTES, 0);
    file.read_exact(&mut header[LEGACY_HEADER_BYTES as usize..]).map_err(io_error(path))?;
    let version = word(&header, 1);
    if version != 1 {
        let reason = format!("got version {version}, expected 1 (float; version 2 is quantised already)");
        return Err(SourceError::Header { path: path.into(), reason });
    }
    let tied = match header[36] {
        0 => false,
        1 => true,
        got => {
            let reason = format!("tied-head flag: got {got}, expected 0 or 1");
            return Err(SourceError::Header { path: path.into(), reason });
        }
    };
    if header[37..].iter().any(|&byte| byte != 0) {
        return Err(SourceError::Header { path: path.into(), reason: "padding is not zero".into() });
    }
    Ok((Layout::V1, config(path, &header, 2, tied)?))
}

/// The 7 words from `first` on.
fn config(path: &Path, header: &[u8], first: usize, tied_head: bool) -> Result<FloatConfig, SourceError> {
    let number = |offset: usize| word(header, first + offset).unsigned_abs() as usize;
    let negative = (0..7).find(|&offset| word(header, first + offset) < 0 && !(first == 0 && offset == 5));
    if let Some(offset) = negative {
        let reason =
            format!("word {offset}: got {}, expected a positive number", word(header, first + offset));
        return Err(SourceError::Header { path: path.into(), reason });
    }
    let (d_model, n_heads) = (number(0), number(3));
    if n_heads == 0 || !d_model.is_multiple_of(n_heads) {
        return Err(SourceError::NotDivisible {
            left: "n_heads",
            left_value: n_heads,
            right: "dim",
            right_value: d_model,
        });
    }
    let sizes = Sizes {
        n_layers: number(2),
        d_model,
        n_heads,
        n_kv_heads: number(4),
        head_dim: d_model / n_heads,
        ffn_hidden: number(1),
        vocab: number(5),
        context: number(6),
    };
    FloatConfig {
        norm_eps: NORM_EPS,
        positions: Positions::Rope(Rope::plain(ROPE_THETA, sizes.head_dim)),
        head: if tied_head { HeadKind::Tied } else { HeadKind::Own },
        ..FloatConfig::llama(sizes)
    }
    .checked()
}

/// Header plus all floats, in u64 so that no header can make it wrap.
fn expected_bytes(layout: Layout, c: &FloatConfig) -> Result<u64, SourceError> {
    let (d, q, kv, hidden) = (c.d_model as u64, c.q_dim() as u64, c.kv_dim() as u64, c.ffn_hidden as u64);
    let vocab = element_count("embed", &[c.vocab, c.d_model])? as u64;
    let layer = 2 * d + 2 * d * q + 2 * d * kv + 3 * d * hidden;
    let floats = c.n_layers as u64 * layer + d + vocab * if c.head == HeadKind::Tied { 1 } else { 2 };
    Ok(match layout {
        Layout::Legacy => LEGACY_HEADER_BYTES + 4 * (floats + rope_table_floats(c)),
        Layout::V1 => V1_HEADER_BYTES as u64 + 4 * floats,
    })
}

fn rope_table_floats(c: &FloatConfig) -> u64 {
    c.context as u64 * c.head_dim as u64
}

fn read_legacy(r: &mut Reader<'_>, c: FloatConfig) -> Result<FloatModel, SourceError> {
    let embed = r.matrix("embed", c.vocab, c.d_model)?;
    let attn_norms = r.norms("attn_norm", c.n_layers, c.d_model)?;
    let attention = r.attention(&c)?;
    let ffn_norms = r.norms("ffn_norm", c.n_layers, c.d_model)?;
    let ffn = r.ffn(&c)?;
    let final_norm = r.norms("final_norm", 1, c.d_model)?.remove(0);
    r.skip(rope_table_floats(&c) * 4)?;
    let head = r.head(&c)?;
    Ok(assemble(c, embed, attn_norms, attention, ffn_norms, ffn, final_norm, head))
}

fn read_v1(r: &mut Reader<'_>, c: FloatConfig) -> Result<FloatModel, SourceError> {
    let attn_norms = r.norms("attn_norm", c.n_layers, c.d_model)?;
    let ffn_norms = r.norms("ffn_norm", c.n_layers, c.d_model)?;
    let final_norm = r.norms("final_norm", 1, c.d_model)?.remove(0);
    let embed = r.matrix("embed", c.vocab, c.d_model)?;
    let attention = r.attention(&c)?;
    let ffn = r.ffn(&c)?;
    let head = r.head(&c)?;
    Ok(assemble(c, embed, attn_norms, attention, ffn_norms, ffn, final_norm, head))
}

/// All layers of one tensor lie together in the file; a layer takes one of each.
type PerLayer = Vec<Matrix>;

fn assemble(
    config: FloatConfig,
    embed: Matrix,
    attn_norms: Vec<NormWeights>,
    attention: [PerLayer; 4],
    ffn_norms: Vec<NormWeights>,
    ffn: [PerLayer; 3],
    final_norm: NormWeights,
    head: Option<Matrix>,
) -> FloatModel {
    let [q, k, v, o] = attention.map(|all| all.into_iter().map(|weight| Linear { weight, bias: None }));
    let [gate, down, up] = ffn.map(|all| all.into_iter().map(|weight| Linear { weight, bias: None }));
    let norms = attn_norms.into_iter().zip(ffn_norms);
    let attention = q.zip(k).zip(v.zip(o));
    let layers = norms
        .zip(attention.zip(gate.zip(down.zip(up))))
        .map(|((attn_norm, ffn_norm), (((q, k), (v, o)), (gate, (down, up))))| FloatLayer {
            attn_norm,
            q,
            k,
            v,
            o,
            q_norm: None,
            k_norm: None,
            attn_post_norm: None,
            ffn_norm,
            ffn: Ffn::Dense(DenseFfn { gate: Some(gate), up, down }),
            ffn_post_norm: None,
        })
        .collect();
    let final_norm = Some(final_norm);
    FloatModel { config, embed, positions: None, embed_norm: None, layers, final_norm, head }
}

/// Reads tensors one after the other; the total length was checked before.
struct Reader<'a> {
    path: &'a Path,
    file: File,
}

impl Reader<'_> {
    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix, SourceError> {
        let data = read_f32(self.path, &mut self.file, element_count(name, &[rows, cols])?)?;
        Matrix::new(name, rows, cols, data)
    }

    fn per_layer(
        &mut self,
        name: &str,
        n_layers: usize,
        rows: usize,
        cols: usize,
    ) -> Result<PerLayer, SourceError> {
        (0..n_layers).map(|layer| self.matrix(&format!("layers.{layer}.{name}"), rows, cols)).collect()
    }

    fn norms(&mut self, name: &str, n: usize, d_model: usize) -> Result<Vec<NormWeights>, SourceError> {
        (0..n)
            .map(|layer| {
                let data = read_f32(self.path, &mut self.file, d_model)?;
                let gamma = checked_vector(&format!("layers.{layer}.{name}"), d_model, data)?;
                Ok(NormWeights { gamma, beta: None })
            })
            .collect()
    }

    fn attention(&mut self, c: &FloatConfig) -> Result<[PerLayer; 4], SourceError> {
        let (n, d, q, kv) = (c.n_layers, c.d_model, c.q_dim(), c.kv_dim());
        Ok([
            self.per_layer("q", n, q, d)?,
            self.per_layer("k", n, kv, d)?,
            self.per_layer("v", n, kv, d)?,
            self.per_layer("o", n, d, q)?,
        ])
    }

    /// gate (`w1`), down (`w2`), up (`w3`): the file's order.
    fn ffn(&mut self, c: &FloatConfig) -> Result<[PerLayer; 3], SourceError> {
        let (n, d, hidden) = (c.n_layers, c.d_model, c.ffn_hidden);
        Ok([
            self.per_layer("gate", n, hidden, d)?,
            self.per_layer("down", n, d, hidden)?,
            self.per_layer("up", n, hidden, d)?,
        ])
    }

    fn head(&mut self, c: &FloatConfig) -> Result<Option<Matrix>, SourceError> {
        let own = c.head == HeadKind::Own;
        own.then(|| self.matrix("head", c.vocab, c.d_model)).transpose()
    }

    fn skip(&mut self, bytes: u64) -> Result<(), SourceError> {
        let skipped = std::io::copy(&mut (&mut self.file).take(bytes), &mut std::io::sink());
        skipped.map(drop).map_err(io_error(self.path))
    }
}

fn word(header: &[u8], index: usize) -> i32 {
    let bytes = &header[4 * index..4 * index + 4];
    i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
