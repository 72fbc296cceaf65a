//! A toy arithmetic with the shape of a transformer, for simulations of thousands of runs.
//!
//! A layer's "cache" at a position is a sum over all rows before it, so outputs depend on every
//! earlier position as attention's do, and a part of the layers gives exactly the rows that the
//! whole gives. Layer l, position p, channel c, everything modulo 2^28:
//!
//! ```text
//! kv[l][p][c] = kv[l][p - 1][c] + x[c] * (2 l + 3)
//! y[c]        = 5 x[c] + (kv[l][p][c] xor x[c + 1]) + l
//! ```

use crate::compute::{ComputeError, ComputeFactory, Output, Sampled, StageCompute, StageProver};
use crate::data::Values;
use crate::message::{Alternative, Logprobs, Open, Prove};
use crate::node::Served;
use crate::rows::StageRows;
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::leaf::{self, StageSecrets};
use lockstep_base::merkle::{Accumulator, root};
use lockstep_base::op::{Op, Place};
use lockstep_base::params::draw;
use lockstep_base::part::Part;
use lockstep_base::receipt_file::ServedLeaf;
use lockstep_runtime::stage::SpanSummary;
use lockstep_runtime::trace::Edge;
use std::collections::BTreeMap;

const MASK: i32 = (1 << 28) - 1;

/// A toy model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToyModel {
    /// Layers.
    pub n_layers: u32,
    /// Width of the residual stream.
    pub d_model: u32,
    /// Vocabulary.
    pub vocab: u32,
    /// Longest sequence.
    pub context: u32,
}

impl ToyModel {
    /// Its name in messages: the digest of its shape.
    #[must_use]
    pub fn root(&self) -> Digest {
        let shape = [self.n_layers, self.d_model, self.vocab, self.context];
        Digest::tagged("toy", &[&shape.map(u32::to_be_bytes).concat()])
    }

    /// What a node of `part` serves.
    #[must_use]
    pub fn served(&self, part: Part) -> Served {
        Served {
            model_root: self.root(),
            opset: "toy-0".to_owned(),
            model: "toy".to_owned(),
            part,
            n_layers: self.n_layers,
            d_model: self.d_model,
            vocab: self.vocab,
            context: self.context,
            adapters: Vec::new(),
        }
    }
}

impl ComputeFactory for ToyModel {
    fn open(&self, open: &Open) -> Result<Box<dyn StageCompute>, ComputeError> {
        let toy = Toy::new(*self, open.part, open.secrets.clone(), open.sampler_seed);
        Ok(Box::new(Toy { full_trace: open.full_trace, logprobs: open.logprobs, ..toy }))
    }
}

/// "Proves" the toy: a proof is a digest of what it would be about, as large as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToyProver {
    /// Bytes of a proof, at least 32.
    pub bytes: usize,
}

impl StageProver for ToyProver {
    fn commit(&self, rows: &[i32]) -> Digest {
        let bytes: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
        Digest::tagged("toy/commit", &[&bytes])
    }

    fn prove(&self, open: &Open, rows: &StageRows, prove: &Prove) -> Result<Vec<u8>, ComputeError> {
        if prove.tokens.is_empty() {
            return Err(ComputeError::Input("no tokens, expected some".into()));
        }
        let tokens: Vec<u8> = prove.tokens.iter().flat_map(|token| token.to_be_bytes()).collect();
        let ends = [&rows.entering, &rows.leaving].map(|rows| self.commit(rows).0);
        let proof = Digest::tagged("toy/proof", &[&open.stage.to_be_bytes(), &tokens, &ends.concat()]);
        Ok(proof.0.iter().copied().cycle().take(self.bytes.max(32)).collect())
    }
}

/// Leaves of one position that no receipt covers yet.
#[derive(Debug, Default)]
struct Position {
    input: Vec<Digest>,
    output: Vec<Digest>,
    kv: Vec<Digest>,
    trace: Vec<Digest>,
    served: Vec<ServedLeaf>,
}

/// One task of one part of a toy model.
#[derive(Debug)]
pub struct Toy {
    model: ToyModel,
    part: Part,
    secrets: StageSecrets,
    full_trace: bool,
    sampler_seed: Digest,
    logprobs: Option<u8>,
    /// For each layer, one row a position.
    cache: Vec<Vec<Vec<i32>>>,
    unsigned: BTreeMap<u32, Position>,
    kv: Accumulator,
}

impl Toy {
    fn new(model: ToyModel, part: Part, secrets: StageSecrets, sampler_seed: Digest) -> Toy {
        Toy {
            model,
            part,
            secrets,
            full_trace: false,
            sampler_seed,
            logprobs: None,
            cache: vec![Vec::new(); part.layer_count()],
            unsigned: BTreeMap::new(),
            kv: Accumulator::default(),
        }
    }

    fn embed(&self, token: u32, position: u32) -> Vec<i32> {
        let at = |c: u32| {
            (token.wrapping_mul(2_654_435_761) ^ position.wrapping_mul(40_503)).rotate_left(c) as i32
        };
        (0..self.model.d_model).map(|c| at(c) & MASK).collect()
    }

    fn layer(&mut self, index: usize, position: u32, x: &mut [i32]) {
        let layer = self.part.first_layer + index as u32;
        let factor = 2 * layer as i32 + 3;
        let before = self.cache[index].last();
        let kv: Vec<i32> = (0..x.len())
            .map(|c| before.map_or(0, |row| row[c]).wrapping_add(x[c].wrapping_mul(factor)) & MASK)
            .collect();
        let input = x.to_vec();
        for (c, y) in x.iter_mut().enumerate() {
            let mixed = kv[c] ^ input[(c + 1) % input.len()];
            *y = y.wrapping_mul(5).wrapping_add(mixed).wrapping_add(layer as i32) & MASK;
        }
        let place = |op| Place { position, layer: layer as u16, op };
        self.record(place(Op::KCodes), &kv);
        self.record(place(Op::VCodes), &kv[..1]);
        self.record(place(Op::FfnResidual), x);
        self.cache[index].push(kv);
    }

