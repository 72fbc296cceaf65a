//! The feed-forward half of a layer: one network, or those experts that each token chose.
//!
//! An expert computes the rows of its tokens, which are picked from all of them by a public matrix (the prover declares who chose whom, and shows it), and what it
//! gives is spread to the stream by another one. An expert that nobody chose computes a row of zeros, so that every circuit has the same matrices.

use super::{HEAD_MAX, STREAM_MAX, Statement, add_matrix, in_bounds};
use crate::circuit::{Bit, Contraction, Linear, Source, View};
use crate::decoder::plan::{Adapters, Matrices, Network};
use crate::field::{ProofField, residue};
use crate::gadget::Builder;
use crate::gadget::experts::{Chosen, Member, Router};
use crate::gadget::feed_forward::{Activation, GATE_MAX, UP_MAX};
use crate::gadget::linear::{Codes, Stream};
use crate::gadget::quantise::{Extent, part_name};
use crate::integer::log2_ceil;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::config::Activation as Kind;
use p3_field::PrimeCharacteristicRing;

/// The factor of an expert's codes: mantissa and shift, over its rows.
type Factor<B> = (Linear<B>, Linear<B>);

/// log2 of the rows of an expert, whose rows they are, and what it gives them, part by part of the stream.
type Given<B> = (usize, Source, Vec<Linear<B>>);

