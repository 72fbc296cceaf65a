//! What a network asks of a proof, and whether its integers fit the field.
//!
//! Supported: chains `quantise, linear, (relu, quantise, linear)*` over vectors. Everything else is refused by name.
//!
//! # No identity wraps
//! The base field has p = 2^31 - 2^24 + 1 elements; an identity over it is one over the integers if its two sides differ by less
//! than p whatever the ranges of a proof allow. With t the accumulator after its static shift (|t| <= T), v = t m k:
//!
//! | identity | largest difference | holds if |
//! |---|---|---|
//! | `t 2^s1 + r = acc + 2^(s1-1)`, t in -2^b..2^b | 2^(b + s1) + 2^s1 + A | checked for each matrix |
//! | `y' 2^s + r = v + 2^(s-1)`, y' in -2^(30-s)..2^(30-s) | 2^30 + V + 2^27 | V = 31 * 31 T <= 2^30 - 2^24 - 2^27 - 1: checked |
//! | `y' = v 2^s` | proved by [`lockstep_base::net::Net`]: at most LIMIT | always |
//! | `a = |y|`, a below 2^30, y at most 2^29 | p - 2^29 > 2^30 | always |
//! | `x + 2^(e-1) = x16 2^e + r`, x16 below 2^15, e <= 15 | 2^30 + 2^15 | always |
//! | `x16 rho + 2^(sh-1) = code 2^sh + r`, code below 2^7, sh <= 23 | 2^30 + 2^23 | always |
//! | `M - low` below 2^30, both at most 2^29 | p - 2^29 > 2^30 | always |

use super::cut::rsh;
use crate::error::PlanError;
use alloc::vec::Vec;
use lockstep_base::net::{Net, Op};
use lockstep_base::weights::Linear;

/// Largest magnitude of a product of accumulator, row multiplier and step mantissa.
pub const PRODUCT_MAX: i64 = (1 << 30) - (1 << 24) - (1 << 27) - 1;
/// Largest row multiplier times the largest step mantissa.
const FACTOR_MAX: i64 = 31 * 31;
/// Largest sum of magnitudes in the identity of the static shift.
const WRAP_MAX: i64 = (1 << 31) - (1 << 24);

/// One linear layer, with what follows it.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Index of its weights.
    pub weights: usize,
    /// Columns that are not filling.
    pub cols: usize,
    /// Rows.
    pub rows: usize,
    /// s1.
    pub pre_shift: u32,
    /// Bits of |t|, if there is a static shift.
    pub shifted_bits: u32,
    /// The distinct values of `s_i + 18 - s1 + F_in - F_out`: with shift e + sh of the codes, a row's shift is the difference.
    pub shifts: Vec<i32>,
    /// Which of them each row has.
    pub group: Vec<usize>,
    /// The largest value of what is quantised behind it; `None` for the last layer.
    pub quantised_max: Option<i64>,
}

/// A network as a chain of layers.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Integers of one example.
    pub inputs: usize,
    /// The largest magnitude of an input.
    pub input_max: i64,
    /// In order.
    pub layers: Vec<Layer>,
}

impl Plan {
    /// The plan of `net`.
    ///
    /// # Errors
    /// If an op has no argument yet, or an identity could wrap.
    pub fn new(net: &Net) -> Result<Plan, PlanError> {
        let nodes = &net.graph().nodes;
        let input = &net.graph().input;
        let inputs = input.shape.elements();
        if input.shape.places() != 1 {
            let op = nodes[0].name();
            return Err(PlanError::Unsupported { node: 0, op, expected: "a vector as input" });
        }
        let mut layers: Vec<Layer> = Vec::new();
        let mut node = 0;
        while node < nodes.len() {
            if !layers.is_empty() {
                expect(nodes, node, "relu", |op| matches!(op, Op::Relu { .. }))?;
                node += 1;
                let layer = layers.len() - 1;
                layers[layer].quantised_max = Some(net.values()[node].high.max(0));
            }
            expect(nodes, node, "quantise", |op| matches!(op, Op::Quantise { .. }))?;
            let frac = i32::from(net.values()[node].frac);
            expect(nodes, node + 1, "linear", |op| matches!(op, Op::Linear { .. }))?;
            let weights = nodes[node + 1].weights().unwrap_or(0) as usize;
            let cols = net.values()[node].shape.elements();
            layers.push(layer(node + 1, &net.weights()[weights], weights, cols, frac)?);
            node += 2;
        }
        let input_max = i64::from(input.low).abs().max(i64::from(input.high).abs());
        Ok(Plan { inputs, input_max, layers })
    }
}

/// Node `node` exists, is what it should be, and reads the value before it.
fn expect(nodes: &[Op], node: usize, expected: &'static str, is: fn(&Op) -> bool) -> Result<(), PlanError> {
    let op = nodes.get(node);
    let fits = op.is_some_and(|op| is(op) && op.inputs().all(|input| input as usize == node));
    let refused = PlanError::Unsupported { node, op: op.map_or("the end", Op::name), expected };
    if fits { Ok(()) } else { Err(refused) }
}

fn layer(node: usize, linear: &Linear, weights: usize, cols: usize, frac: i32) -> Result<Layer, PlanError> {
    let at_most = |what, got: i64, limit: i64| {
        if got > limit { Err(PlanError::CouldWrap { node, what, got, limit }) } else { Ok(()) }
    };
    let norms = (0..linear.rows)
        .map(|row| linear.row_weights(row, &[]).iter().map(|w| i64::from(*w).abs()).sum::<i64>());
    let accumulator = 127 * norms.max().unwrap_or(0);
    at_most("an accumulator", accumulator, 127 << 23)?;
    let s1 = u32::from(linear.pre_shift);
    let shifted = rsh(accumulator, s1);
    at_most("a product", shifted * FACTOR_MAX, PRODUCT_MAX)?;
    let shifted_bits = i64::BITS - shifted.leading_zeros();
    if s1 > 0 {
        at_most("a static shift", s1.into(), 30)?;
        at_most("a shifted accumulator", (1i64 << (shifted_bits + s1)) + (2 << s1) + accumulator, WRAP_MAX)?;
    }
    let offset = 18 - i32::from(linear.pre_shift) + frac - i32::from(linear.out_frac);
    let (mut shifts, mut group) = (Vec::new(), Vec::with_capacity(linear.rows));
    for shift in linear.shifts.iter().map(|s| i32::from(*s) + offset) {
        let known = shifts.iter().position(|known| *known == shift);
        group.push(known.unwrap_or_else(|| {
            shifts.push(shift);
            shifts.len() - 1
        }));
    }
    Ok(Layer {
        weights,
        cols,
        rows: linear.rows,
        pre_shift: s1,
        shifted_bits,
        shifts,
        group,
        quantised_max: None,
    })
}
