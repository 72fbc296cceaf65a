//! Small networks, dense and convolutional: an explicit graph of integer ops, and the weights that it names
//! (docs/spec/nets.md).
//!
//! A network is a list of nodes; value 0 is the input and value i + 1 the output of node i, so a node reads only what
//! was computed before it, and the last node is the output. Shapes, formats and bounds of all values follow from
//! the graph, the weights and the declared bounds of the input. [`Net::new`] derives them once, in integers, and
//! refuses what could leave 32 bits; whoever holds a [`Net`] may rely on them, whoever made it. Proofs take the
//! same list.
//!
//! Images are channel-last, `(height, width, channels)`: the output of a convolution is that of a linear layer over
//! patches, position after position.

mod bounds;
mod check;

use crate::cbor;
use crate::digest::Digest;
use crate::limits::COLS_MAX;
use crate::manifest::{self, Entry, EntryKind};
use crate::weights::Linear;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
pub use check::{Builder, NetError};
use minicbor::{Decode, Encode};

/// The arithmetic of small networks: a part of opset `lockstep-1`.
pub const NET_OPSET: &str = "lockstep-net-1";
/// Nodes of a network.
pub const NODES_MAX: usize = 512;
/// Elements of one value.
pub const VALUE_ELEMENTS_MAX: u64 = 1 << 22;
/// Elements of all values of a network together.
pub const NET_ELEMENTS_MAX: u64 = 1 << 24;
/// Bytes of the patches of one convolution: positions times padded columns.
pub const PATCH_BYTES_MAX: u64 = 1 << 26;
/// Characters of a network's name.
pub const NET_NAME_MAX: usize = 128;
/// Largest magnitude of a fixed-point value: any two of them can be added and then quantised.
pub const VALUE_MAX: i64 = 1 << 29;
/// Fractional bits of a fixed-point value.
pub const FRACS: core::ops::RangeInclusive<i8> = -24..=24;

/// Height, width and channels; a vector of n has (1, 1, n).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(array)]
pub struct Shape {
    /// Rows of the image.
    #[n(0)]
    pub height: u32,
    /// Columns of the image.
    #[n(1)]
    pub width: u32,
    /// Values at each place.
    #[n(2)]
    pub channels: u32,
}

impl Shape {
    /// A vector of `n` values.
    #[must_use]
    pub const fn vector(n: u32) -> Shape {
        Shape { height: 1, width: 1, channels: n }
    }

    /// Places of the image.
    #[must_use]
    pub const fn places(&self) -> usize {
        self.height as usize * self.width as usize
    }

    /// All values, at most [`VALUE_ELEMENTS_MAX`] in a checked network.
    #[must_use]
    pub const fn elements(&self) -> usize {
        self.places() * self.channels as usize
    }
}

/// Where a kernel is laid over an image. Padding is narrower than the kernel, so that every patch sees the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(array)]
pub struct Window {
    /// Kernel height and width.
    #[n(0)]
    pub kernel: [u32; 2],
    /// Steps down and to the right.
    #[n(1)]
    pub strides: [u32; 2],
    /// Padding at the top, left, bottom, right.
    #[n(2)]
    pub pads: [u32; 4],
}

/// Which number of a window does not fit.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("{what} is {got}, expected {low} to {high}")]
pub struct WindowError {
    /// Which number.
    pub what: &'static str,
    /// Its value.
    pub got: u64,
    /// The smallest allowed.
    pub low: u64,
    /// The largest.
    pub high: u64,
}

impl Window {
    /// A 1 by 1 kernel: every place by itself.
    pub const PLACE: Window = Window { kernel: [1, 1], strides: [1, 1], pads: [0; 4] };