impl<'a, E: ProofField> Statement<'a, E> {
    /// Adds what the block gives.
    pub(super) fn feed_forward(
        &self,
        builder: &mut Builder<'a, E::Base>,
        (number, matrices): (usize, &Matrices<'a>),
        codes: &Codes<E::Base>,
        stream: &mut [Stream<E::Base>],
    ) {
        let post = matrices.weights.ffn_post.as_ref();
        let scope = format!("layer {number}, feed-forward");
        match (self.router(matrices), &matrices.networks[..]) {
            (Some(router), experts) => {
                let logits = matrices.router.as_ref();
                let logits = logits.map(|layer| builder.linear_within("router", codes, layer, HEAD_MAX));
                let logits = logits.unwrap_or_else(|| Linear::constant(E::Base::ZERO));
                in_bounds(builder, self.tokens + log2_ceil(experts.len()), &logits, i64::MAX);
                let chosen = builder.route(&router, &logits);
                let given: Vec<_> = experts
                    .iter()
                    .enumerate()
                    .map(|(expert, network)| self.expert(builder, (&scope, expert, network), codes, &chosen))
                    .collect();
                builder.scope(scope);
                self.add(builder, ("experts", post), stream, |builder, sum| {
                    self.spread(builder, &given, sum);
                });
            }
            (None, [network, ..]) => {
                let codes = self.hidden(builder, (&scope, &matrices.adapters), network, codes, None);
                let between = self.between(builder, "down", &codes, matrices.adapters.down.as_ref());
                self.add(builder, ("down", post), stream, |builder, sum| {
                    self.adapt_stream(builder, "down", between, sum);
                    add_matrix(builder, "down", &codes, &network.down, sum);
                });
            }
            (None, []) => {}
        }
    }

    /// Who chooses, where the layer has experts.
    fn router(&self, matrices: &Matrices<'a>) -> Option<Router<'a>> {
        let lockstep_base::weights::FfnWeights::Experts { router, .. } = &matrices.weights.ffn else {
            return None;
        };
        Some(Router {
            experts: self.config().experts?,
            frac: router.out_frac.into(),
            exp2: &self.answer.weights.tables.exp2,
            tokens: self.tokens,
            positions: self.positions(),
        })
    }

    /// What an expert gives each of its rows, part by part of the stream, and whose rows these are.
    fn expert(
        &self,
        builder: &mut Builder<'a, E::Base>,
        (scope, expert, network): (&str, usize, &Network<'a>),
        codes: &Codes<E::Base>,
        chosen: &Chosen<E::Base>,
    ) -> Given<E::Base> {
        let members = &chosen.members[expert];
        let scope = format!("{scope}, expert {expert}");
        builder.scope(scope.clone());
        let rows = log2_ceil(members.len().max(1));
        // Added rows are those of the first member.
        let of = |row: usize| members.get(row).or(members.first());
        let mut one_hot = |columns: usize, place: &dyn Fn(usize) -> Option<usize>| {
            let mut cells = vec![E::Base::ZERO; 1 << (rows + columns)];
            for row in 0..1usize << rows {
                if let Some(place) = place(row) {
                    cells[(row << columns) + place] = E::Base::ONE;
                }
            }
            builder.circuit.vector(cells)
        };
        let tokens = self.tokens;
        let picked = one_hot(tokens, &|row| of(row).map(|member| member.token));
        let stepped = one_hot(tokens, &|row| Some(of(row).map_or(0, |member| member.token)));
        let slot = |member: Option<&Member>| member.map_or(0, |m| (m.token << chosen.slots) + m.slot);
        let slots = one_hot(tokens + chosen.slots, &|row| Some(slot(of(row))));
        let mut spread = vec![E::Base::ZERO; 1 << (tokens + rows)];
        for token in 0..1usize << tokens {
            let here = self.position(token);
            let rows_of = members.iter().enumerate().filter(|(_, member)| member.token == here);
            rows_of.for_each(|(row, _)| spread[(token << rows) + row] = E::Base::ONE);
        }
        let spread = builder.circuit.vector(spread);

        let bits = |range: core::ops::Range<usize>| range.map(Bit::At);
        let part = |(source, channels): &(Source, usize)| {
            let outer = rows + channels;
            let left = bits(0..rows).chain(bits(outer..outer + tokens)).collect();
            let right = bits(outer..outer + tokens).chain(bits(rows..outer)).collect();
            let source = builder.contract(Contraction {
                outer,
                inner: tokens,
                left: View { source: picked, bits: left },
                right: View { source: *source, bits: right },
            });
            (source, *channels)
        };
        let own = Codes {
            parts: codes.parts.iter().map(part).collect(),
            log_vectors: rows,
            log_steps: rows,
            k: builder.pick((stepped, rows), (tokens, 0), &codes.k),
            f: builder.pick((stepped, rows), (tokens, 0), &codes.f),
        };
        let factor =
            [&chosen.rho, &chosen.kk].map(|x| builder.pick((slots, rows), (tokens + chosen.slots, 0), x));
        let [rho, kk] = factor;
        let codes = self.hidden(builder, (&scope, &Adapters::default()), network, &own, Some((rho, kk)));
        // So small that those of all experts of a token do not wrap together.
        let slots = self.config().experts.map_or(1, |experts| experts.per_token as usize);
        let at_most = STREAM_MAX >> log2_ceil(slots);
        let mut given = Vec::with_capacity(network.down.len());
        for (at, (layer, part)) in network.down.iter().zip(&self.plan.stream).enumerate() {
            let (name, log) = (part_name("down", at), rows + part.log);
            let (y, shown) = builder.linear_and_bound(&name, &codes, layer);
            builder.owed(&name, log, &y, at_most, shown);
            given.push(builder.settle(&format!("{name} of an expert"), log, &y));
        }
        (rows, spread, given)
    }

    /// Adds what experts give, each to the tokens that chose it.
    fn spread(
        &self,
        builder: &mut Builder<'a, E::Base>,
        given: &[Given<E::Base>],
        stream: &mut [Stream<E::Base>],
    ) {
        let tokens = self.tokens;
        for (at, (stream, part)) in stream.iter_mut().zip(&self.plan.stream).enumerate() {
            let mut sum = stream.x.clone();
            for (rows, spread, given) in given {
                sum = sum.plus(&builder.pick((*spread, tokens), (*rows, part.log), &given[at]));
            }
            let x = builder.settle("stream", tokens + part.log, &sum);
            *stream = Stream { x, at_most: STREAM_MAX, owed: STREAM_MAX };
        }
    }

    /// Codes of what the down projection of a network reads, times `factor` where there is one.
    fn hidden(
        &self,
        builder: &mut Builder<'a, E::Base>,
        (scope, adapters): (&str, &Adapters<'a>),
        network: &Network<'a>,
        codes: &Codes<E::Base>,
        factor: Option<Factor<E::Base>>,
    ) -> Codes<E::Base> {
        let activation = match self.config().activation {
            Kind::Table => Activation::Table(&self.answer.weights.tables.activation),
            Kind::Relu => Activation::Relu,
        };
        let up_max = if network.gate.is_some() { UP_MAX } else { GATE_MAX };
        let block = log2_ceil(self.config().hadamard_block() as usize);
        let vectors = codes.log_vectors;
        let of_gate = self.between(builder, "gate", codes, adapters.gate.as_ref());
        let of_up = self.between(builder, "up", codes, adapters.up.as_ref());
        let mut parts = Vec::with_capacity(self.plan.ffn.len());
        for (at, channels) in self.plan.ffn.iter().enumerate() {
            let log = vectors + channels;
            builder.scope(part_name(scope, at));
            let up = self.linear(builder, "up", (codes, &network.up[at]), (of_up.as_ref(), at), up_max);
            let h = match &network.gate {
                Some(gate) => {
                    let adapter = (of_gate.as_ref(), at);
                    let g = self.linear(builder, "gate", (codes, &gate[at]), adapter, GATE_MAX);
                    let a = builder.activate(log, &g, activation, network.fracs.gate);
                    let in_bounds = builder.bounded("what a gate multiplies", UP_MAX);
                    builder.look_up(in_bounds, log, vec![up.clone()]);
                    builder.gate(log, &a, &up)
                }
                None => builder.activate(log, &up, activation, network.fracs.up),
            };
            parts.push((builder.hadamard(log, block, &h), *channels));
        }
        builder.scope(String::from(scope));
        let frac = match network.gate {
            Some(_) => network.fracs.gate + network.fracs.up - 7,
            None => network.fracs.up,
        };
        let parts: Vec<(&Linear<E::Base>, usize)> = parts.iter().map(|(x, log)| (x, *log)).collect();
        let sixteen = builder.sixteen("hidden", (&parts, i64::MAX), vectors, Extent::Any, None);
        let (rho, base) = match factor {
            Some((rho, kk)) => (Some(rho), kk.times(E::Base::NEG_ONE).offset(residue((-frac).into()))),
            None => (None, Linear::constant(residue((-14 - frac).into()))),
        };
        builder.codes("hidden", &sixteen, rho.as_ref(), &base)
    }
}
