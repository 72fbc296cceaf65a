//! The statement: `net`, run on these inputs, gives these outputs. All of it is public.

use super::plan::Plan;
use crate::argument::Argument;
use crate::circuit::{Bit, Linear, View};
use crate::error::PlanError;
use crate::field::{ProofField, power_of_two, residue};
use crate::gadget::linear::Codes;
use crate::gadget::quantise::{Extent, public_codes};
use crate::gadget::ranges::limbs;
use crate::gadget::{Builder, Built, whole};
use crate::integer::{bit_length, log2_ceil};
use crate::transcript::Sponge;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::net::{Net, Op};
use p3_field::{Field, PrimeCharacteristicRing, PrimeField32};

/// Name and version of the protocol: the first thing that a transcript absorbs.
pub const PROTOCOL: &str = "lockstep-proof-net-4";
/// Examples of one proof.
pub const EXAMPLES_MAX: usize = 1 << 16;
/// Bits of the magnitude of what a rectifier reads.
const MAGNITUDE_BITS: u32 = 30;
/// Bits of a limb: the larger, the fewer columns and the larger the table of ranges.
const LIMB_BITS: [u32; 3] = [8, 12, 16];
/// Bits of the values that a cell of a layer has: output, remainder, magnitude, 16 bits, two more remainders.
const CELL_BITS: [u32; 6] = [31, 28, 30, 16, 15, 23];

/// A statement that is being proved or verified.
#[derive(Debug)]
pub struct Statement<'a, E: ProofField> {
    net: &'a Net,
    plan: Plan<'a>,
    input: &'a [i32],
    output: &'a [i32],
    sponge: Sponge,
    _field: core::marker::PhantomData<E>,
}

/// Bits of a limb: what gives the fewest cells.
fn limb_bits(net: &Net, examples: usize) -> u32 {
    let cells: usize = net.weights().iter().map(|weights| weights.rows.next_power_of_two()).sum();
    let cells = cells.max(net.values().iter().map(|value| value.shape.elements()).sum()) * examples;
    let each = |bits: u32| CELL_BITS.iter().map(|value| limbs(*value, bits)).sum::<usize>();
    let all = |bits: &u32| cells.saturating_mul(each(*bits)) + (2 << bits);
    LIMB_BITS.into_iter().min_by_key(all).unwrap_or(LIMB_BITS[0])
}

/// A value of the network in a circuit, over (examples, places).
#[derive(Clone, Debug)]
enum Value<B> {
    /// Integers.
    Fixed(Linear<B>),
    /// Codes.
    Codes(Codes<B>),
}

