//! The statement: `net`, run on these inputs, gives these outputs. All of it is public.

use super::plan::Plan;
use crate::argument::Argument;
use crate::circuit::{Bit, Linear};
use crate::error::PlanError;
use crate::field::{ProofField, residue};
use crate::gadget::linear::Codes;
use crate::gadget::quantise::{Extent, public_codes};
use crate::gadget::ranges::limbs;
use crate::gadget::{Builder, Built, whole};
use crate::integer::log2_ceil;
use crate::transcript::Sponge;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::net::Net;
use p3_field::{Field, PrimeCharacteristicRing};

/// Name and version of the protocol: the first thing that a transcript absorbs.
pub const PROTOCOL: &str = "lockstep-proof-net-1";
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
fn limb_bits(plan: &Plan<'_>, examples: usize) -> u32 {
    let cells: usize = plan.steps.iter().map(|step| step.rows.next_power_of_two() * examples).sum();
    let each = |bits: u32| CELL_BITS.iter().map(|value| limbs(*value, bits)).sum::<usize>();
    let all = |bits: &u32| cells.saturating_mul(each(*bits)) + (2 << bits);
    LIMB_BITS.into_iter().min_by_key(all).unwrap_or(LIMB_BITS[0])
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
        limb_bits(&self.plan, 1 << self.log_examples())
    }

    /// Adds the network to `builder`, and gives the outputs of its witness, if it has one.
    pub fn build(&self, builder: &mut Builder<'a, E::Base>) -> Vec<i64> {
        let log_examples = self.log_examples();
        let mut codes = self.first_codes(builder, log_examples);
        for (number, step) in self.plan.steps.iter().enumerate() {
            builder.scope(format!("layer {number}"));
            let y = builder.linear("linear", &codes, &step.layer);
            let log_rows = log2_ceil(step.rows);
            let log = log_examples + log_rows;
            let Some(reader) = self.plan.steps.get(number + 1) else {
                let output = builder.circuit.vector(self.public_output(step.rows, log_examples));
                let outputs = builder.integers(&y, log);
                builder.constrain(log, vec![], y.minus(&Linear::view(whole(output, log))));
                let each = outputs.chunks(1 << log_rows).flat_map(|outputs| &outputs[..step.rows]);
                return each.copied().take(self.output.len()).collect();
            };
            let (magnitude, _) = builder.magnitude("output", log, &y, MAGNITUDE_BITS);
            let x = magnitude.plus(&y).times(E::Base::TWO.inverse());
            let sixteen = builder.sixteen("relu", &x, (log_examples, log_rows), Extent::Any);
            let base = Linear::constant(residue(i64::from(-14 - reader.frac)));
            codes = builder.codes("relu", &sixteen, None, &base);
        }
        Vec::new()
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
        Argument::new(built.circuit, built.matrices, self.sponge.clone())
    }

    /// The outputs as cells: added examples repeat the last one, added rows are 0.
    fn public_output(&self, rows: usize, log_examples: usize) -> Vec<E::Base> {
        let width = rows.next_power_of_two();
        let mut cells = vec![E::Base::ZERO; width << log_examples];
        for (example, cells) in cells.chunks_mut(width).enumerate() {
            let example = example.min(self.output.len() / rows - 1);
            let values = &self.output[example * rows..(example + 1) * rows];
            cells.iter_mut().zip(values).for_each(|(cell, y)| *cell = residue((*y).into()));
        }
        cells
    }

    /// The first quantisation reads public integers, so the verifier computes it.
    fn first_codes(&self, builder: &mut Builder<'a, E::Base>, log_examples: usize) -> Codes<E::Base> {
        let step = &self.plan.steps[0];
        let each = self.net.graph().input.shape.elements();
        let width = each.next_power_of_two();
        let (mut codes, mut k, mut f) = (Vec::new(), Vec::new(), Vec::new());
        for example in 0..1usize << log_examples {
            let example = example.min(self.input.len() / each - 1);
            let x: Vec<i64> =
                self.input[example * each..(example + 1) * each].iter().map(|x| (*x).into()).collect();
            let (mut of, step) = public_codes(&x);
            of.resize(width, 0);
            codes.extend(of.into_iter().map(residue::<E::Base>));
            k.push(residue(step.0));
            f.push(residue(step.1));
        }
        let mut over_examples = |values: Vec<E::Base>| {
            let bits = (0..log_examples).map(Bit::At).collect();
            Linear::view(crate::circuit::View { source: builder.circuit.vector(values), bits })
        };
        let (k, f) = (over_examples(k), over_examples(f));
        let f = f.offset(residue(i64::from(-14 - step.frac)));
        let source = builder.circuit.vector(codes);
        Codes { source, log_vectors: log_examples, log_channels: log2_ceil(each), k, f }
    }
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
