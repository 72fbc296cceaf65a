//! The float network and its reference evaluation in f64. Images are `(channels, height, width)`, as in ONNX.

use lockstep_base::net::{NODES_MAX, Shape, VALUE_ELEMENTS_MAX, Window, WindowError};
use std::sync::Arc;

/// `W x + b`: `(rows, cols)` weights, row after row; for a convolution columns are (channel, kernel row, kernel column).
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// `(rows, cols)`.
    pub weights: Vec<f32>,
    /// One a row.
    pub bias: Vec<f32>,
}

/// One operation. Value 0 is the input, value i + 1 the output of op i.
#[derive(Debug, Clone, PartialEq)]
pub enum FloatOp {
    /// Multiplication by a constant.
    Scale {
        /// What is multiplied.
        input: usize,
        /// The constant.
        factor: f64,
    },
    /// Zeros around an image: top, left, bottom, right.
    Pad {
        /// The image.
        input: usize,
        /// Lines added.
        pads: [u32; 4],
    },
    /// A dense layer.
    Linear {
        /// A vector.
        input: usize,
        /// Weights and bias.
        affine: Arc<Affine>,
    },
    /// A convolution.
    Conv {
        /// The image.
        input: usize,
        /// Weights and bias.
        affine: Arc<Affine>,
        /// The patches.
        window: Window,
    },
    /// `max(x, 0)`.
    Relu {
        /// Its argument.
        input: usize,
    },
    /// The largest of each window.
    MaxPool {
        /// The image.
        input: usize,
        /// The windows.
        window: Window,
    },
    /// An image as a vector, in the order (channel, row, column).
    Flatten {
        /// The image.
        input: usize,
    },
    /// The sum of two values of one shape.
    Add {
        /// One of them.
        left: usize,
        /// The other.
        right: usize,
    },
}

/// Why an op does not fit the network.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FloatNetError {
    /// Too many ops.
    #[error("{got} ops, expected at most {NODES_MAX}")]
    Ops {
        /// How many.
        got: usize,
    },
    /// A value without elements, or too large.
    #[error("op {op}: a value of shape {got:?}, expected 1 to {VALUE_ELEMENTS_MAX} elements")]
    Elements {
        /// Which op (0 for the input).
        op: usize,
        /// The shape.
        got: Shape,
    },
    /// A value that is not yet computed.
    #[error("op {op} reads value {got}")]
    Order {
        /// Which op.
        op: usize,
        /// The value.
        got: usize,
    },
    /// A shape that the op does not take.
    #[error("op {op}: got shape {got:?}, expected {expected}")]
    Shape {
        /// Which op.
        op: usize,
        /// The shape.
        got: Shape,
        /// What it should be.
        expected: &'static str,
    },
    /// Weights of another size.
    #[error("op {op}: {what}, got {got}, expected {expected}")]
    Weights {
        /// Which op.
        op: usize,
        /// What was counted.
        what: &'static str,
        /// How many.
        got: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A weight, bias or factor that is no number, or so large that sums would not be.
    #[error("op {op}: {got} is not a finite number of at most 1e18")]
    NotFinite {
        /// Which op.
        op: usize,
        /// The number.
        got: f64,
    },
    /// A window that does not fit.
    #[error("op {op}: {source}")]
    Window {
        /// Which op.
        op: usize,
        /// Which number.
        source: WindowError,
    },
    /// An input of another size.
    #[error("an input of {got} numbers, expected {expected}")]
    Input {
        /// How many.
        got: usize,
        /// How many there should be.
        expected: usize,
    },
}

/// Magnitude of the largest number taken from a file.
const NUMBER_MAX: f64 = 1e18;

/// A float network; shapes are checked as it is made.
#[derive(Debug, Clone)]
pub struct FloatNet {
    name: String,
    ops: Vec<FloatOp>,
    shapes: Vec<Shape>,
}

impl FloatNet {
    /// A network without ops.
    ///
    /// # Errors
    /// If the input is empty or too large.
    pub fn new(name: &str, input: Shape) -> Result<FloatNet, FloatNetError> {
        check_elements(0, input)?;
        Ok(FloatNet { name: name.into(), ops: Vec::new(), shapes: vec![input] })
    }

    /// Adds an op; gives its value.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn push(&mut self, op: FloatOp) -> Result<usize, FloatNetError> {
        if self.ops.len() == NODES_MAX {
            return Err(FloatNetError::Ops { got: self.ops.len() + 1 });
        }
        let shape = self.infer(&op)?;
        check_elements(self.ops.len(), shape)?;
        self.ops.push(op);
        self.shapes.push(shape);
        Ok(self.ops.len())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The ops.
    #[must_use]
    pub fn ops(&self) -> &[FloatOp] {
        &self.ops
    }

