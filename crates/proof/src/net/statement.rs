//! The statement: `net`, run on these inputs, gives these outputs. All of it is public.

use super::build::{Building, Codes, LayerColumns, cell_limbs, range_table};
use super::cut::{cuts, find};
use super::plan::Plan;
use super::steps::Steps;
use crate::circuit::Circuit;
use crate::claims::Layout;
use crate::commitment::CELLS_MAX;
use crate::error::PlanError;
use crate::field::{ProofField, residue};
use crate::transcript::Sponge;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::net::Net;
use p3_field::PrimeField32;

/// Name and version of the protocol: the first thing that a transcript absorbs.
pub const PROTOCOL: &str = "lockstep-proof-net-0";
/// Examples of one proof.
pub const EXAMPLES_MAX: usize = 1 << 16;
/// Bits of a limb: the larger, the fewer columns and the larger the table of ranges.
const LIMB_BITS: [u32; 4] = [8, 12, 15, 16];

/// A statement with the circuit that is satisfied if and only if it is true.
#[derive(Clone, Debug)]
pub struct Statement<'a, E: ProofField> {
    /// The network; the verifier holds its weights.
    pub net: &'a Net,
    /// Its chain of layers.
    pub plan: Plan,
    /// The circuit.
    pub circuit: Circuit<E::Base>,
    /// Its columns, layer by layer.
    pub layers: Vec<LayerColumns>,
    /// The column that counts lookups of ranges.
    pub ranges: usize,
    /// Where the columns lie.
    pub layout: Layout,
    /// log2 of the examples, with those that were added.
    pub log_examples: usize,
    /// The codes that the first layer reads, with those of added examples.
    pub codes: Vec<i64>,
    /// For each example the index of its interval in `cuts(plan.input_max)`.
    pub intervals: Vec<usize>,
    sponge: Sponge,
}

/// Bits of a limb: what gives the fewest cells.
fn limb_bits(plan: &Plan, examples: usize) -> u32 {
    let cells: usize = plan.layers.iter().map(|layer| layer.rows.next_power_of_two() * examples).sum();
    let all = |bits: &u32| cells.saturating_mul(cell_limbs(*bits)) + (2 << bits);
    LIMB_BITS.into_iter().min_by_key(all).unwrap_or(LIMB_BITS[0])
}

impl<'a, E: ProofField> Statement<'a, E> {
    /// The statement that `net` gives `output` for `input`, example after example.
    ///
    /// # Errors
    /// If there is no such statement, or no argument for it.
    pub fn new(net: &'a Net, input: &[i32], output: &[i32]) -> Result<Statement<'a, E>, PlanError> {
        let plan = Plan::new(net)?;
        let each = plan.inputs;
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
        let log_examples = examples.next_power_of_two().trailing_zeros() as usize;
        let sponge = absorbed::<E>(net, input, output);
        let mut circuit = Circuit::new(limb_bits(&plan, 1 << log_examples));
        let ranges = range_table(&mut circuit);
        let first = public_codes(&mut circuit, &plan, input, log_examples);
        let (codes, intervals) = (first.1, first.2);
        let (mut layers, mut reads) = (Vec::with_capacity(plan.layers.len()), Some(first.0));
        for (number, layer) in plan.layers.iter().enumerate() {
            let weights = &net.weights()[layer.weights];
            let building = Building { circuit: &mut circuit, log_examples, number, layer, weights };
            let reader = plan.layers.get(number + 1);
            let output = reader.is_none().then(|| public_output(output, layer.rows, log_examples));
            let Some(codes) = reads.take() else { break };
            let (columns, next) = building.add(&codes, output, reader);
            layers.push(columns);
            reads = next;
        }
        circuit.sort_leaves();
        let lookups = circuit.fractions() as u64;
        let limit = u64::from(E::Base::ORDER_U32);
        if lookups >= limit {
            return Err(PlanError::Lookups { got: lookups, limit });
        }
        let layout = Layout::new(circuit.columns.iter().map(|column| column.log).collect());
        if layout.cells() > CELLS_MAX {
            return Err(PlanError::TooLarge { got: layout.cells(), limit: CELLS_MAX });
        }
        Ok(Statement { net, plan, circuit, layers, ranges, layout, log_examples, codes, intervals, sponge })
    }

    /// A transcript that has absorbed the whole statement.
    #[must_use]
    pub fn sponge(&self) -> Sponge {
        self.sponge.clone()
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

/// The outputs as cells: added examples repeat the last one, added rows are 0.
fn public_output<B: PrimeField32>(output: &[i32], rows: usize, log_examples: usize) -> Vec<B> {
    let width = rows.next_power_of_two();
    let mut cells = vec![B::ZERO; width << log_examples];
    for (example, cells) in cells.chunks_mut(width).enumerate() {
        let example = example.min(output.len() / rows - 1);
        let values = &output[example * rows..(example + 1) * rows];
        cells.iter_mut().zip(values).for_each(|(cell, y)| *cell = residue((*y).into()));
    }
    cells
}

/// The first quantisation reads public integers, so the verifier computes it.
fn public_codes<B: PrimeField32>(
    circuit: &mut Circuit<B>,
    plan: &Plan,
    input: &[i32],
    log_examples: usize,
) -> (Codes, Vec<i64>, Vec<usize>) {
    let width = plan.inputs.next_power_of_two();
    let all = cuts(plan.input_max);
    let (mut codes, mut intervals) = (vec![0; width << log_examples], Vec::with_capacity(1 << log_examples));
    for (example, codes) in codes.chunks_mut(width).enumerate() {
        let example = example.min(input.len() / plan.inputs - 1);
        let x = &input[example * plan.inputs..(example + 1) * plan.inputs];
        let largest = x.iter().map(|x| i64::from(*x).abs()).max().unwrap_or(0);
        let interval = find(&all, largest);
        codes.iter_mut().zip(x).for_each(|(code, x)| *code = all[interval].code((*x).into()));
        intervals.push(interval);
    }
    let reader = &plan.layers[0];
    let limb_bits = circuit.limb_bits;
    let tuples: Vec<Vec<B>> = all.iter().map(|cut| Steps::new(cut, reader, limb_bits).tuple()).collect();
    let mut at = 0;
    let steps = Steps::sources(reader.shifts.len(), limb_bits, || {
        let column = intervals.iter().map(|interval| tuples[*interval][at]).collect();
        at += 1;
        circuit.public(column)
    });
    let source = circuit.public(codes.iter().map(|code| residue(*code)).collect());
    let log_width = width.trailing_zeros() as usize;
    (Codes { source, log_width, steps }, codes, intervals)
}
