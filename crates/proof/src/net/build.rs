//! The circuit of a network over a batch: columns, constraints and lookups, layer by layer.
//!
//! A layer is `linear`, and but for the last `relu` and `quantise` behind it; all its cells lie in one domain of examples by rows,
//! filled to powers of two. Added examples repeat the last one, so they are examples like the others. Added rows have no weights, no
//! bias and no group, so widths, products and offsets are 0 there, and so is everything that is computed from them.

use super::cut::Cut;
use super::plan::Layer;
use super::ranges::{RANGE_TAG, Value, Width, by_row, limbs, look_up, spread, value};
use super::steps::{FIRST_SHIFT_MAX, OUTPUT_SHIFT_MAX, OUTPUT_WIDTH_MAX, SECOND_SHIFT_MAX, Steps};
use crate::circuit::{Atom, Check, Circuit, Constraint, Domain, Leaf, Linear, Matmul, Source};
use crate::field::{power_of_two, residue};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::weights::Linear as Weights;
use p3_field::PrimeField32;

/// Bits of the magnitude of a value, and of `M - low`.
pub const MAGNITUDE_BITS: u32 = 30;
/// Bits of a value that is not negative, after the first shift.
const FIRST_BITS: u32 = 15;
/// Bits of its code.
const CODE_BITS: u32 = 7;

/// Limbs of one cell of a layer with `relu` and `quantise`.
#[must_use]
pub fn cell_limbs(limb_bits: u32) -> usize {
    let bits =
        [OUTPUT_WIDTH_MAX, OUTPUT_SHIFT_MAX, MAGNITUDE_BITS, FIRST_BITS, FIRST_SHIFT_MAX, SECOND_SHIFT_MAX];
    bits.into_iter().map(|bits| limbs(bits, limb_bits)).sum()
}

/// Columns of a value, and of its remainder.
pub type Shifted = (Vec<usize>, Vec<usize>);

/// Columns of one layer, for whoever fills them.
#[derive(Clone, Debug)]
pub struct LayerColumns {
    /// The cells.
    pub domain: Domain,
    /// Limbs of `y' + offset`.
    pub output: Vec<usize>,
    /// Limbs of its remainder.
    pub remainder: Vec<usize>,
    /// Limbs of `t + 2^b`, and of the remainder of the static shift.
    pub shifted: Option<Shifted>,
    /// What quantises.
    pub hidden: Option<HiddenColumns>,
}

/// Columns of `relu` and `quantise`.
#[derive(Clone, Debug)]
pub struct HiddenColumns {
    /// 1 where the output is negative.
    pub sign: usize,
    /// Limbs of its magnitude.
    pub magnitude: Vec<usize>,
    /// Limbs of what the first shift leaves.
    pub first: Vec<usize>,
    /// Limbs of its remainder.
    pub first_rest: Vec<usize>,
    /// The codes.
    pub code: usize,
    /// Limbs of the second remainder.
    pub second_rest: Vec<usize>,
    /// 1 at the element that is the largest of its example.
    pub chosen: usize,
    /// Limbs of M - low, one an example.
    pub above: Vec<usize>,
    /// What follows from the interval, in the order of [`Steps::tuple`].
    pub steps: Vec<usize>,
    /// How often each interval is looked up.
    pub multiplicity: usize,
    /// The intervals.
    pub cuts: Vec<Cut>,
}

/// What a layer reads.
#[derive(Clone, Debug)]
pub struct Codes {
    /// The codes.
    pub source: Source,
    /// log2 of their width.
    pub log_width: usize,
    /// What follows from their intervals, one an example.
    pub steps: Steps<Source>,
}

fn is_zero<B: PrimeField32>(products: Vec<(B, Linear<B>, Linear<B>)>, linear: Linear<B>) -> Constraint<B> {
    Constraint { products, linear }
}

/// The table of ranges, with the column that counts its lookups.
pub fn range_table<B: PrimeField32>(circuit: &mut Circuit<B>) -> usize {
    let domain = Domain { log_examples: 0, log_width: circuit.limb_bits as usize + 1 };
    let multiplicity = circuit.column("ranges".into(), domain.log());
    let tuple = vec![Linear::atom(Atom::Width), Linear::atom(Atom::Value)];
    let numerator = Linear::cell(multiplicity).times(B::NEG_ONE);
    circuit.leaves.push(Leaf { domain, numerator, tag: B::from_u32(RANGE_TAG), tuple });
    circuit.columns.len() - 1
}

/// One layer being built.
#[derive(Debug)]
pub struct Building<'a, B> {
    /// What it is added to.
    pub circuit: &'a mut Circuit<B>,
    /// log2 of the examples.
    pub log_examples: usize,
    /// Which layer it is.
    pub number: usize,
    /// Its plan.
    pub layer: &'a Layer,
    /// Its weights.
    pub weights: &'a Weights,
}

