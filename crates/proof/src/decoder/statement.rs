//! The statement: the model with this root, fed `tokens`, gives its last `generated` tokens greedily. All of it is public.
//! Or a part of it, some layers: that what enters them, which is committed to, gives what leaves them ([`super::boundary`]).
//!
//! Positions are those of all tokens but the last. Added positions are copies of the first one: its token, its position, and they see it
//! alone, so nothing about them can go wrong that does not go wrong there. Added channels, heads and rows have no weights and are 0.

mod head;

use super::plan::{HeadPart, Matrices, Plan};
use super::{boundary, embedding};
use crate::argument::{Argument, Roots, WITNESS_CELLS_MAX};
use crate::circuit::{Bit, Linear, Marks, Public, Source, View};
use crate::error::PlanError;
use crate::field::{ProofField, residue};
use crate::gadget::attention::{Axes, Heads, TOKENS_MAX};
use crate::gadget::feed_forward::{Activation, GATE_MAX, UP_MAX};
use crate::gadget::heads::{HeadCodes, ROTATED_BITS};
use crate::gadget::linear::{Codes, Layer, Stream};
use crate::gadget::norm::Norm;
use crate::gadget::quantise::{Extent, part_name};
use crate::gadget::{Builder, Built, whole};
use crate::integer::log2_ceil;
use crate::transcript::Sponge;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::config::{Activation as Kind, ModelConfig, Positions};
use lockstep_base::weights::ModelWeights;
use p3_field::{PrimeCharacteristicRing, PrimeField32};

/// Name and version of the protocol: the first thing that a transcript absorbs.
pub const PROTOCOL: &str = "lockstep-proof-decoder-3";
/// Bits of a limb.
pub const LIMB_BITS: u32 = 16;
/// Largest magnitude of the stream that has an argument.
const STREAM_MAX: i64 = 1 << 28;
/// Largest magnitude of queries, keys and values.
const HEAD_MAX: i64 = 32_767;

