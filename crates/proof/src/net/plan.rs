//! Which networks can be proved: chains `quantise, linear, (relu, quantise, linear)*` over vectors. Everything else is refused by name.

use crate::error::PlanError;
use crate::gadget::linear::Layer;
use crate::integer::log2_ceil;
use crate::matmul::Matrix;
use alloc::format;
use alloc::vec::Vec;
use lockstep_base::net::{Net, Op};

/// A linear layer and the format of the codes that it reads.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// The layer.
    pub layer: Layer<'a>,
    /// Rows that are not filling.
    pub rows: usize,
    /// Columns that are not filling.
    pub cols: usize,
    /// Fractional bits of what is quantised in front of it.
    pub frac: i32,
}

/// A network as a chain of layers.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// In order; there is at least one.
    pub steps: Vec<Step<'a>>,
}

impl<'a> Plan<'a> {
    /// The plan of `net`.
    ///
    /// # Errors
    /// If an op has no argument yet, or an identity could wrap.
    pub fn new(net: &'a Net) -> Result<Plan<'a>, PlanError> {
        let nodes = &net.graph().nodes;
        if net.graph().input.shape.places() != 1 {
            let op = nodes[0].name();
            return Err(PlanError::Unsupported { place: "node 0".into(), op, expected: "a vector as input" });
        }
        let mut steps: Vec<Step<'a>> = Vec::new();
        let mut node = 0;
        while node < nodes.len() {
            if !steps.is_empty() {
                expect(nodes, node, "relu", |op| matches!(op, Op::Relu { .. }))?;
                node += 1;
            }
            expect(nodes, node, "quantise", |op| matches!(op, Op::Quantise { .. }))?;
            let frac = i32::from(net.values()[node].frac);
            expect(nodes, node + 1, "linear", |op| matches!(op, Op::Linear { .. }))?;
            let weights = &net.weights()[nodes[node + 1].weights().unwrap_or(0) as usize];
            let (rows, cols) = (weights.rows, net.values()[node].shape.elements());
            let in_order = |n: usize| ((0..n as u32).collect(), log2_ceil(n));
            let matrix = Matrix { weights, tables: &[] };
            let layer =
                Layer::new(&format!("node {}", node + 1), matrix, in_order(rows), in_order(cols))?.bounded();
            steps.push(Step { layer, rows, cols, frac });
            node += 2;
        }
        Ok(Plan { steps })
    }
}

/// Node `node` exists, is what it should be, and reads the value before it.
fn expect(nodes: &[Op], node: usize, expected: &'static str, is: fn(&Op) -> bool) -> Result<(), PlanError> {
    let op = nodes.get(node);
    let fits = op.is_some_and(|op| is(op) && op.inputs().all(|input| input as usize == node));
    let op = op.map_or("the end", Op::name);
    let refused = PlanError::Unsupported { place: format!("node {node}"), op, expected };
    if fits { Ok(()) } else { Err(refused) }
}
