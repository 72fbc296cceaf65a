//! The statement: the model with this root, fed `tokens`, gives its last `generated` tokens, greedily or by a seed; or an encoder gives a vector. All of it is public.
//! Or a part of it, some layers: that what enters them, which is committed to, gives what leaves them ([`super::boundary`]).
//!
//! Positions are those of all tokens but the last (of an encoder, of all tokens). Added positions are copies of the first one: its token, its position, and they see it
//! alone (in an encoder, what it sees), so nothing about them can go wrong that does not go wrong there. Added channels, heads and rows have no weights and are 0.

mod adapter;
mod attention;
mod feed_forward;
mod head;

pub use super::answer::{Answer, Claim, Sampling};
use super::plan::Plan;
use super::{boundary, embedding};
use crate::argument::{Argument, Roots, WITNESS_CELLS_MAX};
use crate::circuit::{Bit, Linear, Source, View};
use crate::error::PlanError;
use crate::field::{ProofField, residue};
use crate::gadget::linear::{Codes, Layer, Part, Stream};
use crate::gadget::norm::Norm;
use crate::gadget::quantise::{Extent, part_name};
use crate::gadget::{Builder, Built};
use crate::integer::log2_ceil;
use crate::transcript::Sponge;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::config::{Block, ModelConfig};
use lockstep_base::weights::Gain;
use p3_field::{PrimeCharacteristicRing, PrimeField32};

/// Name and version of the protocol: the first thing that a transcript absorbs.
pub const PROTOCOL: &str = "lockstep-proof-decoder-5";
/// Bits of a limb.
pub const LIMB_BITS: u32 = 16;
/// Largest magnitude of the stream that has an argument.
const STREAM_MAX: i64 = 1 << 28;
/// Largest magnitude of queries, keys and values.
const HEAD_MAX: i64 = 32_767;

/// Which positions see which, by how many each sees; and for each part of the heads, what falls with their distance.
struct Seen {
    masks: BTreeMap<Option<usize>, Source>,
    /// By how much sums of blocks are shifted.
    shifts: BTreeMap<Option<usize>, Option<Source>>,
    biases: Vec<Option<(Source, i64)>>,
}

/// A statement that is being proved or verified.
#[derive(Debug)]
pub struct Statement<'a, E: ProofField> {
    answer: Answer<'a>,
    layers: Range<usize>,
    plan: Plan<'a>,
    /// log2 of the positions.
    tokens: usize,
    /// What enters the first layer of a model, position after position.
    embedded: Option<Vec<i64>>,
    sponge: Sponge,
    _field: core::marker::PhantomData<E>,
}

impl<'a, E: ProofField> Statement<'a, E> {
    /// The statement of a whole answer.
    ///
    /// # Errors
    /// If there is no such statement, or no argument for it.
    pub fn new(answer: Answer<'a>) -> Result<Statement<'a, E>, PlanError> {
        Statement::of_layers(answer, 0..answer.weights.config.n_layers as usize, None)
    }

    /// The statement of what the layers `layers` do in an answer; the first of a model embed the tokens, the last choose the answer's. `embedded` are
    /// the rows of the tokens, `(positions, d_model)`, where the weights lack them: who calls has checked them.
    ///
    /// # Errors
    /// If there is no such statement, or no argument for it.
    pub fn of_layers(
        answer: Answer<'a>,
        layers: Range<usize>,
        embedded: Option<&[i64]>,
    ) -> Result<Statement<'a, E>, PlanError> {
        let config = &answer.weights.config;
        answer.check()?;
        let positions = answer.positions();
        let plan = Plan::new(answer.weights, answer.adapter, positions, layers.clone())?;
        // A column of logits alone, known before anything of that size is written out.
        let logits = 1usize << (log2_ceil(answer.generated.max(1)) + plan.vocab);
        if plan.head.is_some() && logits > WITNESS_CELLS_MAX {
            return Err(PlanError::TooLarge { got: logits, limit: WITNESS_CELLS_MAX });
        }
        let tokens = &answer.tokens[..positions];
        let embed = || match embedded {
            Some(rows) if rows.len() == tokens.len() * config.d_model as usize => Ok(rows.to_vec()),
            Some(rows) => {
                let expected = tokens.len() * config.d_model as usize;
                Err(PlanError::Entering { got: rows.len(), expected })
            }
            None => embedding::embedded(answer.weights, tokens),
        };
        let embedded = (layers.start == 0).then(embed).transpose()?;
        let mut sponge = Sponge::new(PROTOCOL);
        sponge.absorb("field", E::NAME.as_bytes());
        answer.absorb(&mut sponge);
        sponge.absorb("first layer", &(layers.start as u64).to_le_bytes());
        sponge.absorb("end of layers", &(layers.end as u64).to_le_bytes());
        Ok(Statement {
            answer,
            layers,
            plan,
            tokens: log2_ceil(positions),
            embedded,
            sponge,
            _field: core::marker::PhantomData,
        })
    }