impl<B: PrimeField32> Building<'_, B> {
    fn domain(&self) -> Domain {
        let log_width = self.layer.rows.next_power_of_two().trailing_zeros() as usize;
        Domain { log_examples: self.log_examples, log_width }
    }

    fn column(&mut self, name: &str, log: usize) -> (usize, Source) {
        let source = self.circuit.column(format!("layer {}: {name}", self.number), log);
        (self.circuit.columns.len() - 1, source)
    }

    fn value(&mut self, domain: Domain, name: &str, width: Width<'_, B>) -> Value<B> {
        let name = format!("layer {}: {name}", self.number);
        value(self.circuit, domain, &name, width)
    }

    /// A row vector over the rows of the matrix, 0 in added rows.
    fn row(&mut self, of: impl Fn(usize) -> i64) -> usize {
        let mut values: Vec<B> = (0..self.layer.rows).map(|row| residue(of(row))).collect();
        values.resize(1 << self.domain().log_width, B::ZERO);
        self.circuit.row(values)
    }

    /// Adds the layer. `output` has the public outputs of the last one, `reader` is the layer behind another.
    pub fn add(
        mut self,
        codes: &Codes,
        output: Option<Vec<B>>,
        reader: Option<&Layer>,
    ) -> (LayerColumns, Option<Codes>) {
        let (domain, layer) = (self.domain(), self.layer);
        let mut constraints = Vec::new();
        let groups: Vec<usize> = (0..layer.shifts.len())
            .map(|group| self.row(|row| i64::from(layer.group[row] == group)))
            .collect();
        let factors: Vec<usize> = (0..layer.shifts.len())
            .map(|group| {
                let multipliers = &self.weights.multipliers;
                self.row(|row| if layer.group[row] == group { multipliers[row].into() } else { 0 })
            })
            .collect();
        let bias = self.row(|row| self.weights.bias.get(row).map_or(0, |bias| i64::from(*bias)));

        let matmul = Matmul {
            source: codes.source,
            log_cols: codes.log_width,
            cols: layer.cols,
            weights: layer.weights,
            domain,
        };
        self.circuit.matmuls.push(matmul);
        let accumulator = Linear::cell(Source::Accumulator(self.circuit.matmuls.len() - 1));
        let (shifted, t) = self.static_shift(accumulator, &mut constraints);

        let steps = &codes.steps.groups;
        let of = |get: fn(&super::steps::Group<Source>) -> Source, rows: &[usize]| {
            by_row::<B>(steps.iter().map(get), rows)
        };
        let widths = |get: fn(&super::steps::Group<Source>) -> &Vec<Source>| -> Vec<Linear<B>> {
            let limbs = steps.first().map_or(0, |group| get(group).len());
            (0..limbs).map(|limb| by_row(steps.iter().map(|group| get(group)[limb]), &groups)).collect()
        };
        let outputs = self.value(domain, "output", Width::Computed(&widths(|group| &group.output)));
        let remainder = self.value(domain, "remainder", Width::Computed(&widths(|group| &group.remainder)));
        let unbiased = outputs.value.minus(&of(|group| group.offset, &groups));
        constraints.push(is_zero(
            vec![
                (B::ONE, of(|group| group.power, &groups), unbiased.clone()),
                (B::NEG_ONE, of(|group| group.product, &factors), t),
            ],
            remainder.value.minus(&of(|group| group.half, &groups)),
        ));
        let y = unbiased.plus(&Linear::atom(Atom::Row(bias)));
        if let Some(output) = output {
            let output = Linear::cell(self.circuit.public(output));
            constraints.push(is_zero(Vec::new(), y.clone().minus(&output)));
        }
        let (hidden, next) = match reader {
            None => (None, None),
            Some(reader) => {
                let (hidden, codes) = self.quantise(&y, reader, &mut constraints);
                (Some(hidden), Some(codes))
            }
        };
        self.circuit.checks.push(Check { domain, constraints });
        let columns =
            LayerColumns { domain, output: outputs.columns, remainder: remainder.columns, shifted, hidden };
        (columns, next)
    }

    /// `t = rsh(acc, s1)`.
    fn static_shift(
        &mut self,
        accumulator: Linear<B>,
        constraints: &mut Vec<Constraint<B>>,
    ) -> (Option<Shifted>, Linear<B>) {
        let (s1, bits, domain) = (self.layer.pre_shift, self.layer.shifted_bits, self.domain());
        if s1 == 0 {
            return (None, accumulator);
        }
        let shifted = self.value(domain, "accumulator", Width::Fixed(bits + 1));
        let rest = self.value(domain, "static remainder", Width::Fixed(s1));
        let t = shifted.value.offset(-power_of_two::<B>(bits));
        let both = t.clone().times(power_of_two(s1)).plus(&rest.value);
        let difference = both.minus(&accumulator).offset(-power_of_two::<B>(s1 - 1));
        constraints.push(is_zero(Vec::new(), difference));
        (Some((shifted.columns, rest.columns)), t)
    }

    /// `relu` and `quantise` of y, for `reader`.
    fn quantise(
        &mut self,
        y: &Linear<B>,
        reader: &Layer,
        constraints: &mut Vec<Constraint<B>>,
    ) -> (HiddenColumns, Codes) {
        let (domain, limb_bits) = (self.domain(), self.circuit.limb_bits);
        let examples = Domain { log_examples: self.log_examples, log_width: 0 };
        let mut steps_columns = Vec::new();
        let steps = Steps::sources(reader.shifts.len(), limb_bits, || {
            let name = format!("layer {}: steps[{}]", self.number, steps_columns.len());
            let source = self.circuit.column(name, examples.log());
            steps_columns.push(self.circuit.columns.len() - 1);
            source
        });

        let (sign_column, sign) = self.column("sign", domain.log());
        let sign = Linear::cell(sign);
        let magnitude = self.value(domain, "magnitude", Width::Fixed(MAGNITUDE_BITS));
        constraints.push(is_zero(vec![(B::TWO, sign.clone(), y.clone())], magnitude.value.clone().minus(y)));
        constraints.push(is_zero(vec![(B::ONE, sign.clone(), sign.clone())], sign.times(B::NEG_ONE)));
        let x = magnitude.value.plus(y).times(B::TWO.inverse());

        let first = self.value(domain, "first shift", Width::Fixed(FIRST_BITS));
        let spread_all = |sources: &[Source]| sources.iter().map(|s| spread(*s)).collect::<Vec<_>>();
        let widths = spread_all(&steps.first);
        let first_rest = self.value(domain, "first remainder", Width::Computed(&widths));
        constraints.push(is_zero(
            vec![(B::NEG_ONE, first.value.clone(), spread(steps.first_power))],
            x.clone().plus(&spread(steps.first_half)).minus(&first_rest.value),
        ));
        let (code_column, code) = self.column("code", domain.log());
        look_up(self.circuit, domain, Linear::constant(B::from_u32(CODE_BITS)), Linear::cell(code));
        let widths = spread_all(&steps.second);
        let second_rest = self.value(domain, "second remainder", Width::Computed(&widths));
        constraints.push(is_zero(
            vec![
                (B::ONE, first.value, spread(steps.rho)),
                (B::NEG_ONE, Linear::cell(code), spread(steps.second_power)),
            ],
            spread(steps.second_half).minus(&second_rest.value),
        ));

        let above = self.value(examples, "above", Width::Fixed(MAGNITUDE_BITS));
        let (chosen, chosen_source) = self.column("chosen", domain.log());
        let largest = above.value.plus(&Linear::cell(steps.low));
        let tag = B::from_u32(RANGE_TAG + 1 + 2 * self.number as u32);
        self.circuit.leaves.push(Leaf {
            domain: examples,
            numerator: Linear::constant(B::ONE),
            tag,
            tuple: vec![Linear::atom(Atom::Index), largest],
        });
        self.circuit.leaves.push(Leaf {
            domain,
            numerator: Linear::cell(chosen_source).times(B::NEG_ONE),
            tag,
            tuple: vec![Linear::atom(Atom::Index), x],
        });
        let cuts = super::cut::cuts(self.layer.quantised_max.unwrap_or(0));
        let multiplicity = self.interval_table(&cuts, &steps, reader, tag + B::ONE);
        let columns = HiddenColumns {
            sign: sign_column,
            magnitude: magnitude.columns,
            first: first.columns,
            first_rest: first_rest.columns,
            code: code_column,
            second_rest: second_rest.columns,
            chosen,
            above: above.columns,
            steps: steps_columns,
            multiplicity,
            cuts,
        };
        (columns, Codes { source: code, log_width: domain.log_width, steps })
    }

    /// The table of intervals, filled up with its last one, and one lookup an example.
    fn interval_table(&mut self, cuts: &[Cut], steps: &Steps<Source>, reader: &Layer, tag: B) -> usize {
        let log_width = cuts.len().next_power_of_two().trailing_zeros() as usize;
        let limb_bits = self.circuit.limb_bits;
        let mut entries: Vec<Vec<B>> =
            cuts.iter().map(|cut| Steps::new(cut, reader, limb_bits).tuple()).collect();
        entries.resize(1 << log_width, entries[entries.len() - 1].clone());
        let sources = steps.tuple();
        let table: Vec<Linear<B>> = (0..sources.len())
            .map(|at| {
                let column = entries.iter().map(|entry| entry[at]).collect();
                Linear::cell(self.circuit.public(column))
            })
            .collect();
        let (multiplicity, source) = self.column("intervals", log_width);
        self.circuit.leaves.push(Leaf {
            domain: Domain { log_examples: 0, log_width },
            numerator: Linear::cell(source).times(B::NEG_ONE),
            tag,
            tuple: table,
        });
        self.circuit.leaves.push(Leaf {
            domain: Domain { log_examples: self.log_examples, log_width: 0 },
            numerator: Linear::constant(B::ONE),
            tag,
            tuple: sources.into_iter().map(Linear::cell).collect(),
        });
        multiplicity
    }
}
