//! Shapes, formats and bounds of every value of a network, node by node.

use super::bounds::{self, Interval, LIMIT, Unbounded};
use super::{
    FRACS, Format, Graph, Input, NET_ELEMENTS_MAX, NET_NAME_MAX, NET_OPSET, NODES_MAX, Net, Op,
    PATCH_BYTES_MAX, Shape, VALUE_ELEMENTS_MAX, VALUE_MAX, Value, Window, WindowError,
};
use crate::config::{COLS_MULTIPLE, padded};
use crate::limits::{COLS_MAX, PRE_SHIFT_MAX, ROWS_MAX};
use crate::weights::{Linear, PANEL_ROWS, WeightFormat};
use alloc::string::String;
use alloc::vec::Vec;

/// Largest shift of a row.
const ROW_SHIFT_MAX: u8 = 60;
/// Largest static shift of an accumulator.
/// Largest row multiplier.
const MULTIPLIER_MAX: u8 = 31;

/// Why a graph and weights are no network. Nodes are counted from 0.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetError {
    /// Another arithmetic.
    #[error("opset {got:?}, expected {NET_OPSET:?}")]
    Opset {
        /// Its name.
        got: String,
    },
    /// A name that is too long.
    #[error("a name of {got} bytes, expected at most {NET_NAME_MAX}")]
    Name {
        /// Its length.
        got: usize,
    },
    /// No nodes, or too many.
    #[error("{got} nodes, expected 1 to {NODES_MAX}")]
    Nodes {
        /// How many.
        got: usize,
    },
    /// Bounds of the input that are none.
    #[error("input of {low} to {high}, expected bounds in order and at most {VALUE_MAX} in magnitude")]
    InputBounds {
        /// The smallest integer.
        low: i32,
        /// The largest.
        high: i32,
    },
    /// Fractional bits outside [`FRACS`]; node `None` is the input.
    #[error("{}: {got} fractional bits, expected -24 to 24", place(*.node))]
    Frac {
        /// The node.
        node: Option<usize>,
        /// Its fractional bits.
        got: i8,
    },
    /// A value without elements, or too large; node `None` is the input.
    #[error("{}: {got} elements, expected 1 to {limit}", place(*.node))]
    Elements {
        /// The node.
        node: Option<usize>,
        /// How many.
        got: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// A value that is not yet computed.
    #[error("node {node} reads value {got}, expected one before {}", node + 1)]
    Order {
        /// The node.
        node: usize,
        /// The value.
        got: u32,
    },
    /// Codes where fixed-point values are expected, or the other way round.
    #[error("node {node} reads {got:?}, expected {expected:?}")]
    Format {
        /// The node.
        node: usize,
        /// What the value is.
        got: Format,
        /// What it should be.
        expected: Format,
    },
    /// A linear layer over an image, or a sum of different shapes.
    #[error("node {node} reads a value of shape {got:?}, expected {expected}")]
    Shape {
        /// The node.
        node: usize,
        /// The shape.
        got: Shape,
        /// What it should be.
        expected: &'static str,
    },
    /// A window that does not fit.
    #[error("node {node}: {source}")]
    Window {
        /// The node.
        node: usize,
        /// Which number.
        source: WindowError,
    },
    /// Padding that makes an image too large.
    #[error("node {node}: {what} is {got}, expected at most {limit}")]
    Pad {
        /// The node.
        node: usize,
        /// Which side.
        what: &'static str,
        /// Its length.
        got: u64,
        /// The limit.
        limit: u64,
    },
    /// Weights are named in order, each once.
    #[error("node {node} reads weights {got}, expected {expected}: each is read once, in order")]
    WeightOrder {
        /// The node.
        node: usize,
        /// The index.
        got: u32,
        /// The next one.
        expected: usize,
    },
    /// Weights that are not there, or that no node reads.
    #[error("{got} matrices, expected {expected}")]
    WeightCount {
        /// How many there are.
        got: usize,
        /// How many are read.
        expected: usize,
    },
    /// A number of a matrix.
    #[error("node {node}: its weights have {what} {got}, expected {low} to {high}")]
    Weights {
        /// The node.
        node: usize,
        /// Which number.
        what: &'static str,
        /// Its value.
        got: i128,
        /// The smallest allowed.
        low: i128,
        /// The largest.
        high: i128,
    },
    /// A bound that cannot be proved.
    #[error("node {node}: {what} may be {got}, expected a proof of at most {limit}")]
    Unbounded {
        /// The node.
        node: usize,
        /// What.
        what: &'static str,
        /// The magnitude that cannot be excluded.
        got: i128,
        /// The bound.
        limit: i128,
    },
}

