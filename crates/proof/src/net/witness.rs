//! The witness of a statement: every committed cell, from the integers of the arithmetic.
//!
//! A [`Lie`] makes a witness that is honest but for one decision: everything behind it is computed from the lie, with
//! remainders that make the identities hold, whatever their ranges. Tests prove such witnesses, and no verifier may accept one.

use super::build::{HiddenColumns, LayerColumns};
use super::cut::{Cut, Rescale, cuts, find, rsh};
use super::plan::Layer;
use super::statement::Statement;
use super::steps::Steps;
use crate::circuit::fill::{self, Cells};
use crate::circuit::{Circuit, Leaf, Linear};
use crate::field::{ProofField, residue};
use crate::matmul::accumulate;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::limits::STEP_MANTISSA_MIN;
use p3_field::PrimeField32;

/// A decision that a witness gets wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// An output: `by` is added, the remainder makes up for it.
    Output,
    /// An output whose remainder is another one in range: the output solves the identity modulo p.
    WrappedOutput,
    /// The sign of an output is flipped.
    Sign,
    /// What the first shift leaves: `by` is added.
    First,
    /// A code: `by` is added.
    Code,
    /// The interval of an example: `by` intervals further.
    Interval,
    /// Which element is the largest: `by` further.
    Chosen,
    /// An accumulator after its static shift: `by` is added, the remainder makes up for it.
    Shifted,
    /// The interval is `by` further, and the largest element is said to be its lower end.
    Largest,
    /// The step mantissa is `by` larger (around the corner), the rest of the interval's entry as it is.
    Step,
    /// The magnitude of an output is `2 by` larger, and the sign a fraction that makes up for it.
    Magnitude,
}

/// One wrong decision, at cell (or example) `at` of layer `layer`.
#[derive(Clone, Copy, Debug)]
pub struct Lie {
    /// Which decision.
    pub decision: Decision,
    /// The layer.
    pub layer: usize,
    /// The cell, or the example.
    pub at: usize,
    /// How wrong.
    pub by: i64,
}

/// All committed columns, and what they are computed from.
#[derive(Clone, Debug)]
pub struct Witness<B> {
    /// Column after column.
    pub columns: Vec<Vec<B>>,
    /// The accumulators of each matrix product.
    pub accumulators: Vec<Vec<B>>,
    /// What comes out, without added examples and rows.
    pub outputs: Vec<i64>,
}

impl<B: PrimeField32> Witness<B> {
    /// The witness of `statement`, honest but for `lie`.
    #[must_use]
    pub fn new<E: ProofField<Base = B>>(statement: &Statement<'_, E>, lie: Option<Lie>) -> Witness<B> {
        let columns = statement.circuit.columns.iter().map(|column| vec![B::ZERO; 1 << column.log]).collect();
        let mut witness = Witness { columns, accumulators: Vec::new(), outputs: Vec::new() };
        let all = cuts(statement.plan.input_max);
        let mut examples: Vec<Cut> = statement.intervals.iter().map(|interval| all[*interval]).collect();
        let mut codes = statement.codes.clone();
        let layers = statement.plan.layers.iter().zip(&statement.layers);
        for (number, (layer, columns)) in layers.enumerate() {
            let filler = Filler {
                limb_bits: statement.circuit.limb_bits,
                layer,
                columns,
                lie: lie.filter(|lie| lie.layer == number),
                witness: &mut witness,
            };
            let y = filler.outputs(statement, &codes, &examples);
            let Some(hidden) = &columns.hidden else {
                let width = 1 << columns.domain.log_width;
                let rows = y.chunks(width).flat_map(|y| &y[..layer.rows]).copied();
                witness.outputs = rows.collect();
                break;
            };
            let filler = Filler {
                limb_bits: statement.circuit.limb_bits,
                layer,
                columns,
                lie: lie.filter(|lie| lie.layer == number),
                witness: &mut witness,
            };
            (codes, examples) = filler.quantise(hidden, &y, &statement.plan.layers[number + 1]);
        }
        witness.count(statement);
        witness
    }

    /// Its vectors, for the expressions of `circuit`.
    #[must_use]
    pub fn cells<'a>(&'a self, circuit: &'a Circuit<B>) -> Cells<'a, B> {
        Cells { circuit, columns: &self.columns, accumulators: &self.accumulators }
    }

