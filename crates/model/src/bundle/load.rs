//! Reading what a part needs. Small entries are verified and parsed at once; matrices and embeddings are
//! handed to [`super::verify`], which checks their structure before anybody gets them and compares them
//! with the model root in parallel, in the background if the caller likes.

use super::entries::{GAIN_HEAD_BYTES, SLOPE_BYTES, format_of, names};
use super::error::BundleError;
use super::layout::Placed;
use super::open::Bundle;
use super::structure::{self, EMBEDDING_FRACS, Matrix, StructureError};
use super::verify::{Job, Loading, Rows, Verification, Work};
use lockstep_base::config::{Block, FeedForward, Positions};
use lockstep_base::manifest::{self, Entry, EntryKind};
use lockstep_base::part::Part;
use lockstep_base::weights::{
    DenseWeights, Embedding, FfnWeights, Gain, LayerWeights, Linear, ModelWeights, Region, Slope, Tables,
};
use std::cell::RefCell;

impl Bundle {
    /// The weights of `part`. Every entry that is read is verified against the model root.
    ///
    /// # Errors
    /// [`BundleError`], naming the entry, and the row where it can.
    pub fn load(&self, part: &Part) -> Result<ModelWeights, BundleError> {
        self.load_unverified(part)?.verified()
    }

    /// The weights of `part` as soon as their structure is checked; matrices and embeddings are compared with
    /// the model root in the background. See [`Loading::unverified`] for what that obliges to.
    ///
    /// # Errors
    /// [`BundleError`], naming the entry, and the row where it can.
    pub fn load_unverified(&self, part: &Part) -> Result<Loading, BundleError> {
        let layers = self.config.n_layers;
        let fits = part.first_layer <= part.end_layer
            && part.end_layer <= layers
            && (part.shard, part.shards) == (0, 1);
        if !fits {
            return Err(BundleError::Part { got: part.to_string(), layers });
        }
        let tables = self.tables()?;
        let loader = Loader { bundle: self, jobs: RefCell::default() };
        let learned = self.config.positions == Positions::Learned;
        let embed_norm = part.embed && self.config.block == Block::PostNorm;
        let (width, head) = (self.config.d_model as usize, part.head && self.config.pooling.is_none());
        let weights = ModelWeights {
            config: self.config.clone(),
            embed: part.embed.then(|| loader.embedding(names::EMBED)).transpose()?,
            positions: (part.embed && learned).then(|| loader.embedding(names::POSITIONS)).transpose()?,
            embed_norm: embed_norm.then(|| self.gain(names::EMBED_NORM, width, true)).transpose()?,
            first_layer: part.first_layer as usize,
            layers: (part.first_layer..part.end_layer)
                .map(|index| loader.layer(index as usize))
                .collect::<Result<_, _>>()?,
            head: head.then(|| loader.linear(names::HEAD, Matrix::Head)).transpose()?,
            tables,
        };
        let verification = loader.verify(&weights.tables)?;
        Ok(Loading { weights, verification })
    }

    /// Verifies every byte; `progress` gets (entry, done, total) in bytes of the file.
    ///
    /// # Errors
    /// [`BundleError`], naming the entry, and the row where it can.
    pub fn verify_all(&self, progress: &mut dyn FnMut(&str, u64, u64)) -> Result<(), BundleError> {
        let tables = self.tables()?;
        for Placed { entry, offset } in &self.placed {
            progress(&entry.name, *offset, self.file_bytes());
            let (layer, name) = match entry.name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'))
            {
                Some((layer, name)) => (layer.parse::<usize>().unwrap_or(0), name),
                None => (0, entry.name.as_str()),
            };
            let loader = Loader { bundle: self, jobs: RefCell::default() };
            match entry.kind {
                EntryKind::Embedding { .. } => drop(loader.embedding(&entry.name)?),
                EntryKind::Linear { .. } => {
                    let all = Matrix::of_layer(&self.config, layer);
                    let matrix = all.into_iter().find(|matrix| matrix.name() == name);
                    loader.linear(&entry.name, matrix.unwrap_or(Matrix::Head))?;
                }
                EntryKind::Blob if name == "k_center" => drop(self.k_center(layer)?),
                EntryKind::Blob if name == names::EMBED_NORM => {
                    drop(self.gain(name, self.config.d_model as usize, true)?);
                }
                EntryKind::Blob => {
                    let gains = structure::gains_of_layer(&self.config);
                    match gains.into_iter().find(|(gain, ..)| *gain == name) {
                        Some((_, width, centred)) => drop(self.gain(&entry.name, width, centred)?),
                        None => drop(self.blob(&entry.name)?),
                    }
                }
            }
            loader.verify(&tables)?.wait()?;
        }
        self.tokenizer_section()?;
        self.chat_template()?;
        progress("", self.file_bytes(), self.file_bytes());
        Ok(())
    }