    /// A transcript that has absorbed the statement.
    #[must_use]
    pub fn sponge(&self) -> Sponge {
        self.sponge.clone()
    }

    /// What a builder left, with the transcript, for a whole model.
    ///
    /// # Errors
    /// If it is too large, or not of a whole model.
    pub fn argument(&self, built: Built<'a, E::Base>) -> Result<Argument<'a, E>, PlanError> {
        self.argument_with(built, &Roots::default())
    }

    /// What a builder left, with the transcript: `roots` are those of what enters and of what leaves, where these are not a model's ends, and that of the weights,
    /// where they are committed to.
    ///
    /// # Errors
    /// If it is too large, or has other boundaries.
    pub fn argument_with(
        &self,
        built: Built<'a, E::Base>,
        roots: &Roots,
    ) -> Result<Argument<'a, E>, PlanError> {
        let expected = usize::from(self.embedded.is_none()) + usize::from(!self.plan.ends);
        if roots.columns.len() != expected {
            return Err(PlanError::Boundaries { got: roots.columns.len(), expected });
        }
        let mut sponge = self.sponge.clone();
        sponge.absorb("declared", &built.declarations);
        Argument::with_roots(built.circuit, built.matrices, sponge, roots)
    }

    /// Whether `rows` are as many as enter the layers.
    ///
    /// # Errors
    /// If not.
    pub fn check_entering(&self, rows: &[i32]) -> Result<(), PlanError> {
        let all = self.positions() * self.config().d_model as usize;
        let (got, expected) = (rows.len(), if self.embedded.is_none() { all } else { 0 });
        if got == expected { Ok(()) } else { Err(PlanError::Entering { got, expected }) }
    }