    /// Adds `bias` to what the last op, a linear layer or a convolution, computes.
    ///
    /// # Errors
    /// If a sum is no finite number.
    pub(crate) fn add_bias(&mut self, bias: impl Iterator<Item = f32>) -> Result<(), FloatNetError> {
        let op = self.ops.len();
        if let Some(FloatOp::Linear { affine, .. } | FloatOp::Conv { affine, .. }) = self.ops.last_mut() {
            let affine = Arc::make_mut(affine);
            affine.bias.iter_mut().zip(bias).for_each(|(b, more)| *b += more);
            check_numbers(op, affine.bias.iter().map(|x| f64::from(*x)))?;
        }
        Ok(())
    }

    /// Shape of the input, then of every op's output.
    #[must_use]
    pub fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    fn infer(&self, new: &FloatOp) -> Result<Shape, FloatNetError> {
        let op = self.ops.len();
        let of =
            |value: usize| self.shapes.get(value).copied().ok_or(FloatNetError::Order { op, got: value });
        let over = |window: &Window, shape| {
            window.output(shape).map_err(|source| FloatNetError::Window { op, source })
        };
        match new {
            FloatOp::Scale { input, factor } => {
                check_numbers(op, [*factor].into_iter())?;
                of(*input)
            }
            FloatOp::Relu { input } => of(*input),
            FloatOp::Pad { input, pads } => {
                let x = of(*input)?;
                let side = |size: u32, a: u32, b: u32| size.saturating_add(a).saturating_add(b);
                let height = side(x.height, pads[0], pads[2]);
                Ok(Shape { height, width: side(x.width, pads[1], pads[3]), channels: x.channels })
            }
            FloatOp::Linear { input, affine } => {
                let x = of(*input)?;
                if x.places() != 1 {
                    return Err(FloatNetError::Shape { op, got: x, expected: "a vector" });
                }
                check_affine(op, affine, x.elements() as u64)?;
                Ok(Shape::vector(affine.rows as u32))
            }
            FloatOp::Conv { input, affine, window } => {
                let x = of(*input)?;
                let (height, width) = over(window, x)?;
                let kernel = u64::from(window.kernel[0]) * u64::from(window.kernel[1]);
                check_affine(op, affine, kernel * u64::from(x.channels))?;
                Ok(Shape { height, width, channels: affine.rows as u32 })
            }
            FloatOp::MaxPool { input, window } => {
                let x = of(*input)?;
                let (height, width) = over(window, x)?;
                Ok(Shape { height, width, channels: x.channels })
            }
            FloatOp::Flatten { input } => Ok(Shape::vector(of(*input)?.elements() as u32)),
            FloatOp::Add { left, right } => {
                let (a, b) = (of(*left)?, of(*right)?);
                if a != b {
                    return Err(FloatNetError::Shape { op, got: b, expected: "that of the other summand" });
                }
                Ok(a)
            }
        }
    }

    /// Every value for one input, the input first; the last is the output.
    ///
    /// # Errors
    /// If the input has another size.
    pub fn values(&self, input: &[f64]) -> Result<Vec<Vec<f64>>, FloatNetError> {
        let expected = self.shapes[0].elements();
        if input.len() != expected {
            return Err(FloatNetError::Input { got: input.len(), expected });
        }
        let mut values = vec![input.to_vec()];
        for (op, shape) in self.ops.iter().zip(&self.shapes[1..]) {
            let next = match op {
                FloatOp::Scale { input, factor } => values[*input].iter().map(|x| x * factor).collect(),
                FloatOp::Pad { input, pads } => pad(&values[*input], self.shapes[*input], pads, *shape),
                FloatOp::Linear { input, affine } => linear(&values[*input], affine),
                FloatOp::Conv { input, affine, window } => {
                    conv(&values[*input], self.shapes[*input], affine, window, *shape)
                }
                FloatOp::Relu { input } => values[*input].iter().map(|x| x.max(0.0)).collect(),
                FloatOp::MaxPool { input, window } => {
                    max_pool(&values[*input], self.shapes[*input], window, *shape)
                }
                FloatOp::Flatten { input } => values[*input].clone(),
                FloatOp::Add { left, right } => {
                    values[*left].iter().zip(&values[*right]).map(|(a, b)| a + b).collect()
                }
            };
            values.push(next);
        }
        Ok(values)
    }

    /// The output for one input.
    ///
    /// # Errors
    /// If the input has another size.
    pub fn output(&self, input: &[f64]) -> Result<Vec<f64>, FloatNetError> {
        Ok(self.values(input)?.pop().unwrap_or_default())
    }
}

fn check_elements(op: usize, shape: Shape) -> Result<(), FloatNetError> {
    let places = u64::from(shape.height) * u64::from(shape.width);
    let elements = places.saturating_mul(shape.channels.into());
    let fits = (1..=VALUE_ELEMENTS_MAX).contains(&elements);
    if fits { Ok(()) } else { Err(FloatNetError::Elements { op, got: shape }) }
}