/// What is claimed.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The model, which the verifier holds.
    pub weights: &'a ModelWeights,
    /// Its root: who calls has checked that it is that of `weights`.
    pub root: Digest,
    /// Prompt and answer.
    pub tokens: &'a [u32],
    /// How many of them, at the end, are the answer.
    pub generated: usize,
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
        let (got, limit) = (answer.tokens.len(), TOKENS_MAX.min(config.context as usize) + 1);
        if !(2..=limit).contains(&got) || !(1..got).contains(&answer.generated) {
            return Err(PlanError::Tokens { got, generated: answer.generated, limit });
        }
        if let Some(token) = answer.tokens.iter().find(|token| **token >= config.vocab) {
            return Err(PlanError::Token { got: *token, vocab: config.vocab });
        }
        let plan = Plan::new(answer.weights, got - 1, layers.clone())?;
        // A column of logits alone, known before anything of that size is written out.
        let logits = 1usize << (log2_ceil(answer.generated) + plan.vocab);
        if plan.head.is_some() && logits > WITNESS_CELLS_MAX {
            return Err(PlanError::TooLarge { got: logits, limit: WITNESS_CELLS_MAX });
        }
        let tokens = &answer.tokens[..got - 1];
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
        sponge.absorb("model", &answer.root.0);
        let tokens: Vec<u8> = answer.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        sponge.absorb("tokens", &tokens);
        sponge.absorb("generated", &(answer.generated as u64).to_le_bytes());
        sponge.absorb("first layer", &(layers.start as u64).to_le_bytes());
        sponge.absorb("end of layers", &(layers.end as u64).to_le_bytes());
        Ok(Statement {
            answer,
            layers,
            plan,
            tokens: log2_ceil(got - 1),
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
        let expected = usize::from(self.embedded.is_none()) + usize::from(self.plan.head.is_none());
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
        self.answer.tokens.len() - 1
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
        let mask = self.mask(builder);
        for (number, matrices) in &self.plan.layers {
            builder.scope(format!("layer {number}, attention"));
            let codes = self.normed(builder, self.tokens, &mut stream);
            let codes = self.attention(builder, matrices, &codes, *number, mask);
            self.add(builder, "o", &codes, &matrices.o, &mut stream);
            builder.scope(format!("layer {number}, feed-forward"));
            let codes = self.normed(builder, self.tokens, &mut stream);
            let codes = self.feed_forward(builder, *number, matrices, &codes);
            self.add(builder, "down", &codes, &matrices.down, &mut stream);
        }
        let Some(head) = &self.plan.head else {
            return self.leave(builder, &stream);
        };
        builder.scope("head".into());
        self.head(builder, head, stream);
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
        let channels = (tokens..tokens + parts[at]).map(Bit::At);
        let bits = (0..tokens).map(Bit::At).chain(first.iter().copied()).chain(channels).collect();
        Linear::view(View { source: boundary, bits })
    }

    /// Adds what a matrix gives to every part of the stream.
    fn add(
        &self,
        builder: &mut Builder<'a, E::Base>,
        name: &str,
        codes: &Codes<E::Base>,
        layers: &[Layer<'a>],
        stream: &mut [Stream<E::Base>],
    ) {
        for (at, (layer, stream)) in layers.iter().zip(stream).enumerate() {
            *stream = builder.add_linear(&part_name(name, at), codes, layer, stream);
        }
    }

    /// Commits to what leaves the layers, for the next ones.
    fn leave(&self, builder: &mut Builder<'a, E::Base>, stream: &[Stream<E::Base>]) -> Vec<i32> {
        let width = self.config().d_model as usize;
        let log_stream = log2_ceil(width);
        let log = self.tokens + log_stream;
        let mut cells = vec![0; if builder.has_witness() { 1 << log } else { 0 }];
        let mut first = 0;
        for (part, channels) in stream.iter().zip(&self.plan.stream) {
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
        for (at, (part, channels)) in stream.iter().zip(&self.plan.stream).enumerate() {
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

    /// Codes of the stream after a norm, which shows how large it is.
    fn normed(
        &self,
        builder: &mut Builder<'a, E::Base>,
        vectors: usize,
        stream: &mut [Stream<E::Base>],
    ) -> Codes<E::Base> {
        let norm = Norm { width: self.config().d_model as usize, eps: self.config().norm_eps };
        let parts: Vec<_> = stream.iter().zip(&self.plan.stream).map(|(part, log)| (&part.x, *log)).collect();
        let owed = stream.iter().map(|part| part.owed).min().unwrap_or(i64::MAX);
        let sixteen = builder.sixteen("norm", (&parts, owed), vectors, Extent::Stream, Some(norm.rounds()));
        for part in stream {
            (part.at_most, part.owed) = (sixteen.at_most, i64::MAX);
        }
        let (rho, base) = builder.norm("norm", &sixteen, norm);
        builder.codes("norm", &sixteen, Some(&rho), &base)
    }

    /// Codes of what attention gives, all heads of it.
    fn attention(
        &self,
        builder: &mut Builder<'a, E::Base>,
        matrices: &Matrices<'a>,
        codes: &Codes<E::Base>,
        number: usize,
        mask: Source,
    ) -> Codes<E::Base> {
        let (mut parts, mut owed) = (Vec::new(), i64::MAX);
        for (at, part) in self.plan.heads.iter().enumerate() {
            builder.scope(part_name(&format!("layer {number}, attention"), at));
            let heads = self.heads(builder, (matrices, at), codes, number, mask);
            let exp2 = &self.answer.weights.tables.exp2;
            let (y, here) = builder.attention(part.axes, &heads, exp2, !self.adds_heads());
            owed = owed.min(here);
            let Axes { kv, group, channels, .. } = part.axes;
            parts.push((self.without_added_heads(builder, part.axes, y), kv + group + channels));
        }
        builder.scope(format!("layer {number}, attention"));
        let frac = i64::from(matrices.weights.v.out_frac) + 8;
        plain(builder, "heads", (&parts, owed), self.tokens, frac)
    }

    /// Which positions see which, over (i, j).
    fn mask(&self, builder: &mut Builder<'a, E::Base>) -> Source {
        let sees = |i: usize| self.position(i) as u32 + 1;
        let at = (0..1usize << self.tokens).map(sees).collect();
        builder.circuit.public(Public::Before(Marks { at, log: self.tokens }))
    }

    /// Queries, keys and values.
    fn heads(
        &self,
        builder: &mut Builder<'a, E::Base>,
        (matrices, part): (&Matrices<'a>, usize),
        codes: &Codes<E::Base>,
        number: usize,
        mask: Source,
    ) -> Heads<E::Base> {
        let HeadPart { axes: Axes { tokens, kv, group, channels }, .. } = self.plan.heads[part];
        let shape = (kv + group, channels);
        let q = self.head_codes(builder, ("q", &matrices.q[part], codes), shape, number, None);
        let centre = self.centre(builder, matrices, part);
        let k = self.head_codes(builder, ("k", &matrices.k[part], codes), (kv, channels), number, centre);
        let v = builder.linear_within("v", codes, &matrices.v[part], HEAD_MAX);
        let parts = [(&v, channels)];
        let sixteen = builder.sixteen("v", (&parts, i64::MAX), tokens + kv, Extent::Any, None);
        in_bounds(builder, tokens + kv + channels, &v, sixteen.at_most);
        let base = Linear::constant(residue(-14));
        let mut v = builder.codes("v", &sixteen, None, &base);
        // Of zeros the step is the smallest that there is: f = -7.
        if let Some(zero) = sixteen.zero {
            v.f = v.f.plus(&zero.times(E::Base::from_u32(7)));
        }
        let weights = matrices.weights;
        let shift = i64::from(weights.q.out_frac) + i64::from(weights.k.out_frac) - 8;
        Heads { q, k, v, shift, mask }
    }

    /// Codes of queries or keys, of which `centre` is subtracted: its values, and the largest.
    fn head_codes(
        &self,
        builder: &mut Builder<'a, E::Base>,
        (name, layer, codes): (&str, &Layer<'a>, &Codes<E::Base>),
        (heads, channels): (usize, usize),
        number: usize,
        centre: Option<(Linear<E::Base>, i64)>,
    ) -> HeadCodes<E::Base> {
        let (vectors, log) = (self.tokens + heads, self.tokens + heads + channels);
        let y = builder.linear_within(name, codes, layer, HEAD_MAX);
        let rotates = self.config().positions == Positions::Rope;
        let x = if rotates { self.rotated(builder, name, &y, (log, channels), number) } else { y.clone() };
        let (centred, centre_max) = match centre {
            Some((centre, largest)) => (x.clone().minus(&centre), largest),
            None => (x.clone(), 0),
        };
        let bound = i64::from(self.config().qk_code_max());
        let codes = builder.head_codes(name, &centred, (vectors, channels), bound);
        let at_most = codes.at_most + centre_max;
        if rotates {
            builder.owed(&format!("{name} rotated"), log, &x, 1 << ROTATED_BITS, at_most);
            in_bounds(builder, log, &y, i64::MAX);
        } else {
            in_bounds(builder, log, &y, at_most);
        }
        codes
    }

    /// Whether groups of heads are filled up.
    fn adds_heads(&self) -> bool {
        !(self.config().n_heads / self.config().n_kv_heads).is_power_of_two()
    }

    /// Heads, 0 where a group was filled up: a query of zeros sees the mean of the values of its group, which must not decide a step.
    fn without_added_heads(
        &self,
        builder: &mut Builder<'a, E::Base>,
        Axes { tokens, kv, group, channels }: Axes,
        y: Linear<E::Base>,
    ) -> Linear<E::Base> {
        if !self.adds_heads() {
            return y;
        }
        let grouped = (self.config().n_heads / self.config().n_kv_heads) as usize;
        let real = (0..1usize << group).map(|head| E::Base::from_bool(head < grouped)).collect();
        let bits = (tokens + kv..tokens + kv + group).map(Bit::At).collect();
        let real = Linear::view(View { source: builder.circuit.vector(real), bits });
        let log = tokens + kv + group + channels;
        let kept = {
            let [real, y] = [&real, &y].map(|linear| builder.integers(linear, log));
            real.iter().zip(y).map(|(real, y)| real * y).collect()
        };
        let kept = Linear::view(whole(builder.commit("real heads", log, kept), log));
        builder.constrain(log, vec![(E::Base::ONE, real, y)], kept.clone().times(E::Base::NEG_ONE));
        kept
    }

    /// Rotated heads.
    fn rotated(
        &self,
        builder: &mut Builder<'a, E::Base>,
        name: &str,
        x: &Linear<E::Base>,
        (log, channels): (usize, usize),
        number: usize,
    ) -> Linear<E::Base> {
        let tokens = self.tokens;
        let table = &self.answer.weights.tables.rope[usize::from(self.config().layer_pattern(number).rope)];
        let pairs = self.config().rope_dim as usize / 2;
        let mut of = |sine: usize| {
            let value = |at: usize| {
                let (position, pair) =
                    (self.position(at >> (channels - 1)), at & ((1 << (channels - 1)) - 1));
                // Channels that do not rotate have an angle of 0.
                let still = if sine == 0 { 1 << 14 } else { 0 };
                let turned = || i64::from(table[(position * pairs + pair) * 2 + sine]);
                residue(if pair < pairs { turned() } else { still })
            };
            let source = builder.circuit.vector((0..1usize << (tokens + channels - 1)).map(value).collect());
            let bits = (0..tokens).chain(log - channels..log - 1).map(Bit::At).collect();
            Linear::view(View { source, bits })
        };
        let (cosine, sine) = (of(0), of(1));
        builder.rotate(&format!("{name} rotated"), log, x, (&cosine, &sine))
    }

    /// What is subtracted from keys, and its largest magnitude; nothing where it is 0.
    fn centre(
        &self,
        builder: &mut Builder<'a, E::Base>,
        matrices: &Matrices<'a>,
        part: usize,
    ) -> Option<(Linear<E::Base>, i64)> {
        let HeadPart { first, count, axes: Axes { tokens, kv, channels, .. } } = self.plan.heads[part];
        let dim = self.config().head_dim as usize;
        let here = matrices.weights.k_center.iter().skip(first * dim).take(count * dim);
        let centres = here.map(|centre| i64::from(*centre));
        let largest = centres.clone().map(i64::abs).max().filter(|largest| *largest > 0)?;
        let mut values = vec![E::Base::ZERO; 1 << (kv + channels)];
        for (at, centre) in centres.enumerate() {
            values[((at / dim) << channels) + at % dim] = residue(centre);
        }
        let source = builder.circuit.vector(values);
        let bits = (tokens..tokens + kv + channels).map(Bit::At).collect();
        Some((Linear::view(View { source, bits }), largest))
    }

    /// Codes of what the down projection reads.
    fn feed_forward(
        &self,
        builder: &mut Builder<'a, E::Base>,
        number: usize,
        matrices: &Matrices<'a>,
        codes: &Codes<E::Base>,
    ) -> Codes<E::Base> {
        let scope = format!("layer {number}, feed-forward");
        let activation = match self.config().activation {
            Kind::Table => Activation::Table(&self.answer.weights.tables.activation),
            Kind::Relu => Activation::Relu,
        };
        let dense = matrices.weights.ffn.dense();
        let frac_of =
            |linear: Option<&lockstep_base::weights::Linear>| linear.map_or(0, |l| i32::from(l.out_frac));
        let up_frac = frac_of(dense.map(|dense| &dense.up));
        let up_max = if matrices.gate.is_some() { UP_MAX } else { GATE_MAX };
        let gate_frac = frac_of(dense.and_then(|dense| dense.gate.as_ref()));
        let block = log2_ceil(self.config().hadamard_block() as usize);
        let mut parts = Vec::with_capacity(self.plan.ffn.len());
        for (at, channels) in self.plan.ffn.iter().enumerate() {
            let log = self.tokens + channels;
            builder.scope(part_name(&scope, at));
            let up = builder.linear_within("up", codes, &matrices.up[at], up_max);
            let h = match &matrices.gate {
                Some(gate) => {
                    let g = builder.linear_within("gate", codes, &gate[at], GATE_MAX);
                    let a = builder.activate(log, &g, activation, gate_frac);
                    let in_bounds = builder.bounded("what a gate multiplies", UP_MAX);
                    builder.look_up(in_bounds, log, vec![up.clone()]);
                    builder.gate(log, &a, &up)
                }
                None => builder.activate(log, &up, activation, up_frac),
            };
            parts.push((builder.hadamard(log, block, &h), *channels));
        }
        builder.scope(scope);
        let frac = if matrices.gate.is_some() { gate_frac + up_frac - 7 } else { up_frac };
        plain(builder, "hidden", (&parts, i64::MAX), self.tokens, frac.into())
    }
}

/// Queries, keys and values are within their bound, if what reads them leaves more than that.
fn in_bounds<B: PrimeField32>(builder: &mut Builder<'_, B>, log: usize, y: &Linear<B>, shown: i64) {
    if shown > HEAD_MAX {
        let table = builder.bounded("queries, keys and values", HEAD_MAX);
        builder.look_up(table, log, vec![y.clone()]);
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