    fn config(&self) -> &'a ModelConfig {
        &self.answer.weights.config
    }

    /// Positions that are not filling.
    fn positions(&self) -> usize {
        self.answer.positions()
    }

    /// The position that position `at` of the circuit is, filling being the first one.
    fn position(&self, at: usize) -> usize {
        if at < self.positions() { at } else { 0 }
    }

    /// Adds the layers to `builder`. A prover who has no whole model says what `entering` rows there are, position after position, and learns what leaves.
    pub fn build(&self, builder: &mut Builder<'a, E::Base>, entering: &[i32]) -> Vec<i32> {
        let log = self.tokens + log2_ceil(self.config().d_model as usize);
        builder.scope(format!("layers {} to {}", self.layers.start, self.layers.end));
        let source = match &self.embedded {
            Some(rows) => {
                let cells = boundary::cells(rows, self.config().d_model as usize, self.positions());
                builder.circuit.vector(cells.into_iter().map(residue).collect())
            }
            None => {
                let rows: Vec<i64> = entering.iter().map(|x| i64::from(*x)).collect();
                let rows = if builder.has_witness() {
                    boundary::cells(&rows, self.config().d_model as usize, self.positions())
                } else {
                    Vec::new()
                };
                builder.commit_outside(0, "entering", log, rows)
            }
        };
        // The first norm shows how large it is.
        let part = |at| Stream { x: self.part_of(source, at), at_most: STREAM_MAX, owed: i64::MAX };
        let mut stream: Vec<Stream<E::Base>> = (0..self.plan.stream.len()).map(part).collect();
        if let (true, Some(gain)) = (self.embedded.is_some(), &self.answer.weights.embed_norm) {
            self.gained(builder, ("embedding", gain), &mut stream, None);
        }
        let seen = self.seen(builder);
        for (number, matrices) in &self.plan.layers {
            builder.scope(format!("layer {number}, attention"));
            let codes = self.site(builder, self.tokens, &mut stream);
            let codes = self.attention(builder, matrices, &codes, *number, &seen);
            let post = matrices.weights.attn_post.as_ref();
            let between = self.between(builder, "o", &codes, matrices.adapters.o.as_ref());
            self.add(builder, ("o", post), &mut stream, |builder, sum| {
                self.adapt_stream(builder, "o", between, sum);
                add_matrix(builder, "o", &codes, &matrices.o, sum);
            });
            builder.scope(format!("layer {number}, feed-forward"));
            let codes = self.site(builder, self.tokens, &mut stream);
            self.feed_forward(builder, (*number, matrices), &codes, &mut stream);
        }
        if !self.plan.ends {
            return self.leave(builder, &stream);
        }
        builder.scope("head".into());
        match (&self.plan.head, self.answer.claim, self.config().pooling) {
            (Some(head), ..) => self.head(builder, head, stream),
            (None, Claim::Pooled(vector), Some(pooling)) => self.pooled(builder, &stream, (pooling, vector)),
            // Plans have refused all others.
            _ => {}
        }
        Vec::new()
    }

    /// Part `at` of the stream in a boundary, which is filled to a power of two.
    fn part_of(&self, boundary: Source, at: usize) -> Linear<E::Base> {
        let (tokens, parts) = (self.tokens, &self.plan.stream);
        // Of two parts, one is a half, the other is the first half of the second half.
        let first: &[Bit] = match (parts.len(), at) {
            (1, _) => &[],
            (_, 0) => &[Bit::Zero],
            _ => &[Bit::One, Bit::Zero],
        };
        let channels = (tokens..tokens + parts[at].log).map(Bit::At);
        let bits = (0..tokens).map(Bit::At).chain(first.iter().copied()).chain(channels).collect();
        Linear::view(View { source: boundary, bits })
    }

    /// Adds what a sublayer gives to every part of the stream, with the norm behind it.
    fn add(
        &self,
        builder: &mut Builder<'a, E::Base>,
        (name, post): (&str, Option<&Gain>),
        stream: &mut [Stream<E::Base>],
        add: impl FnOnce(&mut Builder<'a, E::Base>, &mut [Stream<E::Base>]),
    ) {
        let nothing = || Stream { x: Linear::constant(E::Base::ZERO), at_most: 0, owed: i64::MAX };
        let mut sum = match self.config().block {
            Block::PreNorm | Block::PostNorm => stream.to_vec(),
            Block::Sandwich => stream.iter().map(|_| nothing()).collect(),
        };
        add(builder, &mut sum);
        if let Some(gain) = post {
            let before = (self.config().block == Block::Sandwich).then(|| stream.to_vec());
            self.gained(builder, (name, gain), &mut sum, before.as_deref());
        }
        stream.clone_from_slice(&sum);
    }

    /// The norm of rows of the stream with gains, behind `before`.
    fn gained(
        &self,
        builder: &mut Builder<'a, E::Base>,
        (name, gain): (&str, &Gain),
        rows: &mut [Stream<E::Base>],
        before: Option<&[Stream<E::Base>]>,
    ) {
        let owed = rows.iter().map(|part| part.owed).min().unwrap_or(i64::MAX);
        let x: Vec<_> = rows.iter().map(|part| &part.x).collect();
        let parts = (self.tokens, &self.plan.stream[..]);
        let name = format!("{name} norm");
        let (gained, _) = builder.gain_norm(&name, (&x, owed), parts, (gain, Extent::Stream), before);
        rows.clone_from_slice(&gained);
    }

    /// Commits to what leaves the layers, for the next ones.
    fn leave(&self, builder: &mut Builder<'a, E::Base>, stream: &[Stream<E::Base>]) -> Vec<i32> {
        let width = self.config().d_model as usize;
        let log_stream = log2_ceil(width);
        let log = self.tokens + log_stream;
        let mut cells = vec![0; if builder.has_witness() { 1 << log } else { 0 }];
        let mut first = 0;
        for (part, Part { log: channels, .. }) in stream.iter().zip(&self.plan.stream) {
            builder.owed("leaving", self.tokens + channels, &part.x, part.owed, i64::MAX);
            let values = builder.integers(&part.x, self.tokens + channels);
            for (cells, values) in cells.chunks_mut(1 << log_stream).zip(values.chunks(1 << channels)) {
                cells[first..first + values.len()].copy_from_slice(values);
            }
            first += 1 << channels;
        }
        let real = cells.chunks(1 << log_stream).take(self.positions());
        let rows = real.flat_map(|row| row[..width].iter().map(|x| *x as i32)).collect();
        let leaving = builder.commit_outside(usize::from(self.embedded.is_none()), "leaving", log, cells);
        for (at, (part, Part { log: channels, .. })) in stream.iter().zip(&self.plan.stream).enumerate() {
            let left = self.part_of(leaving, at);
            builder.constrain(self.tokens + channels, Vec::new(), left.minus(&part.x));
        }
        if first < 1 << log_stream {
            // What is filled up behind both parts is 0.
            let rest = self.tokens + log_stream - 2;
            let bits = (0..self.tokens).map(Bit::At).chain([Bit::One, Bit::One]);
            let bits = bits.chain((self.tokens..rest).map(Bit::At)).collect();
            builder.constrain(rest, Vec::new(), Linear::view(View { source: leaving, bits }));
        }
        rows
    }

    /// Codes of the stream after a norm, rotated where the model does so. They show how large it is.
    fn site(
        &self,
        builder: &mut Builder<'a, E::Base>,
        vectors: usize,
        stream: &mut [Stream<E::Base>],
    ) -> Codes<E::Base> {
        let (config, parts) = (self.config(), &self.plan.stream);
        let norm = Norm { width: config.d_model as usize, eps: config.norm_eps };
        let of: Vec<_> = stream.iter().zip(parts).map(|(stream, part)| (&stream.x, part.log)).collect();
        let owed = stream.iter().map(|part| part.owed).min().unwrap_or(i64::MAX);
        let normed = config.block != Block::PostNorm;
        let rounds = normed.then(|| norm.rounds());
        let sixteen = builder.sixteen("norm", (&of, owed), vectors, Extent::Stream, rounds);
        for part in stream.iter_mut() {
            (part.at_most, part.owed) = (sixteen.at_most, i64::MAX);
        }
        let (rho, base) = match normed {
            true => {
                let (rho, base) = builder.norm("norm", &sixteen, norm);
                (Some(rho), base)
            }
            false => (None, Linear::constant(residue(-14 - i64::from(config.residual_frac)))),
        };
        if !config.rotates_online() {
            return builder.codes("norm", &sixteen, rho.as_ref(), &base);
        }
        let block = log2_ceil(config.stream_block() as usize);
        let x16 = builder.sixteen_of("norm", &sixteen);
        let rotated: Vec<_> =
            x16.iter().zip(parts).map(|(x, part)| builder.hadamard(vectors + part.log, block, x)).collect();
        let of: Vec<_> = rotated.iter().zip(parts).map(|(x, part)| (x, part.log)).collect();
        // Of 16 bits each, so at most 2^22.
        let turned = builder.sixteen("rotated", (&of, i64::MAX), vectors, Extent::Any, None);
        builder.codes("rotated", &turned, rho.as_ref(), &base.plus(&sixteen.e))
    }
}