    /// The first `integers` outputs.
    #[must_use]
    pub fn outputs_of(&self, integers: usize) -> &[i64] {
        &self.outputs[..integers.min(self.outputs.len())]
    }

    /// Counts the lookups of ranges anew; those that are not in the table are not counted.
    pub fn count<E: ProofField<Base = B>>(&mut self, statement: &Statement<'_, E>) {
        let circuit = &statement.circuit;
        let mut counts = vec![0u32; 2 << circuit.limb_bits];
        for leaf in circuit.leaves.iter().filter(|leaf| is_range_lookup(leaf)) {
            let cells = self.cells(circuit);
            let vector = |linear: &Linear<B>| fill::base_vector(&cells, linear, &leaf.domain);
            for (width, value) in vector(&leaf.tuple[0]).into_iter().zip(vector(&leaf.tuple[1])) {
                let (width, value) = (width.as_canonical_u32(), value.as_canonical_u32());
                if width <= circuit.limb_bits && value < 1 << width {
                    counts[((1u32 << width) + value) as usize] += 1;
                }
            }
        }
        self.columns[statement.ranges] = counts.into_iter().map(B::from_u32).collect();
    }
}

fn is_range_lookup<B: PrimeField32>(leaf: &Leaf<B>) -> bool {
    leaf.tag == B::from_u32(super::ranges::RANGE_TAG) && leaf.numerator.terms.is_empty()
}

/// Writes the cells of one layer.
struct Filler<'a, B> {
    limb_bits: u32,
    layer: &'a Layer,
    columns: &'a LayerColumns,
    lie: Option<Lie>,
    witness: &'a mut Witness<B>,
}

