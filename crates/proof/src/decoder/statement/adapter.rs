//! What low-rank adapters add to a matrix (docs/spec/arithmetic.md, section 4): `y = W x + b + B (A x)`.
//!
//! Both W x + b and the sum have the range of y, so both are shown; codes between A and B are those of any vector.

use super::{HEAD_MAX, Statement, in_bounds, plain};
use crate::circuit::Linear;
use crate::decoder::plan::Adapted;
use crate::field::ProofField;
use crate::gadget::Builder;
use crate::gadget::feed_forward::UP_MAX;
use crate::gadget::linear::{Codes, Layer, Stream};
use crate::gadget::quantise::part_name;
use alloc::format;
use alloc::vec;

/// Largest magnitude of what is added to the stream beside what its matrix adds: with both no sum comes near the order of the field.
const ADDED_MAX: i64 = 1 << 26;

/// The codes that B reads, and its layers.
pub(super) type Between<'p, 'a, B> = (Codes<B>, &'p [Layer<'a>]);

/// Those of queries, keys and values.
pub(super) type BetweenHeads<'p, 'a, B> = [Option<Between<'p, 'a, B>>; 3];

impl<'a, E: ProofField> Statement<'a, E> {
    /// Codes between the matrices of an adapter.
    pub(super) fn between<'p>(
        &self,
        builder: &mut Builder<'a, E::Base>,
        name: &str,
        codes: &Codes<E::Base>,
        adapted: Option<&'p Adapted<'a>>,
    ) -> Option<Between<'p, 'a, E::Base>> {
        let Adapted { a, b, frac, log_rank } = adapted?;
        let name = format!("{name} adapter");
        let y = builder.linear_within(&name, codes, a, HEAD_MAX);
        in_bounds(builder, codes.log_vectors + log_rank, &y, i64::MAX);
        let parts = vec![(y, *log_rank)];
        Some((plain(builder, &name, (&parts, i64::MAX), codes.log_vectors, *frac), b))
    }

    /// What a matrix gives with what an adapter adds to part `part` of it; its reader shows that no magnitude is above `at_most`.
    pub(super) fn linear(
        &self,
        builder: &mut Builder<'a, E::Base>,
        name: &str,
        (codes, layer): (&Codes<E::Base>, &Layer<'a>),
        (between, part): (Option<&Between<'_, 'a, E::Base>>, usize),
        at_most: i64,
    ) -> Linear<E::Base> {
        let y = builder.linear_within(name, codes, layer, at_most);
        let Some((between, b)) = between else { return y };
        let log = codes.log_vectors + layer.log_rows();
        if at_most == UP_MAX {
            let table = builder.bounded("what a gate multiplies", UP_MAX);
            builder.look_up(table, log, vec![y.clone()]);
        } else {
            in_bounds(builder, log, &y, i64::MAX);
        }
        let (added, _) = builder.linear_and_bound(&format!("{name} adapter"), between, &b[part]);
        builder.settle(&format!("{name} adapted"), log, &y.plus(&added))
    }

    /// Adds what an adapter gives to every part of the stream, in front of what its matrix does.
    pub(super) fn adapt_stream(
        &self,
        builder: &mut Builder<'a, E::Base>,
        name: &str,
        between: Option<Between<'_, 'a, E::Base>>,
        stream: &mut [Stream<E::Base>],
    ) {
        let Some((codes, layers)) = between else { return };
        for (at, (layer, stream)) in layers.iter().zip(stream).enumerate() {
            let name = format!("{} adapter", part_name(name, at));
            let (added, shown) = builder.linear_and_bound(&name, &codes, layer);
            builder.owed(&name, codes.log_vectors + layer.log_rows(), &added, ADDED_MAX, shown);
            stream.x = stream.x.clone().plus(&added);
            stream.at_most += shown.min(ADDED_MAX);
        }
    }
}