/// Queries, keys and values are within their bound, if what reads them leaves more than that.
fn in_bounds<B: PrimeField32>(builder: &mut Builder<'_, B>, log: usize, y: &Linear<B>, shown: i64) {
    if shown > HEAD_MAX {
        let table = builder.bounded("queries, keys and values", HEAD_MAX);
        builder.look_up(table, log, vec![y.clone()]);
    }
}

/// Adds what a matrix gives to every part of the stream.
fn add_matrix<'a, B: PrimeField32>(
    builder: &mut Builder<'a, B>,
    name: &str,
    codes: &Codes<B>,
    layers: &[Layer<'a>],
    stream: &mut [Stream<B>],
) {
    for (at, (layer, stream)) in layers.iter().zip(stream).enumerate() {
        *stream = builder.add_linear(&part_name(name, at), codes, layer, stream);
    }
}

/// Codes of vectors in `frac` fractional bits, of magnitudes of at most what is owed.
fn plain<B: PrimeField32>(
    builder: &mut Builder<'_, B>,
    name: &str,
    (parts, owed): (&[(Linear<B>, usize)], i64),
    vectors: usize,
    frac: i64,
) -> Codes<B> {
    let parts: Vec<(&Linear<B>, usize)> = parts.iter().map(|(x, log)| (x, *log)).collect();
    let sixteen = builder.sixteen(name, (&parts, owed), vectors, Extent::Any, None);
    builder.codes(name, &sixteen, None, &Linear::constant(residue(-14 - frac)))
}