impl<B: PrimeField32> Filler<'_, B> {
    /// `by` if this is the decision that is lied about.
    fn lie(&self, decision: Decision, at: usize) -> Option<i64> {
        self.lie.filter(|lie| lie.decision == decision && lie.at == at).map(|lie| lie.by)
    }

    /// Limbs of `x`; the last one takes whatever is left, in range or not.
    fn put(&mut self, columns: &[usize], at: usize, mut x: i64) {
        let Some((last, first)) = columns.split_last() else { return };
        for column in first {
            self.witness.columns[*column][at] = residue(x.rem_euclid(1 << self.limb_bits));
            x >>= self.limb_bits;
        }
        self.witness.columns[*last][at] = residue(x);
    }

    /// The linear layer: y with its bias, cell by cell.
    fn outputs<E: ProofField<Base = B>>(
        mut self,
        statement: &Statement<'_, E>,
        codes: &[i64],
        examples: &[Cut],
    ) -> Vec<i64> {
        let (layer, domain) = (self.layer, self.columns.domain);
        let weights = &statement.net.weights()[layer.weights];
        let stride = codes.len() >> domain.log_examples;
        let acc = accumulate(weights, layer.cols, codes, stride, domain.log_width);
        let mut y = vec![0; acc.len()];
        for (at, acc) in acc.iter().enumerate() {
            let (example, row) = (at >> domain.log_width, at & ((1 << domain.log_width) - 1));
            let mut t = rsh(*acc, layer.pre_shift);
            if let Some((shifted, rest)) = &self.columns.shifted {
                t += self.lie(Decision::Shifted, at).unwrap_or(0);
                self.put(shifted, at, t + (1 << layer.shifted_bits));
                self.put(rest, at, acc + (1 << (layer.pre_shift - 1)) - (t << layer.pre_shift));
            }
            if row >= layer.rows {
                continue;
            }
            let cut = &examples[example];
            let rescale = Rescale::new(layer.shifts[layer.group[row]] - cut.shift() as i32);
            let v = t * i64::from(weights.multipliers[row]) * i64::from(cut.k);
            // A shift to the left is bounded by the network, so it is 0 or small.
            let v = if rescale.nothing || v == 0 { 0 } else { v << rescale.left };
            let mut out = rsh(v, rescale.right);
            out += self.lie(Decision::Output, at).unwrap_or(0);
            let mut rest = v + rescale.half() - (out << rescale.right);
            if let Some(by) = self.lie(Decision::WrappedOutput, at) {
                rest = (rest + by).rem_euclid(1 << rescale.right);
                let power: B = residue(1 << rescale.right);
                let solved = residue::<B>(v + rescale.half() - rest) * power.inverse();
                out = solved.as_canonical_u32().into();
            }
            let offset = rescale.output_bits().map_or(0, |bits| 1 << bits);
            let (outputs, remainder) = (self.columns.output.clone(), self.columns.remainder.clone());
            self.put(&outputs, at, out + offset);
            self.put(&remainder, at, rest);
            y[at] = out + weights.bias.get(row).map_or(0, |bias| i64::from(*bias));
        }
        self.witness.accumulators.push(acc.into_iter().map(residue).collect());
        y
    }

    /// `relu` and `quantise`: the codes, and the interval of each example.
    fn quantise(mut self, hidden: &HiddenColumns, y: &[i64], reader: &Layer) -> (Vec<i64>, Vec<Cut>) {
        let width = 1 << self.columns.domain.log_width;
        let mut x = vec![0; y.len()];
        for (at, y) in y.iter().enumerate() {
            let negative = (*y < 0) != self.lie(Decision::Sign, at).is_some();
            let larger = self.lie(Decision::Magnitude, at).filter(|_| *y != 0).unwrap_or(0);
            let magnitude = if negative { -y } else { *y } + 2 * larger;
            x[at] = (magnitude + y) / 2;
            // a = (1 - 2 g) y, solved for g.
            let quotient = residue::<B>(magnitude) * residue::<B>(*y).try_inverse().unwrap_or(B::ONE);
            let sign = (B::ONE - quotient) * B::TWO.inverse();
            self.witness.columns[hidden.sign][at] = if larger == 0 { B::from_bool(negative) } else { sign };
            self.put(&hidden.magnitude, at, magnitude);
        }
        let mut codes = vec![0; y.len()];
        let mut intervals = Vec::with_capacity(y.len() / width);
        for (example, x) in x.chunks(width).enumerate() {
            let mut chosen = (0..width).max_by_key(|at| (x[*at], width - at)).unwrap_or(0);
            let honest = find(&hidden.cuts, x[chosen]) as i64;
            let lower_end = self.lie(Decision::Largest, example);
            let interval = honest + lower_end.or_else(|| self.lie(Decision::Interval, example)).unwrap_or(0);
            let interval = interval.clamp(0, hidden.cuts.len() as i64 - 1) as usize;
            let mut cut = hidden.cuts[interval];
            let further = self.lie(Decision::Step, example).unwrap_or(0);
            let mantissas = i64::from(STEP_MANTISSA_MIN);
            cut.k = (mantissas + (i64::from(cut.k) - mantissas + further).rem_euclid(mantissas)) as u8;
            chosen = (chosen + self.lie(Decision::Chosen, example).unwrap_or(0) as usize) % width;
            self.witness.columns[hidden.chosen][example * width + chosen] = B::ONE;
            self.witness.columns[hidden.multiplicity][interval] += B::ONE;
            let above = if lower_end.is_some() { 0 } else { x[chosen] - cut.low };
            self.put(&hidden.above, example, above);
            let tuple = Steps::new(&cut, reader, self.limb_bits).tuple();
            for (column, value) in hidden.steps.iter().zip(tuple) {
                self.witness.columns[*column][example] = value;
            }
            for (place, x) in x.iter().enumerate() {
                let at = example * width + place;
                let first = rsh(*x, cut.e) + self.lie(Decision::First, at).unwrap_or(0);
                let half = |shift: u32| if shift == 0 { 0 } else { 1 << (shift - 1) };
                let product = first * cut.rho;
                let code = rsh(product, cut.sh) + self.lie(Decision::Code, at).unwrap_or(0);
                self.put(&hidden.first, at, first);
                self.put(&hidden.first_rest, at, x + half(cut.e) - (first << cut.e));
                self.witness.columns[hidden.code][at] = residue(code);
                self.put(&hidden.second_rest, at, product + half(cut.sh) - (code << cut.sh));
                codes[at] = code;
            }
            intervals.push(cut);
        }
        (codes, intervals)
    }
}