    fn tables(&self) -> Result<Tables, BundleError> {
        let rope = self.config.positions == Positions::Rope;
        let int4 = super::open::find(&self.placed, names::INT4).is_some();
        let bytes = |name, present: bool| {
            present
                .then(|| self.blob(name))
                .transpose()
                .map(|region| region.map_or(Vec::new(), |r| r.to_vec()))
        };
        let words = |bytes: Vec<u8>| {
            bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let rope_bytes = self.config.context as usize * self.config.rope_dim as usize * 2;
        let tables = Tables {
            rope: bytes(names::ROPE, rope)?
                .chunks_exact(rope_bytes.max(1))
                .map(|table| table.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect())
                .collect(),
            alibi: bytes(names::ALIBI, self.config.positions == Positions::Alibi)?
                .chunks_exact(SLOPE_BYTES)
                .map(|b| Slope { a: u16::from_le_bytes([b[0], b[1]]), b: b[2] })
                .collect(),
            score_cap: words(bytes(names::SCORE_CAP, self.config.score_cap.is_some())?),
            logit_cap: words(bytes(names::LOGIT_CAP, self.config.logit_cap.is_some())?),
            exp2: bytes(names::EXP2, true)?
                .chunks_exact(2)
                .map(|b| u16::from_le_bytes([b[0], b[1]]))
                .collect(),
            exp2_sample: bytes(names::EXP2_SAMPLE, true)?
                .chunks_exact(4)
                .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            activation: bytes(names::ACTIVATION, true)?
                .chunks_exact(2)
                .map(|b| i16::from_le_bytes([b[0], b[1]]))
                .collect(),
            int4: bytes(names::INT4, int4)?
                .chunks_exact(16)
                .map(|b| std::array::from_fn(|i| b[i] as i8))
                .collect(),
        };
        structure::check_tables(&tables, &self.config)?;
        Ok(tables)
    }

    fn k_center(&self, layer: usize) -> Result<Vec<i32>, BundleError> {
        let name = names::k_center(layer);
        let bytes = self.blob(&name)?;
        let center: Vec<i32> =
            bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        structure::check_k_center(&name, &center, &self.config)?;
        Ok(center)
    }

    fn gain(&self, name: &str, width: usize, centred: bool) -> Result<Gain, BundleError> {
        let bytes = self.blob(name)?;
        let (head, rest) = bytes.split_at(GAIN_HEAD_BYTES);
        let (mantissas, rest) = rest.split_at(2 * width);
        let (shifts, offsets) = rest.split_at(width);
        let gain = Gain {
            mantissas: mantissas.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect(),
            shifts: shifts.iter().map(|b| *b as i8).collect(),
            offsets: offsets.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            eps: u64::from_le_bytes(std::array::from_fn(|at| head[at])),
            out_frac: head[8] as i8,
            centred: head[9] == 1,
        };
        if head[9] > 1 {
            let what = "flag of the mean";
            let error =
                StructureError::Tensor { tensor: name.into(), what, got: head[9].into(), low: 0, high: 1 };
            return Err(error.into());
        }
        structure::check_gain(name, &gain, width, centred)?;
        Ok(gain)
    }

    /// Verified bytes of an entry without rows.
    pub(super) fn blob(&self, name: &str) -> Result<Region, BundleError> {
        let index = self.find(name)?;
        let bytes = self.section(index)?;
        let (got, expected) = (manifest::blob_root(&bytes), self.placed[index].entry.root);
        if got != expected {
            return Err(BundleError::Root { entry: name.into(), got, expected });
        }
        Ok(bytes)
    }
}

/// Collects what is to be verified while it takes a part apart.
struct Loader<'a> {
    bundle: &'a Bundle,
    jobs: RefCell<Vec<Job>>,
}