fn check_affine(op: usize, affine: &Affine, cols: u64) -> Result<(), FloatNetError> {
    let count = |what, got: usize, expected: usize| {
        if got == expected { Ok(()) } else { Err(FloatNetError::Weights { op, what, got, expected }) }
    };
    count("columns", affine.cols, usize::try_from(cols).unwrap_or(usize::MAX))?;
    count("weights", affine.weights.len(), affine.rows.saturating_mul(affine.cols))?;
    count("biases", affine.bias.len(), affine.rows)?;
    check_numbers(op, affine.weights.iter().chain(&affine.bias).map(|x| f64::from(*x)))
}

fn check_numbers(op: usize, mut numbers: impl Iterator<Item = f64>) -> Result<(), FloatNetError> {
    match numbers.find(|x| !x.is_finite() || x.abs() > NUMBER_MAX) {
        Some(got) => Err(FloatNetError::NotFinite { op, got }),
        None => Ok(()),
    }
}

fn pad(x: &[f64], from: Shape, pads: &[u32; 4], to: Shape) -> Vec<f64> {
    let mut out = vec![0.0; to.elements()];
    let (lines, width) = (from.height as usize, from.width as usize);
    for (row, line) in x.chunks_exact(width).enumerate() {
        let (channel, row) = (row / lines, row % lines);
        let y = channel * to.height as usize + row + pads[0] as usize;
        out[y * to.width as usize + pads[1] as usize..][..width].copy_from_slice(line);
    }
    out
}

fn linear(x: &[f64], affine: &Affine) -> Vec<f64> {
    let rows = affine.weights.chunks_exact(affine.cols).zip(&affine.bias);
    rows.map(|(row, bias)| f64::from(*bias) + row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>())
        .collect()
}

/// Columns of the output whose window column `kernel_x` lies in the image, and where the first of them lies.
fn columns(window: &Window, kernel_x: usize, from: Shape, to: Shape) -> (std::ops::Range<usize>, usize) {
    let (stride, pad) = (window.strides[1] as usize, window.pads[1] as usize);
    let first = pad.saturating_sub(kernel_x).div_ceil(stride);
    let end = (from.width as usize + pad).saturating_sub(kernel_x).div_ceil(stride).min(to.width as usize);
    (first..end.max(first), (first * stride + kernel_x).saturating_sub(pad))
}

/// Row of the image under row `kernel_y` of the window at `y`.
fn row(window: &Window, y: usize, kernel_y: usize, from: Shape) -> Option<usize> {
    let row = (y * window.strides[0] as usize + kernel_y).checked_sub(window.pads[0] as usize)?;
    (row < from.height as usize).then_some(row)
}

/// Line by line: each weight is added to a whole line of the output.
fn conv(x: &[f64], from: Shape, affine: &Affine, window: &Window, to: Shape) -> Vec<f64> {
    let mut out = vec![0.0; to.elements()];
    let (width, stride) = (from.width as usize, window.strides[1] as usize);
    let [kernel_height, kernel_width] = window.kernel.map(|side| side as usize);
    for (channel, out) in out.chunks_exact_mut(to.places()).enumerate() {
        out.fill(f64::from(affine.bias[channel]));
        let weights = &affine.weights[channel * affine.cols..][..affine.cols];
        for (index, weight) in weights.iter().enumerate() {
            let (kernel_x, rest) = (index % kernel_width, index / kernel_width);
            let (kernel_y, source) = (rest % kernel_height, rest / kernel_height);
            let (range, start) = columns(window, kernel_x, from, to);
            let weight = f64::from(*weight);
            for (y, out) in out.chunks_exact_mut(to.width as usize).enumerate() {
                let Some(row) = row(window, y, kernel_y, from) else { continue };
                let line = &x[(source * from.height as usize + row) * width..][..width];
                let seen = line[start.min(width)..].iter().step_by(stride);
                out[range.clone()].iter_mut().zip(seen).for_each(|(y, x)| *y += weight * x);
            }
        }
    }
    out
}

fn max_pool(x: &[f64], from: Shape, window: &Window, to: Shape) -> Vec<f64> {
    let mut out = vec![f64::NEG_INFINITY; to.elements()];
    let (width, stride) = (from.width as usize, window.strides[1] as usize);
    for (channel, out) in out.chunks_exact_mut(to.places()).enumerate() {
        for kernel_y in 0..window.kernel[0] as usize {
            for kernel_x in 0..window.kernel[1] as usize {
                let (range, start) = columns(window, kernel_x, from, to);
                for (y, out) in out.chunks_exact_mut(to.width as usize).enumerate() {
                    let Some(row) = row(window, y, kernel_y, from) else { continue };
                    let line = &x[(channel * from.height as usize + row) * width..][..width];
                    let seen = line[start.min(width)..].iter().step_by(stride);
                    out[range.clone()].iter_mut().zip(seen).for_each(|(y, x)| *y = y.max(*x));
                }
            }
        }
    }
    out
}
