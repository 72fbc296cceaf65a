//! Sum-checks whose vectors are columns of the base field: the first round needs no products of the extension, and what it binds is the
//! first that is written in it.
//!
//! ```text
//! sum_x eq(t, x) (sum_k c_k a_k(x) b_k(x) + l(x)),     a_k, b_k in the base field
//! ```
//!
//! From the second round on, `c_k a_k` is one vector, so that all products are added before they are weighed.

use super::next_claim;
use super::prover::Term;
use super::wide::{self, Part};
use crate::error::ProveError;
use crate::field::ProofField;
use crate::lanes::arithmetic::{Total, add, mul_base, toward};
use crate::lanes::sums::Fixed;
use crate::lanes::{self, Base, Ext, Kernel, LANE_BITS, Plain, Task, Wide, vectorised};
use crate::multilinear::eq_table;
use crate::parallel;
use crate::transcript::ProverTranscript;
use alloc::vec;
use alloc::vec::Vec;

/// Fewest variables for which this is worth it, and for which columns can be read in lanes.
pub(crate) const COLUMNS_LOG: usize = 2 * LANE_BITS + 2;

/// `coefficient left right`, in lanes: index `lane 2^k + group`.
#[derive(Debug)]
pub(crate) struct Product<E> {
    pub(crate) coefficient: E,
    pub(crate) left: Vec<Base>,
    pub(crate) right: Vec<Base>,
}

/// The coefficient, and its product with the challenge of the first round.
type Scaled<'a> = ([u32; 5], [u32; 5], &'a [Base], &'a [Base]);

/// The first round over some pairs of groups.
struct First<'a> {
    products: &'a [Scaled<'a>],
    linear: &'a [Ext],
    weights: &'a [[u32; 5]],
    first: usize,
}

impl Task for First<'_> {
    type Output = [Ext; 2];

    #[inline(always)]
    fn run(self) -> [Ext; 2] {
        self.run_wide(Plain)
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) -> [Ext; 2] {
        let mut sums = [Total::zero(w); 2];
        for (pair, weight) in self.weights.iter().enumerate() {
            let at = 2 * (self.first + pair);
            let (mut low, mut high) = (Total::zero(w), Total::zero(w));
            for (coefficient, _, left, right) in self.products {
                let (a, b) = (&left[at], &right[at]);
                low.add_multiples(w, coefficient, &mul_base(w, a, b));
                let leading = mul_base(w, &left[at + 1].sub(a), &right[at + 1].sub(b));
                high.add_multiples(w, coefficient, &leading);
            }
            let weight = Fixed::new(*weight);
            sums[0].add_times(w, &add(w, &self.linear[at], &low.reduce(w)), &weight);
            sums[1].add_times(w, &high.reduce(w), &weight);
        }
        [sums[0].reduce(w), sums[1].reduce(w)]
    }
}

/// Binds the last coordinate: the products' factors, then l.
struct Bound<'a> {
    products: &'a [Scaled<'a>],
    linear: &'a [Ext],
    r: &'a Fixed,
    first: usize,
    out: &'a mut Vec<Vec<Ext>>,
}

impl Task for Bound<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.run_wide(Plain);
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) {
        let mut vectors = self.out.iter_mut();
        let r = self.r.element();
        let mut one = [0; 5];
        one[0] = lanes::ONE;
        for (coefficient, scaled, left, right) in self.products {
            for (constant, factor, column) in [(coefficient, scaled, left), (&one, &r, right)] {
                let Some(out) = vectors.next() else { return };
                let groups = out.capacity();
                for pair in column[2 * self.first..].chunks_exact(2).take(groups) {
                    let mut sum = Total::zero(w);
                    sum.add_multiples(w, constant, &pair[0]);
                    sum.add_multiples(w, factor, &pair[1].sub(&pair[0]));
                    out.push(sum.reduce(w));
                }
            }
        }
        if let Some(out) = vectors.next() {
            let groups = out.capacity();
            for pair in self.linear[2 * self.first..].chunks_exact(2).take(groups) {
                out.push(toward(w, &pair[0], &pair[1], self.r));
            }
        }
    }
}

/// Proves that the sum with the factor `eq(eq, .)` is 0, and gives the point where it ends.
///
/// # Errors
/// If a coordinate of `eq` is 0.
pub(crate) fn prove<E: ProofField>(
    transcript: &mut ProverTranscript,
    eq: &[E],
    products: &[Product<E>],
    linear: &[Ext],
) -> Result<Vec<E>, ProveError> {
    let kernel = Kernel::detect();
    let (log, last) = (eq.len(), eq.len() - 1);
    let lane_weights = eq_table(&eq[..LANE_BITS]);
    let weights: Vec<[u32; 5]> = eq_table(&eq[LANE_BITS..last]).into_iter().map(lanes::raw).collect();
    let scaled = |r: E| -> Vec<Scaled<'_>> {
        let each =
            |product: &'_ Product<E>| (lanes::raw(product.coefficient), lanes::raw(product.coefficient * r));
        products
            .iter()
            .map(|product| {
                let (coefficient, scaled) = each(product);
                (coefficient, scaled, &product.left[..], &product.right[..])
            })
            .collect()
    };
    let parts = wide::parts(1 << (last - LANE_BITS));
    let each = weights.len() / parts;
    let at_zero = scaled(E::ZERO);
    let mut work: Vec<(usize, [Ext; 2])> = (0..parts).map(|part| (part * each, [Ext::ZERO; 2])).collect();
    parallel::for_each(&mut work, |(first, sums)| {
        let weights = &weights[*first..*first + each];
        *sums = vectorised(kernel, First { products: &at_zero, linear, weights, first: *first });
    });
    let mut sent = [E::ZERO; 2];
    for (_, sums) in &work {
        for (sent, sum) in sent.iter_mut().zip(sums) {
            *sent += lanes::weighted(sum, &lane_weights);
        }
    }
    transcript.send("round", &sent);
    let r: E = transcript.sponge.challenge("bind");
    let claim =
        next_claim(E::ZERO, Some(eq[last]), sent, r).ok_or(ProveError::Degenerate { what: "a sum-check" })?;
    let (fixed, at_r) = (Fixed::of(r), scaled(r));
    let vectors = 2 * products.len() + 1;
    let empty = || -> Vec<Vec<Ext>> { (0..vectors).map(|_| Vec::with_capacity(2 * each)).collect() };
    let mut work: Vec<(usize, Vec<Vec<Ext>>)> = (0..parts).map(|part| (2 * part * each, empty())).collect();
    parallel::for_each(&mut work, |(first, out)| {
        vectorised(kernel, Bound { products: &at_r, linear, r: &fixed, first: *first, out });
    });
    let parts: Vec<Part> = work.into_iter().map(|(_, vectors)| Part::new(vectors)).collect();
    let pairs = (0..products.len()).map(|product| (2 * product, 2 * product + 1)).collect();
    let terms = vec![Term { coefficient: E::ONE, products: pairs, linear: vec![2 * products.len()] }];
    let proved = wide::prove(transcript, parts, terms, log - 1, Some(&eq[..last]), claim, E::ZERO)?;
    let mut point = proved.point;
    point.push(r);
    Ok(point)
}