    /// Height and width of what it gives over an image: `(size + pads - kernel) / stride + 1`, rounded down.
    ///
    /// # Errors
    /// If it does not fit: kernels and strides are 1 to [`COLS_MAX`], padding is narrower than the kernel and the
    /// kernel fits the padded image.
    pub fn output(&self, shape: Shape) -> Result<(u32, u32), WindowError> {
        let [top, left, bottom, right] = self.pads;
        let sides = [
            (shape.height, self.kernel[0], self.strides[0], [top, bottom]),
            (shape.width, self.kernel[1], self.strides[1], [left, right]),
        ];
        let mut out = [0; 2];
        for (out, (size, kernel, stride, pads)) in out.iter_mut().zip(sides) {
            let one = |what, got: u32, low: u64, high: u64| match u64::from(got) {
                got if (low..=high).contains(&got) => Ok(()),
                got => Err(WindowError { what, got, low, high }),
            };
            one("kernel size", kernel, 1, COLS_MAX.into())?;
            one("stride", stride, 1, COLS_MAX.into())?;
            for pad in pads {
                one("padding", pad, 0, u64::from(kernel) - 1)?;
            }
            let padded = u64::from(size) + u64::from(pads[0]) + u64::from(pads[1]);
            one("kernel size", kernel, 1, padded)?;
            *out = ((padded - u64::from(kernel)) / u64::from(stride) + 1) as u32;
        }
        Ok(out.into())
    }
}

/// One operation; `input`, `left` and `right` are values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Op {
    /// Zeros around an image: fixed to fixed.
    #[n(0)]
    #[cbor(array)]
    Pad {
        /// The image.
        #[n(0)]
        input: u32,
        /// Lines added at the top, left, bottom, right.
        #[n(1)]
        pads: [u32; 4],
    },
    /// int8 codes with one step for the whole value: fixed to codes.
    #[n(1)]
    #[cbor(array)]
    Quantise {
        /// What is quantised.
        #[n(0)]
        input: u32,
    },
    /// `W x + b`: codes to fixed.
    #[n(2)]
    #[cbor(array)]
    Linear {
        /// A vector of codes.
        #[n(0)]
        input: u32,
        /// Index of the weights.
        #[n(1)]
        weights: u32,
    },
    /// The same over every patch: codes to fixed. Columns are (kernel row, kernel column, channel).
    #[n(3)]
    #[cbor(array)]
    Conv {
        /// An image of codes.
        #[n(0)]
        input: u32,
        /// Index of the weights.
        #[n(1)]
        weights: u32,
        /// The patches; what lies outside the image is 0.
        #[n(2)]
        window: Window,
    },
    /// `max(x, 0)`: fixed to fixed.
    #[n(4)]
    #[cbor(array)]
    Relu {
        /// Its argument.
        #[n(0)]
        input: u32,
    },
    /// The largest of each window, channel by channel: fixed to fixed. What lies outside the image does not count.
    #[n(5)]
    #[cbor(array)]
    MaxPool {
        /// The image.
        #[n(0)]
        input: u32,
        /// The windows.
        #[n(1)]
        window: Window,
    },
    /// An image as a vector in the order (channel, row, column): fixed to fixed.
    #[n(6)]
    #[cbor(array)]
    Flatten {
        /// The image.
        #[n(0)]
        input: u32,
    },
    /// The sum of two values of one shape, each brought to `frac` fractional bits first: fixed to fixed.
    #[n(7)]
    #[cbor(array)]
    Add {
        /// One of them.
        #[n(0)]
        left: u32,
        /// The other.
        #[n(1)]
        right: u32,
        /// Fractional bits of the sum.
        #[n(2)]
        frac: i8,
    },
}

impl Op {
    /// The values that it reads.
    pub fn inputs(&self) -> impl Iterator<Item = u32> + use<> {
        let (first, second) = match *self {
            Op::Pad { input, .. }
            | Op::Quantise { input }
            | Op::Linear { input, .. }
            | Op::Conv { input, .. }
            | Op::Relu { input }
            | Op::MaxPool { input, .. }
            | Op::Flatten { input } => (input, None),
            Op::Add { left, right, .. } => (left, Some(right)),
        };
        core::iter::once(first).chain(second)
    }

    /// The weights that it reads.
    #[must_use]
    pub fn weights(&self) -> Option<u32> {
        match *self {
            Op::Linear { weights, .. } | Op::Conv { weights, .. } => Some(weights),
            _ => None,
        }
    }

    /// Its name in files and messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Op::Pad { .. } => "pad",
            Op::Quantise { .. } => "quantise",
            Op::Linear { .. } => "linear",
            Op::Conv { .. } => "conv",
            Op::Relu { .. } => "relu",
            Op::MaxPool { .. } => "max_pool",
            Op::Flatten { .. } => "flatten",
            Op::Add { .. } => "add",
        }
    }
}

