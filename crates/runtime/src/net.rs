//! Small networks: running the graph of [`lockstep_base::net`] in exact integers (docs/spec/nets.md).
//!
//! Every example of a batch has its own steps, so a batch gives the same bits as one example after another, on
//! every kernel and any number of threads. Linear layers and convolutions are [`crate::kernels::linear`], a
//! convolution over its patches; everything else is in `ops`, plain and exact.
//!
//! The output of each op goes through a [`NetObserver`] before anything reads it, as in [`crate::observe`].

mod ops;

use crate::arith::{RHO_ONE, RangeError, Step, choose_cut, scale};
use crate::kernels::{self, Compute};
use crate::observe::{Silent, Values};
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::net::{Net, Op, Shape, Value, Window};

/// Elements of all values that are computed at a time: what stays in a core's second cache.
const CHUNK_ELEMENTS: usize = 1 << 17;

/// Sees (and, in a drill, changes) the output of every op.
pub trait NetObserver {
    /// Node `node` computed `values` for example `example` of the batch.
    fn output(&mut self, node: usize, example: usize, values: Values<'_>);

    /// Whether anybody looks: if not, outputs are not handed over one by one.
    fn watches(&self) -> bool {
        true
    }
}

impl NetObserver for Silent {
    fn output(&mut self, _: usize, _: usize, _: Values<'_>) {}

    fn watches(&self) -> bool {
        false
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetRunError {
    /// Not a whole number of examples.
    #[error("an input of {got} integers, expected a multiple of {expected}")]
    Length {
        /// How many there are.
        got: usize,
        /// How many one example has.
        expected: usize,
    },
    /// An integer that the network was not proved for.
    #[error("example {example}, element {element} is {got}, expected {low} to {high}")]
    Input {
        /// Which example.
        example: usize,
        /// Which of its elements.
        element: usize,
        /// Its value.
        got: i32,
        /// The smallest accepted.
        low: i32,
        /// The largest.
        high: i32,
    },
    /// A bound does not hold. It is proved that this does not happen, unless an observer changed a value.
    #[error("node {node} ({op}): {source}")]
    Range {
        /// Which node.
        node: usize,
        /// Its op.
        op: &'static str,
        /// Which bound.
        source: RangeError,
    },
}

/// The output for every example of `input`, `(examples, elements of the input)`: `(examples, elements of the
/// output)` in the fractional bits of [`Net::output`] (for codes, see [`Op::Quantise`]: the codes).
///
/// # Errors
/// If the input is not of the network's shape or leaves its bounds.
pub fn run(
    compute: &Compute,
    net: &Net,
    input: &[i32],
    observer: &mut dyn NetObserver,
) -> Result<Vec<i32>, NetRunError> {
    let expected = net.values()[0].shape.elements();
    if !input.len().is_multiple_of(expected) {
        return Err(NetRunError::Length { got: input.len(), expected });
    }
    let (low, high) = (net.graph().input.low, net.graph().input.high);
    if let Some(at) = input.iter().position(|x| !(low..=high).contains(x)) {
        let (example, element) = (at / expected, at % expected);
        return Err(NetRunError::Input { example, element, got: input[at], low, high });
    }
    let elements: usize = net.values().iter().map(|value| value.shape.elements()).sum();
    let chunk = (CHUNK_ELEMENTS / elements).max(1);
    let mut output = Vec::with_capacity(input.len() / expected * net.output().shape.elements());
    for (index, examples) in input.chunks(chunk * expected).enumerate() {
        let mut pass = Pass::new(compute, net, examples, index * chunk);
        pass.run(observer)?;
        match pass.values.pop() {
            Some(Data::Fixed(last)) => output.extend_from_slice(&last),
            Some(Data::Codes(last, _)) => output.extend(last.iter().map(|code| i32::from(*code))),
            Some(Data::Done) | None => {}
        }
    }
    Ok(output)
}

/// One value for all examples of a chunk.
enum Data {
    Fixed(Vec<i32>),
    /// Codes, and one step an example.
    Codes(Vec<i8>, Vec<Step>),
    /// Nothing reads it any more.
    Done,
}

/// All nodes for some examples.
struct Pass<'a> {
    compute: &'a Compute,
    net: &'a Net,
    /// Index of the first example in the batch.
    first: usize,
    examples: usize,
    values: Vec<Data>,
    /// The last node that reads each value.
    last_reader: Vec<usize>,
}

impl<'a> Pass<'a> {
    fn new(compute: &'a Compute, net: &'a Net, input: &[i32], first: usize) -> Pass<'a> {
        let mut last_reader = vec![0; net.values().len()];
        for (node, op) in net.graph().nodes.iter().enumerate() {
            op.inputs().for_each(|input| last_reader[input as usize] = node);
        }
        let examples = input.len() / net.values()[0].shape.elements();
        let mut values = Vec::with_capacity(net.values().len());
        values.push(Data::Fixed(input.to_vec()));
        Pass { compute, net, first, examples, values, last_reader }
    }

    fn run(&mut self, observer: &mut dyn NetObserver) -> Result<(), NetRunError> {
        for (node, op) in self.net.graph().nodes.iter().enumerate() {
            let mut output =
                self.node(node, op).map_err(|source| NetRunError::Range { node, op: op.name(), source })?;
            if observer.watches() {
                self.show(node, &mut output, observer);
            }
            self.values.push(output);
            for input in op.inputs().map(|input| input as usize) {
                if self.last_reader[input] == node {
                    self.values[input] = Data::Done;
                }
            }
        }
        Ok(())
    }

    fn show(&self, node: usize, output: &mut Data, observer: &mut dyn NetObserver) {
        let elements = self.net.values()[node + 1].shape.elements();
        match output {
            Data::Fixed(x) => {
                for (example, x) in x.chunks_exact_mut(elements).enumerate() {
                    observer.output(node, self.first + example, Values::I32(x));
                }
            }
            Data::Codes(x, steps) => {
                for (example, (x, step)) in x.chunks_exact_mut(elements).zip(steps).enumerate() {
                    observer.output(node, self.first + example, Values::Codes8(x, *step));
                }
            }
            Data::Done => {}
        }
    }

    fn node(&mut self, node: usize, op: &Op) -> Result<Data, RangeError> {
        let shape_of = |value: u32| self.net.values()[value as usize].shape;
        let output = self.net.values()[node + 1].shape;
        match *op {
            Op::Pad { input, pads } => {
                let shape = shape_of(input);
                Ok(self.each(input, shape, output, |x, y| ops::pad(x, shape, pads[0], pads[1], y, output)))
            }
            Op::Quantise { input } => Ok(self.quantise(input)),
            Op::Linear { input, weights } => self.linear(input, weights, &Window::PLACE, output),
            Op::Conv { input, weights, ref window } => self.linear(input, weights, window, output),
            Op::Relu { input } => {
                let mut x = self.take(input, node);
                x.iter_mut().for_each(|x| *x = (*x).max(0));
                Ok(Data::Fixed(x))
            }
            Op::MaxPool { input, ref window } => {
                let shape = shape_of(input);
                Ok(self.each(input, shape, output, |x, y| ops::max_pool(x, shape, window, y, output)))
            }
            Op::Flatten { input } => {
                let shape = shape_of(input);
                Ok(self.each(input, shape, output, |x, y| ops::flatten(x, shape, y)))
            }
            Op::Add { left, right, frac } => self.add(left, right, frac),
        }
    }

    /// `f` for every example.
    fn each(&self, input: u32, from: Shape, to: Shape, f: impl Fn(&[i32], &mut [i32])) -> Data {
        let mut out = vec![0; self.examples * to.elements()];
        let x = self.fixed(input).chunks_exact(from.elements());
        x.zip(out.chunks_exact_mut(to.elements())).for_each(|(x, y)| f(x, y));
        Data::Fixed(out)
    }

    /// Section 2 of the arithmetic, one step an example.
    fn quantise(&self, input: u32) -> Data {
        let Value { shape, frac, .. } = self.net.values()[input as usize];
        let (kernel, x) = (self.compute.kernel, self.fixed(input));
        let mut codes = vec![0; x.len()];
        let mut steps = Vec::with_capacity(self.examples);
        let elements = shape.elements();
        for (x, codes) in x.chunks_exact(elements).zip(codes.chunks_exact_mut(elements)) {
            let cut = choose_cut(kernels::extent(kernel, x), RHO_ONE, -14 - i32::from(frac));
            kernels::codes(kernel, x, &cut, codes);
            steps.push(cut.step);
        }
        Data::Codes(codes, steps)
    }

    /// Section 4 of the arithmetic over every patch; all patches of an example have its step.
    fn linear(&self, input: u32, weights: u32, window: &Window, output: Shape) -> Result<Data, RangeError> {
        let shape = self.net.values()[input as usize].shape;
        let weights = &self.net.weights()[weights as usize];
        let (x, steps) = self.codes(input);
        let places = output.places();
        let mut patches = vec![0; self.examples * places * weights.cols];
        let one = places * weights.cols;
        for (x, patches) in x.chunks_exact(shape.elements()).zip(patches.chunks_exact_mut(one)) {
            ops::patches(x, shape, window, output, weights.cols, patches);
        }
        let steps: Vec<Step> = steps.iter().flat_map(|step| core::iter::repeat_n(*step, places)).collect();
        let mut out = vec![0; steps.len() * weights.rows];
        kernels::linear(self.compute, weights, &[], &patches, &steps, &mut out)?;
        Ok(Data::Fixed(out))
    }

    fn add(&self, left: u32, right: u32, frac: i8) -> Result<Data, RangeError> {
        let shift = |value: u32| i32::from(self.net.values()[value as usize].frac) - i32::from(frac);
        let (a, b) = (shift(left), shift(right));
        let pairs = self.fixed(left).iter().zip(self.fixed(right));
        let sums = pairs.map(|(x, y)| Ok(scale(*x, a, "summand")?.wrapping_add(scale(*y, b, "summand")?)));
        Ok(Data::Fixed(sums.collect::<Result<_, RangeError>>()?))
    }

    /// A fixed-point value. Formats were checked, and a value is dropped only after its last reader.
    fn fixed(&self, value: u32) -> &[i32] {
        match &self.values[value as usize] {
            Data::Fixed(x) => x,
            Data::Codes(..) | Data::Done => {
                unreachable!("a checked graph reads fixed-point values that are there")
            }
        }
    }

    /// Codes and their steps.
    fn codes(&self, value: u32) -> (&[i8], &[Step]) {
        match &self.values[value as usize] {
            Data::Codes(x, steps) => (x, steps),
            Data::Fixed(_) | Data::Done => unreachable!("a checked graph reads codes that are there"),
        }
    }

    /// A fixed-point value to be changed: the value itself if `node` is the last to read it.
    fn take(&mut self, value: u32, node: usize) -> Vec<i32> {
        if self.last_reader[value as usize] == node
            && let Data::Fixed(x) = &mut self.values[value as usize]
        {
            return core::mem::take(x);
        }
        self.fixed(value).to_vec()
    }
}