impl<'a, E: ProofField> Statement<'a, E> {
    /// The statement that `net` gives `output` for `input`, example after example.
    ///
    /// # Errors
    /// If there is no such statement, or no argument for it.
    pub fn new(net: &'a Net, input: &'a [i32], output: &'a [i32]) -> Result<Statement<'a, E>, PlanError> {
        let plan = Plan::new(net)?;
        let each = net.graph().input.shape.elements();
        let examples = input.len() / each;
        if !input.len().is_multiple_of(each) || examples == 0 || examples > EXAMPLES_MAX {
            return Err(PlanError::Examples { got: input.len(), each, limit: EXAMPLES_MAX });
        }
        let (low, high) = (net.graph().input.low, net.graph().input.high);
        if let Some(index) = input.iter().position(|x| !(low..=high).contains(x)) {
            return Err(PlanError::InputBounds { index, got: input[index], low, high });
        }
        let expected = examples * net.output().shape.elements();
        if output.len() != expected {
            return Err(PlanError::OutputLength { got: output.len(), expected });
        }
        // y and y - p are one element of the field, and both may be 32-bit integers.
        let (low, high) = (net.output().low, net.output().high);
        if let Some(index) = output.iter().position(|y| !(low..=high).contains(&i64::from(*y))) {
            return Err(PlanError::OutputBounds { index, got: output[index], low, high });
        }
        // What the last `pad` added has no cell.
        let places = plan.places.last().map_or(&[][..], |places| &places.of);
        let added = |index: &usize| places[index % places.len()].is_none() && output[*index] != 0;
        if let Some(index) = (0..output.len()).find(added) {
            return Err(PlanError::OutputBounds { index, got: output[index], low: 0, high: 0 });
        }
        let sponge = absorbed::<E>(net, input, output);
        Ok(Statement { net, plan, input, output, sponge, _field: core::marker::PhantomData })
    }

    /// log2 of the examples, with those that are added.
    fn log_examples(&self) -> usize {
        log2_ceil(self.input.len() / self.net.graph().input.shape.elements())
    }

    /// Bits of a limb.
    #[must_use]
    pub fn limb_bits(&self) -> u32 {
        limb_bits(self.net, 1 << self.log_examples())
    }

    /// Adds the network to `builder`, and gives the outputs of its witness, if it has one.
    pub fn build(&self, builder: &mut Builder<'a, E::Base>) -> Vec<i64> {
        let input = builder.circuit.vector(self.cells(self.input, 0));
        let log = self.log_examples() + self.plan.places[0].log;
        let mut values = vec![Value::Fixed(Linear::view(whole(input, log)))];
        for (node, op) in self.net.graph().nodes.iter().enumerate() {
            builder.scope(format!("node {node}, {}", op.name()));
            values.push(self.node(builder, node, op, &values));
        }
        builder.scope("output".into());
        self.outputs(builder, &values[values.len() - 1])
    }

    fn node(
        &self,
        builder: &mut Builder<'a, E::Base>,
        node: usize,
        op: &Op,
        values: &[Value<E::Base>],
    ) -> Value<E::Base> {
        let examples = self.log_examples();
        let input = op.inputs().next().unwrap_or(0) as usize;
        let (here, of) = (&self.plan.places[input], &self.net.values()[input]);
        let log = examples + here.log;
        match (op, &values[input]) {
            // Nothing moves but the places of elements.
            (Op::Pad { .. } | Op::Flatten { .. }, value) => value.clone(),
            (Op::Quantise { .. }, Value::Fixed(_)) if self.is_input(input) => {
                Value::Codes(self.first_codes(builder, input))
            }
            (Op::Quantise { .. }, Value::Fixed(x)) => {
                let sixteen =
                    builder.sixteen("16 bits", (&[(x, here.log)], i64::MAX), examples, Extent::Any, None);
                let base = Linear::constant(residue(i64::from(-14 - i32::from(of.frac))));
                Value::Codes(builder.codes("codes", &sixteen, None, &base))
            }
            (Op::Linear { .. }, Value::Codes(codes)) => match &self.plan.layers[node] {
                Some(layer) => Value::Fixed(builder.linear("linear", codes, layer)),
                None => values[input].clone(),
            },
            (Op::Conv { window, .. }, Value::Codes(codes)) => match &self.plan.layers[node] {
                Some(layer) => {
                    let output = self.net.values()[node + 1].shape;
                    let (taken, columns) = here.patches(window, of.shape, output);
                    let log_places = log2_ceil(output.places());
                    let source = builder.gather(codes.parts[0].0, examples, here.log, taken);
                    let vectors = examples + log_places;
                    let patches =
                        Codes { parts: [(source, columns)].into(), log_vectors: vectors, ..codes.clone() };
                    let real = (0..1usize << log_places).map(|at| E::Base::from_bool(at < output.places()));
                    let real = builder.circuit.vector(real.collect());
                    let real = View { source: real, bits: (examples..vectors).map(Bit::At).collect() };
                    Value::Fixed(builder.linear_where("conv", &patches, layer, Some(&real)))
                }
                None => values[input].clone(),
            },
            (Op::Relu { .. }, Value::Fixed(x)) => {
                let (magnitude, _) = builder.magnitude("relu", log, x, MAGNITUDE_BITS);
                Value::Fixed(magnitude.plus(x).times(E::Base::TWO.inverse()))
            }
            (Op::MaxPool { window, .. }, Value::Fixed(x)) => {
                let output = self.net.values()[node + 1].shape;
                let Some((taken, window)) = here.windows(window, of.shape, output) else {
                    return values[input].clone();
                };
                let x = builder.settle("pooled", log, x);
                let pooled = examples + self.plan.places[node + 1].log;
                let bits = bit_length(of.high - of.low);
                Value::Fixed(max_pool(builder, (&x, here.log), examples, taken, (pooled, window), bits))
            }
            (Op::Add { left, right, frac }, _) => {
                let mut sum = Linear::constant(E::Base::ZERO);
                for input in [*left as usize, *right as usize] {
                    let Value::Fixed(x) = &values[input] else { continue };
                    let shift = i32::from(self.net.values()[input].frac) - i32::from(*frac);
                    sum = sum.plus(&rescaled(builder, log, x, shift));
                }
                Value::Fixed(sum)
            }
            // A checked network has codes where codes are read, and integers where integers are.
            (_, value) => value.clone(),
        }
    }

    /// Whether a value is the input, perhaps at other places.
    fn is_input(&self, value: usize) -> bool {
        value == 0
            || match &self.net.graph().nodes[value - 1] {
                Op::Pad { input, .. } | Op::Flatten { input } => self.is_input(*input as usize),
                _ => false,
            }
    }

    /// The last value is what is claimed; gives that of the witness.
    fn outputs(&self, builder: &mut Builder<'a, E::Base>, value: &Value<E::Base>) -> Vec<i64> {
        let (last, examples) = (self.plan.places.len() - 1, self.log_examples());
        let (places, shape) = (&self.plan.places[last], self.net.output().shape);
        let log = examples + places.log;
        let Value::Fixed(y) = value else { return Vec::new() };
        let claimed = builder.circuit.vector(self.cells(self.output, last));
        let mut real = vec![E::Base::ZERO; 1 << places.log];
        places.of.iter().flatten().for_each(|place| real[*place as usize] = E::Base::ONE);
        let real =
            View { source: builder.circuit.vector(real), bits: (examples..log).map(Bit::At).collect() };
        let integers = builder.integers(y, log);
        let difference = y.clone().minus(&Linear::view(whole(claimed, log)));
        let products = vec![(E::Base::ONE, Linear::view(real), difference)];
        builder.constrain(log, products, Linear::constant(E::Base::ZERO));
        let element = |y: &[i64], place: &Option<u32>| place.map_or(0, |place| y[place as usize]);
        let each = integers
            .chunks(1 << places.log)
            .flat_map(|y| places.of.iter().map(|place| element(y, place)).collect::<Vec<_>>());
        each.take(self.output.len() / shape.elements() * shape.elements()).collect()
    }

    /// A transcript that has absorbed the statement.
    #[must_use]
    pub fn sponge(&self) -> Sponge {
        self.sponge.clone()
    }

    /// What a builder left, with the transcript that has absorbed the statement.
    ///
    /// # Errors
    /// If it is too large.
    pub fn argument(&self, built: Built<'a, E::Base>) -> Result<Argument<'a, E>, PlanError> {
        let mut sponge = self.sponge.clone();
        sponge.absorb("declared", &built.declarations);
        Argument::new(built.circuit, built.matrices, sponge)
    }

    /// Public integers of value `value` as cells: added examples repeat the last one, added places are 0.
    fn cells(&self, integers: &[i32], value: usize) -> Vec<E::Base> {
        let places = &self.plan.places[value];
        let each = places.of.len();
        let mut cells = vec![E::Base::ZERO; 1 << (self.log_examples() + places.log)];
        for (example, cells) in cells.chunks_mut(1 << places.log).enumerate() {
            let example = example.min(integers.len() / each - 1);
            let values = &integers[example * each..][..each];
            for (place, x) in places.of.iter().zip(values) {
                if let Some(place) = place {
                    cells[*place as usize] = residue((*x).into());
                }
            }
        }
        cells
    }

    /// The first quantisation reads public integers, so the verifier computes it.
    fn first_codes(&self, builder: &mut Builder<'a, E::Base>, value: usize) -> Codes<E::Base> {
        let (places, examples) = (&self.plan.places[value], self.log_examples());
        let each = self.net.graph().input.shape.elements();
        let (mut codes, mut k, mut f) = (Vec::new(), Vec::new(), Vec::new());
        for example in 0..1usize << examples {
            let example = example.min(self.input.len() / each - 1);
            let x: Vec<i64> = self.input[example * each..][..each].iter().map(|x| (*x).into()).collect();
            // What `pad` adds is 0 and changes no step; the places are those of the input.
            let (of, step) = public_codes(&x);
            let mut cells = vec![E::Base::ZERO; 1 << places.log];
            for (place, code) in self.plan.places[0].of.iter().zip(of) {
                if let Some(place) = place {
                    cells[*place as usize] = residue(code);
                }
            }
            codes.extend(cells);
            k.push(residue(step.0));
            f.push(residue(step.1));
        }
        let mut over_examples = |values: Vec<E::Base>| {
            let bits = (0..examples).map(Bit::At).collect();
            Linear::view(View { source: builder.circuit.vector(values), bits })
        };
        let (k, f) = (over_examples(k), over_examples(f));
        let f = f.offset(residue(i64::from(-14 - i32::from(self.net.values()[value].frac))));
        let source = builder.circuit.vector(codes);
        Codes { parts: [(source, places.log)].into(), log_vectors: examples, log_steps: examples, k, f }
    }
}

/// `scale(x, shift)` of a fixed value.
fn rescaled<B: PrimeField32>(
    builder: &mut Builder<'_, B>,
    log: usize,
    x: &Linear<B>,
    shift: i32,
) -> Linear<B> {
    match shift {
        29.. => Linear::constant(B::ZERO),
        1.. => builder.shift_right(&format!("shift by {shift}"), log, x, shift as u32, 30 - shift as u32),
        // Bounded by the network: a sum stays below 2^29 for every input.
        _ => x.clone().times(power_of_two(shift.unsigned_abs().min(30))),
    }
}

/// The largest of each window: at least every element, and one of them.
fn max_pool<B: PrimeField32>(
    builder: &mut Builder<'_, B>,
    (x, log_from): (&Linear<B>, usize),
    examples: usize,
    taken: Vec<Option<u32>>,
    (pooled, window): (usize, usize),
    bits: u32,
) -> Linear<B> {
    let log = pooled + window;
    let source = x.terms[0].views[0].source;
    let elements = Linear::view(whole(builder.gather(source, examples, log_from, taken), log));
    let values = builder.integers(&elements, log);
    let largest = |x: &[i64]| (0..x.len()).max_by_key(|at| (x[*at], core::cmp::Reverse(*at))).unwrap_or(0);
    let places: Vec<usize> = values.chunks(1 << window).map(largest).collect();
    let max = builder.choose("largest chosen", (pooled, window), &elements, &places);
    let max = builder.settle("largest", pooled, &max);
    builder.in_range("not above the largest", log, bits, &max.clone().minus(&elements));
    max
}

/// Everything public, with all lengths. What else a verifier uses follows from it.
fn absorbed<E: ProofField>(net: &Net, input: &[i32], output: &[i32]) -> Sponge {
    let mut sponge = Sponge::new(PROTOCOL);
    sponge.absorb("field", E::NAME.as_bytes());
    sponge.absorb("network", &net.root().0);
    let bytes = |values: &[i32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    sponge.absorb("input", &bytes(input));
    sponge.absorb("output", &bytes(output));
    sponge
}