fn place(node: Option<usize>) -> String {
    node.map_or_else(|| "input".into(), |node| alloc::format!("node {node}"))
}

/// Makes a network node by node, each checked when it is added. A node that is refused leaves no trace.
#[derive(Clone, Debug)]
pub struct Builder {
    graph: Graph,
    weights: Vec<Linear>,
    values: Vec<Value>,
    /// Elements of all values so far.
    elements: u64,
}

impl Builder {
    /// A network without nodes.
    ///
    /// # Errors
    /// If the name or the input is out of range.
    pub fn new(name: &str, input: Input) -> Result<Builder, NetError> {
        if name.len() > NET_NAME_MAX {
            return Err(NetError::Name { got: name.len() });
        }
        let (low, high) = (i64::from(input.low), i64::from(input.high));
        if low > high || low < -VALUE_MAX || high > VALUE_MAX {
            return Err(NetError::InputBounds { low: input.low, high: input.high });
        }
        let value = Value { shape: input.shape, format: Format::Fixed, frac: input.frac, low, high };
        let graph = Graph { opset: NET_OPSET.into(), name: name.into(), input, nodes: Vec::new() };
        let mut builder = Builder { graph, weights: Vec::new(), values: Vec::new(), elements: 0 };
        builder.add(None, value)?;
        Ok(builder)
    }