impl Loader<'_> {
    /// Checks the structure of what was read, then begins to compare it with the model root.
    fn verify(self, tables: &Tables) -> Result<Verification, BundleError> {
        let work = Work::new(self.jobs.into_inner());
        work.check(tables)?;
        Ok(work.verify())
    }

    fn layer(&self, index: usize) -> Result<LayerWeights, BundleError> {
        let config = &self.bundle.config;
        let linear = |matrix: Matrix| self.linear(&names::layer(index, matrix.name()), matrix);
        let gated = config.feed_forward == FeedForward::Gated;
        let ffn = match config.experts.filter(|_| config.layer_pattern(index).experts) {
            None => FfnWeights::Dense(DenseWeights {
                gate: gated.then(|| linear(Matrix::Gate)).transpose()?,
                up: linear(Matrix::Up)?,
                down: linear(Matrix::Down)?,
            }),
            Some(experts) => {
                let gates = gated.then(|| linear(Matrix::ExpertGate)).transpose()?;
                let (ups, downs) = (linear(Matrix::ExpertUp)?, linear(Matrix::ExpertDown)?);
                let expert = |at: usize| {
                    let part = |all: &Linear| {
                        let rows = all.rows / experts.count as usize;
                        all.rows(at * rows..(at + 1) * rows).ok_or_else(|| BundleError::Missing {
                            entry: names::layer(index, Matrix::ExpertUp.name()),
                        })
                    };
                    Ok(DenseWeights {
                        gate: gates.as_ref().map(part).transpose()?,
                        up: part(&ups)?,
                        down: part(&downs)?,
                    })
                };
                FfnWeights::Experts {
                    router: linear(Matrix::Router)?,
                    experts: (0..experts.count as usize).map(expert).collect::<Result<_, BundleError>>()?,
                }
            }
        };
        let gains = structure::gains_of_layer(config);
        let gain = |name: &str| {
            let found = gains.iter().find(|(gain, ..)| *gain == name);
            found
                .map(|(name, width, centred)| self.bundle.gain(&names::layer(index, name), *width, *centred))
                .transpose()
        };
        Ok(LayerWeights {
            q: linear(Matrix::Q)?,
            k: linear(Matrix::K)?,
            v: linear(Matrix::V)?,
            o: linear(Matrix::O)?,
            k_center: self.bundle.k_center(index)?,
            q_norm: gain("q_norm")?,
            k_norm: gain("k_norm")?,
            attn_post: gain("attn_post")?,
            ffn,
            ffn_post: gain("ffn_post")?,
        })
    }

    fn embedding(&self, name: &str) -> Result<Embedding, BundleError> {
        let index = self.bundle.find(name)?;
        let codes = self.bundle.section(index)?;
        let EntryKind::Embedding { rows, cols, frac } = self.bundle.placed[index].entry.kind else {
            return Err(BundleError::Missing { entry: name.into() });
        };
        if !EMBEDDING_FRACS.contains(&frac) {
            let (low, high) = (i64::from(*EMBEDDING_FRACS.start()), i64::from(*EMBEDDING_FRACS.end()));
            let what = "fractional bits";
            return Err(
                StructureError::Tensor { tensor: name.into(), what, got: frac.into(), low, high }.into()
            );
        }
        let embedding = Embedding { rows: rows as usize, cols: cols as usize, frac, codes };
        self.later(index, Rows::Embedding(embedding.clone()));
        Ok(embedding)
    }

    fn linear(&self, name: &str, matrix: Matrix) -> Result<Linear, BundleError> {
        let index = self.bundle.find(name)?;
        let linear = split_linear(&self.bundle.placed[index].entry.kind, &self.bundle.section(index)?)
            .ok_or_else(|| BundleError::Missing { entry: name.into() })?;
        let config = &self.bundle.config;
        structure::check_matrix_head(name, matrix.shape(config), &matrix.out_fracs(config), &linear)?;
        structure::check_head_bias(name, matrix, &linear)?;
        self.later(index, Rows::Linear(linear.clone()));
        Ok(linear)
    }

    fn later(&self, index: usize, rows: Rows) {
        let Entry { name, root, .. } = &self.bundle.placed[index].entry;
        self.jobs.borrow_mut().push(Job { entry: name.clone(), root: *root, rows });
    }
}

/// The parts of a linear entry; `None` if the kind is another or the length does not fit (both were checked at opening).
pub(super) fn split_linear(kind: &EntryKind, bytes: &Region) -> Option<Linear> {
    let EntryKind::Linear { rows, cols, bits, pre_shift, out_frac, bias } = *kind else { return None };
    let (rows, cols, format) = (rows as usize, cols as usize, format_of(bits)?);
    let mut at = 0;
    let mut take = |length: usize| {
        let region = bytes.slice(at..at + length);
        at += length;
        region
    };
    let codes = take(format.code_bytes(rows, cols))?;
    let table_ids = take(format.id_bytes(rows, cols))?;
    let multipliers = take(rows)?.to_vec();
    let shifts = take(rows)?.to_vec();
    let bias = take(if bias { 4 * rows } else { 0 })?;
    let bias = bias.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Some(Linear { rows, cols, format, codes, table_ids, multipliers, shifts, bias, pre_shift, out_frac })
}