    fn record(&mut self, place: Place, values: &[i32]) {
        let is_kv = matches!(place.op, Op::KCodes | Op::VCodes);
        if !is_kv && !self.full_trace {
            return;
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let entry = self.unsigned.entry(place.position).or_default();
        for (index, bytes, hash) in leaf::leaves(&self.secrets.own, place, 0, &bytes) {
            if is_kv { &mut entry.kv } else { &mut entry.trace }.push(hash);
            entry.served.push(ServedLeaf {
                position: place.position,
                layer: place.layer,
                op: place.op as u8,
                chunk: index.chunk,
                bytes: bytes.to_vec(),
            });
        }
    }

    fn sample(&self, position: u32, x: &[i32]) -> Sampled {
        let random = draw(&self.sampler_seed, position + 1);
        let mixed =
            x.iter().fold(random, |mixed, v| mixed.rotate_left(7).wrapping_mul(0x100_0000_01b3) ^ *v as u64);
        let token = (mixed % u64::from(self.model.vocab)) as u32;
        let top = (0..self.logprobs.unwrap_or(0).into())
            .map(|i: u32| Alternative { token: (token + i) % self.model.vocab, logit: x[0] - i as i32 });
        let logprobs = self.logprobs.map(|_| Logprobs {
            chosen: x[0],
            max: x[0],
            weight_sum: 1 << 24,
            frac: 16,
            top: top.collect(),
        });
        Sampled { token, logprobs }
    }
}

impl StageCompute for Toy {
    fn forward(&mut self, start: u32, values: &Values, sample_from: u32) -> Result<Output, ComputeError> {
        let mut rows: Vec<Vec<i32>> = match values {
            Values::Tokens(tokens) => {
                (start..).zip(tokens).map(|(at, token)| self.embed(*token, at)).collect()
            }
            Values::Rows(rows) => rows.chunks(self.model.d_model as usize).map(<[i32]>::to_vec).collect(),
        };
        let mut sampled = Vec::new();
        for (i, row) in rows.iter_mut().enumerate() {
            let position = start + i as u32;
            if self.cache.first().is_some_and(|cache| cache.len() != position as usize) {
                return Err(ComputeError::Input(format!("position {position} is not the next")));
            }
            let input = match values {
                Values::Tokens(tokens) => {
                    vec![Edge::token(&self.secrets, position).token_leaf(Some(tokens[i]))]
                }
                Values::Rows(_) => {
                    Edge::input(&self.secrets, self.part.first_layer, position).row_leaves(row)
                }
            };
            (0..self.cache.len()).for_each(|index| self.layer(index, position, row));
            let output = if self.part.head {
                let chosen = (position >= sample_from).then(|| self.sample(position, row));
                let token = chosen.as_ref().map(|sampled| sampled.token);
                sampled.extend(chosen);
                vec![Edge::sample(&self.secrets, position).token_leaf(token)]
            } else {
                Edge::output(&self.secrets, self.part.end_layer, position).row_leaves(row)
            };
            let entry = self.unsigned.entry(position).or_default();
            (entry.input, entry.output) = (input, output);
        }
        Ok(if self.part.head { Output::Sampled(sampled) } else { Output::Rows(rows.concat()) })
    }

    fn close_span(&mut self, positions: Range<u32>) -> SpanSummary {
        let (mut input, mut output, mut trace, mut leaves) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for position in positions {
            let entry = self.unsigned.remove(&position).unwrap_or_default();
            self.kv.push(root(&entry.kv));
            input.extend(entry.input);
            output.extend(entry.output);
            trace.extend(entry.trace);
            leaves.extend(entry.served);
        }
        SpanSummary {
            in_root: root(&input),
            out_root: root(&output),
            kv_root: self.kv.root(),
            trace_root: root(&trace),
            leaves,
        }
    }

    fn truncate(&mut self, position: u32) {
        self.cache.iter_mut().for_each(|cache| cache.truncate(position as usize));
        drop(self.unsigned.split_off(&position));
    }
}

/// What a single machine answers: `prompt` and then `max_tokens` tokens, or fewer up to a stop
/// token or the end of the context. The answer that every route must give as well.
#[must_use]
pub fn reference(
    model: ToyModel,
    sampler_seed: &Digest,
    prompt: &[u32],
    max_tokens: u32,
    stop: &[u32],
) -> Vec<u32> {
    let secrets = StageSecrets { input: Digest::ZERO, output: Digest::ZERO, own: Digest::ZERO };
    let mut toy = Toy::new(model, Part::whole(model.n_layers), secrets, *sampler_seed);
    let mut tokens = prompt.to_vec();
    let mut fed = 0;
    loop {
        let input = Values::Tokens(tokens[fed..].to_vec());
        let last = tokens.len() as u32 - 1;
        let Ok(Output::Sampled(sampled)) = toy.forward(fed as u32, &input, last) else {
            unreachable!("a whole part samples")
        };
        let last = sampled.last().expect("the last position is sampled");
        fed = tokens.len();
        tokens.push(last.token);
        let answered = (tokens.len() - prompt.len()) as u32;
        if answered == max_tokens || stop.contains(&last.token) || fed as u32 == model.context {
            return tokens;
        }
    }
}