    /// Adds a node, with its weights if it reads any; gives the value that it computes.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn push(&mut self, op: Op, weights: Option<Linear>) -> Result<u32, NetError> {
        let value = self.check(&op, weights.as_ref())?;
        self.add(Some(self.graph.nodes.len()), value)?;
        self.weights.extend(weights);
        self.graph.nodes.push(op);
        Ok(self.graph.nodes.len() as u32)
    }

    /// What the next node would compute, if it were `op` with `weights`.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check(&self, op: &Op, weights: Option<&Linear>) -> Result<Value, NetError> {
        let node = self.graph.nodes.len();
        if node == NODES_MAX {
            return Err(NetError::Nodes { got: node + 1 });
        }
        let expected = self.weights.len();
        match op.weights() {
            Some(got) if got as usize != expected => Err(NetError::WeightOrder { node, got, expected }),
            Some(_) if weights.is_none() => {
                Err(NetError::WeightCount { got: expected, expected: expected + 1 })
            }
            None if weights.is_some() => Err(NetError::WeightCount { got: expected + 1, expected }),
            _ => self.node(node, op, weights),
        }
    }

    /// What is known of the values so far.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Index of the weights that the next node with weights reads.
    #[must_use]
    pub fn next_weights(&self) -> u32 {
        self.weights.len() as u32
    }

    /// The network.
    ///
    /// # Errors
    /// If there is no node.
    pub fn finish(self) -> Result<Net, NetError> {
        if self.graph.nodes.is_empty() {
            return Err(NetError::Nodes { got: 0 });
        }
        Ok(Net { graph: self.graph, weights: self.weights, values: self.values })
    }

    fn add(&mut self, node: Option<usize>, value: Value) -> Result<(), NetError> {
        if !FRACS.contains(&value.frac) {
            return Err(NetError::Frac { node, got: value.frac });
        }
        let Shape { height, width, channels } = value.shape;
        let got = (u64::from(height) * u64::from(width)).saturating_mul(channels.into());
        if got == 0 || got > VALUE_ELEMENTS_MAX {
            return Err(NetError::Elements { node, got, limit: VALUE_ELEMENTS_MAX });
        }
        if self.elements + got > NET_ELEMENTS_MAX {
            return Err(NetError::Elements { node, got: self.elements + got, limit: NET_ELEMENTS_MAX });
        }
        self.elements += got;
        self.values.push(value);
        Ok(())
    }

    fn node(&self, node: usize, op: &Op, weights: Option<&Linear>) -> Result<Value, NetError> {
        let bound = |Unbounded { what, got, limit }| NetError::Unbounded { node, what, got, limit };
        match *op {
            Op::Pad { input, pads } => {
                let x = self.fixed(node, input)?;
                let [top, left, bottom, right] = pads.map(u64::from);
                let side = |what, side: u64| match u32::try_from(side) {
                    Ok(side) if u64::from(side) <= VALUE_ELEMENTS_MAX => Ok(side),
                    _ => Err(NetError::Pad { node, what, got: side, limit: VALUE_ELEMENTS_MAX }),
                };
                let height = side("padded height", u64::from(x.shape.height) + top + bottom)?;
                let width = side("padded width", u64::from(x.shape.width) + left + right)?;
                let shape = Shape { height, width, channels: x.shape.channels };
                Ok(with(x, shape, interval(&x).with_zero()))
            }
            Op::Quantise { input } => Ok(Value { format: Format::Codes, ..self.fixed(node, input)? }),
            Op::Linear { input, .. } => {
                let x = self.read(node, input, Format::Codes)?;
                if x.shape.places() != 1 {
                    return Err(NetError::Shape { node, got: x.shape, expected: "a vector" });
                }
                let linear = matrix(node, weights, x.shape.channels.into())?;
                let y = bounds::linear(linear, interval(&x), x.frac).map_err(bound)?;
                Ok(fixed(Shape::vector(linear.rows as u32), linear.out_frac, y))
            }
            Op::Conv { input, window, .. } => {
                let x = self.read(node, input, Format::Codes)?;
                let (height, width) = windows(node, &window, x.shape)?;
                let columns = u64::from(window.kernel[0]) * u64::from(window.kernel[1]);
                let columns = columns.saturating_mul(x.shape.channels.into());
                let linear = matrix(node, weights, columns)?;
                let places = u64::from(height) * u64::from(width);
                let patches = places.saturating_mul(linear.cols as u64);
                if patches > PATCH_BYTES_MAX {
                    return Err(NetError::Elements {
                        node: Some(node),
                        got: patches,
                        limit: PATCH_BYTES_MAX,
                    });
                }
                let y = bounds::linear(linear, interval(&x).with_zero(), x.frac).map_err(bound)?;
                Ok(fixed(Shape { height, width, channels: linear.rows as u32 }, linear.out_frac, y))
            }
            Op::Relu { input } => {
                let x = self.fixed(node, input)?;
                Ok(with(x, x.shape, interval(&x).relu()))
            }
            Op::MaxPool { input, window } => {
                let x = self.fixed(node, input)?;
                let (height, width) = windows(node, &window, x.shape)?;
                Ok(with(x, Shape { height, width, channels: x.shape.channels }, interval(&x)))
            }
            Op::Flatten { input } => {
                let x = self.fixed(node, input)?;
                Ok(with(x, Shape::vector(x.shape.elements() as u32), interval(&x)))
            }
            Op::Add { left, right, frac } => {
                if !FRACS.contains(&frac) {
                    return Err(NetError::Frac { node: Some(node), got: frac });
                }
                let (a, b) = (self.fixed(node, left)?, self.fixed(node, right)?);
                if a.shape != b.shape {
                    return Err(NetError::Shape {
                        node,
                        got: b.shape,
                        expected: "that of the other summand",
                    });
                }
                let part = |x: &Value| interval(x).rescaled(x.frac, frac).checked("summand").map_err(bound);
                let sum = part(&a)?.plus(part(&b)?).checked("sum").map_err(bound)?;
                Ok(fixed(a.shape, frac, sum))
            }
        }
    }

    fn fixed(&self, node: usize, value: u32) -> Result<Value, NetError> {
        self.read(node, value, Format::Fixed)
    }

    fn read(&self, node: usize, value: u32, expected: Format) -> Result<Value, NetError> {
        let x = *self.values.get(value as usize).ok_or(NetError::Order { node, got: value })?;
        if x.format == expected { Ok(x) } else { Err(NetError::Format { node, got: x.format, expected }) }
    }
}