/// What enters: integers of known bounds, a number x meaning `x 2^-frac`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Input {
    /// Its shape.
    #[n(0)]
    pub shape: Shape,
    /// Fractional bits.
    #[n(1)]
    pub frac: i8,
    /// The smallest integer that is accepted.
    #[n(2)]
    pub low: i32,
    /// The largest.
    #[n(3)]
    pub high: i32,
}

/// The graph without its weights.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Graph {
    /// [`NET_OPSET`].
    #[n(0)]
    pub opset: String,
    /// A name for people.
    #[n(1)]
    pub name: String,
    /// Value 0.
    #[n(2)]
    pub input: Input,
    /// Node i computes value i + 1.
    #[n(3)]
    pub nodes: Vec<Op>,
}

/// What a value is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// i32 with fixed fractional bits.
    Fixed,
    /// int8 codes with a step for each example.
    Codes,
}

/// What is known of a value before anything runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its shape.
    pub shape: Shape,
    /// What it is made of.
    pub format: Format,
    /// Fractional bits; for codes those of what was quantised.
    pub frac: i8,
    /// Lower bound, proved for every input; for codes that of what was quantised.
    pub low: i64,
    /// Upper bound.
    pub high: i64,
}

/// A network whose shapes, formats and bounds were checked.
#[derive(Clone, Debug)]
pub struct Net {
    graph: Graph,
    weights: Vec<Linear>,
    values: Vec<Value>,
}

impl Net {
    /// Checks everything that the runtime relies on and proves the bounds of every value.
    ///
    /// # Errors
    /// The first check that fails, with its node.
    pub fn new(graph: Graph, weights: Vec<Linear>) -> Result<Net, NetError> {
        if graph.opset != NET_OPSET {
            return Err(NetError::Opset { got: graph.opset });
        }
        let mut builder = Builder::new(&graph.name, graph.input)?;
        let (count, mut weights) = (weights.len(), weights.into_iter());
        for op in graph.nodes {
            let linear = op.weights().and_then(|_| weights.next());
            builder.push(op, linear)?;
        }
        if weights.len() > 0 {
            return Err(NetError::WeightCount { got: count, expected: count - weights.len() });
        }
        builder.finish()
    }

    /// The graph.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The weights, in the order of the nodes that read them.
    #[must_use]
    pub fn weights(&self) -> &[Linear] {
        &self.weights
    }

    /// The input, then the output of every node.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// What comes out: the last value.
    #[must_use]
    pub fn output(&self) -> &Value {
        &self.values[self.values.len() - 1]
    }

    /// Products of one example, padding not counted.
    #[must_use]
    pub fn products(&self) -> u64 {
        let nodes = self.graph.nodes.iter().zip(&self.values[1..]);
        let of_node = |(op, output): (&Op, &Value)| {
            let source = op.inputs().next().map_or(0, |input| self.values[input as usize].shape.channels);
            let columns = match op {
                Op::Linear { .. } => u64::from(source),
                Op::Conv { window, .. } => {
                    u64::from(source) * u64::from(window.kernel[0]) * u64::from(window.kernel[1])
                }
                _ => 0,
            };
            columns * output.shape.elements() as u64
        };
        nodes.map(of_node).sum()
    }

    /// The manifest: the graph, then the weights row by row.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let graph = cbor::encode(&self.graph);
        let blob = Entry {
            name: "graph".into(),
            kind: EntryKind::Blob,
            bytes: graph.len() as u64,
            root: manifest::blob_root(&graph),
        };
        let tensor = |(index, linear): (usize, &Linear)| Entry {
            name: format!("weights.{index:04}"),
            kind: EntryKind::Linear {
                rows: linear.rows as u32,
                cols: linear.cols as u32,
                bits: 8,
                pre_shift: linear.pre_shift,
                out_frac: linear.out_frac,
                bias: !linear.bias.is_empty(),
            },
            bytes: (linear.codes.len() + 2 * linear.rows + 4 * linear.bias.len()) as u64,
            root: manifest::linear_root(linear),
        };
        core::iter::once(blob).chain(self.weights.iter().enumerate().map(tensor)).collect()
    }

    /// The model root.
    #[must_use]
    pub fn root(&self) -> Digest {
        manifest::model_root(&self.entries()).expect("names are sorted and at most 513")
    }
}