/// The weights of a node, checked, with this many columns before padding.
fn matrix(node: usize, weights: Option<&Linear>, columns: u64) -> Result<&Linear, NetError> {
    let linear = weights.ok_or(NetError::WeightCount { got: 0, expected: 1 })?;
    let one = |what, got: i128, low: i128, high: i128| match got {
        got if (low..=high).contains(&got) => Ok(()),
        got => Err(NetError::Weights { node, what, got, low, high }),
    };
    let count =
        |what, got: usize, expected: usize| one(what, got as i128, expected as i128, expected as i128);
    one("columns before padding", columns.into(), 1, COLS_MAX.into())?;
    count("columns", linear.cols, padded(columns as u32, COLS_MULTIPLE) as usize)?;
    one("columns", linear.cols as i128, 1, COLS_MAX.into())?;
    one("rows", linear.rows as i128, 1, ROWS_MAX.into())?;
    one("bits a weight", if linear.format == WeightFormat::Int8 { 8 } else { 4 }, 8, 8)?;
    count("bytes of codes", linear.codes.len(), linear.format.code_bytes(linear.rows, linear.cols))?;
    count("bytes of table ids", linear.table_ids.len(), 0)?;
    count("multipliers", linear.multipliers.len(), linear.rows)?;
    count("shifts", linear.shifts.len(), linear.rows)?;
    if !linear.bias.is_empty() {
        count("biases", linear.bias.len(), linear.rows)?;
    }
    one("static shift", linear.pre_shift.into(), 0, PRE_SHIFT_MAX.into())?;
    one(
        "fractional bits of the output",
        linear.out_frac.into(),
        (*FRACS.start()).into(),
        (*FRACS.end()).into(),
    )?;
    for row in 0..linear.rows {
        one("a multiplier", linear.multipliers[row].into(), 1, MULTIPLIER_MAX.into())?;
        one("a row shift", linear.shifts[row].into(), 0, ROW_SHIFT_MAX.into())?;
        let bias = linear.bias.get(row).copied().unwrap_or(0);
        one("a bias", bias.into(), -LIMIT, LIMIT)?;
    }
    let least = linear.codes.iter().map(|code| *code as i8).min().unwrap_or(0);
    one("a smallest code", least.into(), -127, 127)?;
    check_filling(node, linear)?;
    Ok(linear)
}

/// Rows that fill up the last panel are zero, so that the root binds every byte.
fn check_filling(node: usize, linear: &Linear) -> Result<(), NetError> {
    for row in linear.rows..linear.rows.div_ceil(PANEL_ROWS) * PANEL_ROWS {
        for col in 0..linear.cols {
            let got = linear.codes[linear.code_offset(row, col)] as i8;
            if got != 0 {
                let what = "a code in the rows that fill up the last panel of";
                return Err(NetError::Weights { node, what, got: got.into(), low: 0, high: 0 });
            }
        }
    }
    Ok(())
}

/// Height and width of what a window gives.
fn windows(node: usize, window: &Window, shape: Shape) -> Result<(u32, u32), NetError> {
    window.output(shape).map_err(|source| NetError::Window { node, source })
}

fn interval(value: &Value) -> Interval {
    Interval { low: value.low, high: value.high }
}

fn fixed(shape: Shape, frac: i8, Interval { low, high }: Interval) -> Value {
    Value { shape, format: Format::Fixed, frac, low, high }
}

fn with(value: Value, shape: Shape, Interval { low, high }: Interval) -> Value {
    Value { shape, low, high, ..value }
}
