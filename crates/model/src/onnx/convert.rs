//! From the graph of an ONNX file to a [`FloatNet`].

use super::OnnxError;
use super::fold::{Known, fold, reshaped};
use super::proto::{self, Graph, Node};
use super::window::Attributes;
use crate::net::{Affine, FloatNet, FloatOp};
use lockstep_base::net::{NET_NAME_MAX, Shape, VALUE_ELEMENTS_MAX};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What happens to an example before the file's network sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prepare {
    /// Every number is multiplied by this.
    pub scale: f64,
    /// Then zeros are added at the top, left, bottom, right.
    pub pads: [u32; 4],
}

impl Prepare {
    /// Nothing.
    pub const NONE: Prepare = Prepare { scale: 1.0, pads: [0; 4] };
}

/// Reads an ONNX file.
///
/// # Errors
/// The first check that fails; an op that is not supported is named.
pub fn import(name: &str, bytes: &[u8], prepare: &Prepare) -> Result<FloatNet, OnnxError> {
    if name.len() > NET_NAME_MAX {
        let (got, limit) = (name.len() as u64, NET_NAME_MAX as u64);
        return Err(OnnxError::TooLarge { what: "bytes of the name", got, limit });
    }
    let graph = proto::model(bytes)?;
    let [output] = &graph.outputs[..] else {
        return Err(OnnxError::Ends { what: "outputs", got: graph.outputs.len() });
    };
    let constants: HashSet<&str> = graph.initializers.iter().map(|tensor| tensor.name).collect();
    let mut inputs = graph.inputs.iter().filter(|input| !constants.contains(input.name));
    let (Some(input), None) = (inputs.next(), inputs.next()) else {
        let got = graph.inputs.iter().filter(|input| !constants.contains(input.name)).count();
        return Err(OnnxError::Ends { what: "inputs", got });
    };
    let (net, value, dims) = begin(name, &input.dims, prepare)?;
    let mut converter = Converter {
        output: output.name,
        uses: uses(&graph, output.name),
        net,
        known: HashMap::new(),
        floats_left: bytes.len(),
    };
    for tensor in &graph.initializers {
        converter.known.insert(tensor.name, Known::constant(tensor)?);
    }
    converter.known.insert(input.name, Known::Value { value, dims });
    for (index, node) in graph.nodes.iter().enumerate() {
        // What the output does not depend on is left out.
        if node.outputs.first().is_some_and(|name| converter.uses.contains_key(name)) {
            converter.node(&Attributes { index, node })?;
        }
    }
    match converter.known.get(output.name) {
        Some(Known::Value { value, .. }) if *value == converter.net.ops().len() => Ok(converter.net),
        _ => Err(OnnxError::Missing { what: "node that computes the output last" }),
    }
}

/// The network with its preparation; the value and the dimensions that the file's graph begins with.
fn begin(name: &str, dims: &[i64], prepare: &Prepare) -> Result<(FloatNet, usize, Vec<i64>), OnnxError> {
    let refuse = || OnnxError::Tensor {
        name: "input".into(),
        what: format!("dimensions {dims:?}, expected (1, features) or (1, channels, height, width)"),
    };
    let side = |dim: i64| {
        u32::try_from(dim)
            .ok()
            .filter(|dim| (1..=VALUE_ELEMENTS_MAX).contains(&u64::from(*dim)))
            .ok_or_else(refuse)
    };
    // A batch that is left open, or of any size, is one example here.
    let shape = match dims {
        [_, features] => Shape::vector(side(*features)?),
        [_, channels, height, width] => {
            Shape { height: side(*height)?, width: side(*width)?, channels: side(*channels)? }
        }
        _ => return Err(refuse()),
    };
    let [top, left, bottom, right] = prepare.pads;
    let less = |size: u32, a: u32, b: u32| size.checked_sub(a).and_then(|size| size.checked_sub(b));
    let (height, width) = (less(shape.height, top, bottom), less(shape.width, left, right));
    let (Some(height), Some(width)) = (height, width) else { return Err(refuse()) };
    let mut net = FloatNet::new(name, Shape { height, width, channels: shape.channels })?;
    let mut value = 0;
    if prepare.scale != 1.0 {
        value = net.push(FloatOp::Scale { input: value, factor: prepare.scale })?;
    }
    if prepare.pads != [0; 4] {
        value = net.push(FloatOp::Pad { input: value, pads: prepare.pads })?;
    }
    let dims = std::iter::once(1).chain(dims[1..].iter().copied()).collect();
    Ok((net, value, dims))
}

/// How often each name is read by what the output depends on.
fn uses<'a>(graph: &Graph<'a>, output: &'a str) -> HashMap<&'a str, usize> {
    let mut uses = HashMap::from([(output, 1)]);
    for node in graph.nodes.iter().rev() {
        if node.outputs.first().is_some_and(|name| uses.contains_key(name)) {
            for input in node.inputs.iter().filter(|name| !name.is_empty()) {
                *uses.entry(input).or_insert(0) += 1;
            }
        }
    }
    uses
}

struct Converter<'a> {
    output: &'a str,
    uses: HashMap<&'a str, usize>,
    net: FloatNet,
    known: HashMap<&'a str, Known<'a>>,
    /// Bytes of floats that may still be copied: together at most the file, however often it names a tensor.
    floats_left: usize,
}

impl<'a> Converter<'a> {
    fn node(&mut self, at: &Attributes<'a>) -> Result<(), OnnxError> {
        let node: &Node<'a> = at.node;
        let [output, rest @ ..] = &node.outputs[..] else {
            return Err(at.unsupported("no output"));
        };
        if !matches!(node.domain, "" | "ai.onnx") {
            return Err(at.unsupported(format!("domain {:?}", node.domain)));
        }
        if rest.iter().any(|name| self.uses.contains_key(name)) {
            return Err(at.unsupported("a second output"));
        }
        let inputs: Vec<Known<'a>> = node
            .inputs
            .iter()
            .filter(|name| !name.is_empty())
            .map(|name| {
                let unknown = || OnnxError::Unknown { node: at.index, name: (*name).into() };
                self.known.get(name).cloned().ok_or_else(unknown)
            })
            .collect::<Result<_, _>>()?;
        let inputs: Vec<&Known<'a>> = inputs.iter().collect();
        let known = match fold(at, &inputs)? {
            Some(known) => known,
            None => self.compute(at, &inputs)?,
        };
        self.known.insert(output, known);
        Ok(())
    }

    fn compute(&mut self, at: &Attributes<'a>, inputs: &[&Known<'a>]) -> Result<Known<'a>, OnnxError> {
        match (at.node.op, inputs) {
            ("Constant", []) => {
                let tensor = at.find("value").and_then(|attribute| attribute.tensor.as_ref());
                Known::constant(tensor.ok_or_else(|| at.unsupported("a constant without a tensor"))?)
            }
            ("Identity", [x]) | ("Dropout", [x, ..]) => Ok((*x).clone()),
            ("Softmax" | "LogSoftmax", [x @ Known::Value { dims, .. }]) => {
                let axis = at.int("axis", -1);
                let last = axis == -1 || axis == dims.len() as i64 - 1;
                if at.node.outputs[0] != self.output || !last || dims.len() != 2 {
                    return Err(at.unsupported("expected only at the end, over the features"));
                }
                Ok((*x).clone())
            }
            ("Relu", [Known::Value { value, dims }]) => {
                self.push(FloatOp::Relu { input: *value }, dims.clone())
            }
            ("MaxPool", [Known::Value { value, dims }]) => {
                at.must_be("ceil_mode", 0)?;
                let image = self.image(at, *value, dims)?;
                let window = at.window(None, image)?;
                self.image_op(FloatOp::MaxPool { input: *value, window })
            }
            ("Flatten", [Known::Value { value, dims }]) => {
                let axis = at.int("axis", 1);
                if !(0..=1).contains(&axis) {
                    return Err(at.unsupported(format!("axis {axis}, expected 1")));
                }
                self.flatten(at, *value, dims)
            }
            ("Reshape", [Known::Value { value, dims }, Known::Ints { ints, .. }]) => {
                let target = reshaped(at, dims, ints)?;
                match target[..] {
                    _ if target == *dims => Ok(inputs[0].clone()),
                    [1, _] => self.flatten(at, *value, dims),
                    _ => Err(at.unsupported(format!("a value of {dims:?} as {target:?}"))),
                }
            }
            ("Reshape", [Known::Floats { dims, bytes }, Known::Ints { ints, .. }]) => {
                Ok(Known::Floats { dims: reshaped(at, dims, ints)?, bytes })
            }
            ("Conv", [Known::Value { value, dims }, Known::Floats { dims: shape, bytes }, bias @ ..]) => {
                at.must_be("group", 1)?;
                let image = self.image(at, *value, dims)?;
                let [rows, channels, height, width] = sides(at, shape)?;
                if channels != image.channels {
                    return Err(at.unsupported(format!("weights of {shape:?} over {image:?}")));
                }
                let window = at.window(Some([height, width]), image)?;
                let weights = self.floats(at, bytes)?;
                let cols = weights.len() / rows as usize;
                let bias = self.bias(at, bias.first(), rows as usize, 1.0)?;
                let affine = Arc::new(Affine { rows: rows as usize, cols, weights, bias });
                self.image_op(FloatOp::Conv { input: *value, affine, window })
            }
            ("Gemm", [Known::Value { value, .. }, Known::Floats { dims, bytes }, bias @ ..]) => {
                at.must_be("transA", 0)?;
                let transposed = at.int("transB", 0) != 0;
                let (alpha, beta) = (at.float("alpha", 1.0), at.float("beta", 1.0));
                self.dense(at, *value, dims, bytes, transposed, alpha, bias.first().map(|bias| (*bias, beta)))
            }
            ("MatMul", [Known::Value { value, .. }, Known::Floats { dims, bytes }]) => {
                self.dense(at, *value, dims, bytes, false, 1.0, None)
            }
            ("Add", [Known::Value { value, dims }, Known::Value { value: other, dims: others }]) => {
                if dims != others {
                    return Err(
                        at.unsupported(format!("shapes {dims:?} and {others:?}, expected equal ones"))
                    );
                }
                self.push(FloatOp::Add { left: *value, right: *other }, dims.clone())
            }
            (
                "Add",
                [x @ Known::Value { .. }, c @ Known::Floats { .. }]
                | [c @ Known::Floats { .. }, x @ Known::Value { .. }],
            ) => self.add_bias(at, x, c),
            (op, _) if OPS.contains(&op) => {
                Err(at.unsupported("inputs of this kind or number (constant or computed)"))
            }
            _ => {
                Err(at.unsupported(format!("an op that is not supported; supported are {}", OPS.join(", "))))
            }
        }
    }

    fn push(&mut self, op: FloatOp, dims: Vec<i64>) -> Result<Known<'a>, OnnxError> {
        Ok(Known::Value { value: self.net.push(op)?, dims })
    }

    /// An op whose output is an image.
    fn image_op(&mut self, op: FloatOp) -> Result<Known<'a>, OnnxError> {
        let value = self.net.push(op)?;
        let Shape { height, width, channels } = self.net.shapes()[value];
        Ok(Known::Value { value, dims: vec![1, channels.into(), height.into(), width.into()] })
    }

    fn image(&self, at: &Attributes<'_>, value: usize, dims: &[i64]) -> Result<Shape, OnnxError> {
        if dims.len() != 4 {
            return Err(at.unsupported(format!("an input of {dims:?}, expected an image")));
        }
        Ok(self.net.shapes()[value])
    }

    fn flatten(&mut self, at: &Attributes<'_>, value: usize, dims: &[i64]) -> Result<Known<'a>, OnnxError> {
        let all = proto::elements(dims).and_then(|all| i64::try_from(all).ok());
        let all = all.ok_or_else(|| at.unsupported(format!("a shape of {dims:?}")))?;
        if self.net.shapes()[value].places() == 1 {
            return Ok(Known::Value { value, dims: vec![1, all] });
        }
        self.push(FloatOp::Flatten { input: value }, vec![1, all])
    }

    fn dense(
        &mut self,
        at: &Attributes<'_>,
        input: usize,
        dims: &[i64],
        bytes: &[u8],
        transposed: bool,
        alpha: f32,
        bias: Option<(&Known<'a>, f32)>,
    ) -> Result<Known<'a>, OnnxError> {
        let [first, second] = sides(at, dims)?;
        let (rows, cols) = if transposed { (first, second) } else { (second, first) };
        let (rows, cols) = (rows as usize, cols as usize);
        let given = self.floats(at, bytes)?;
        let weights = if transposed { given } else { transpose(&given, rows, cols) };
        let weights = weights.into_iter().map(|w| w * alpha).collect();
        let (bias, beta) = bias.unzip();
        let bias = self.bias(at, bias.as_ref(), rows, beta.unwrap_or(1.0))?;
        let op = FloatOp::Linear { input, affine: Arc::new(Affine { rows, cols, weights, bias }) };
        self.push(op, vec![1, rows as i64])
    }

    /// `Add` of a constant to what a layer computes: part of its bias, if nobody else reads the layer.
    fn add_bias(
        &mut self,
        at: &Attributes<'_>,
        x: &Known<'a>,
        c: &Known<'a>,
    ) -> Result<Known<'a>, OnnxError> {
        let refuse = || at.unsupported("a constant that is not the bias of the layer before");
        let (Known::Value { value, dims }, Known::Floats { dims: shape, bytes }) = (x, c) else {
            return Err(refuse());
        };
        let source =
            at.node.inputs.iter().find(|name| matches!(self.known.get(*name), Some(Known::Value { .. })));
        let alone = source.is_some_and(|name| self.uses.get(name) == Some(&1));
        let last = self.net.ops().last();
        let layer = matches!(last, Some(FloatOp::Linear { .. } | FloatOp::Conv { .. }));
        if !alone || !layer || *value != self.net.ops().len() {
            return Err(refuse());
        }
        // One number a channel, whatever axes of length 1 are around.
        let channels = self.net.shapes()[*value].channels as usize;
        let axis = if dims.len() == 4 { 3 } else { 1 };
        let place = shape.len().checked_sub(axis);
        let per_channel =
            (0..shape.len()).all(|i| shape[i] == 1 || (Some(i) == place && shape[i] == channels as i64));
        let numbers = self.floats(at, bytes)?;
        if !per_channel || (numbers.len() != channels && numbers.len() != 1) {
            return Err(refuse());
        }
        self.net.add_bias(numbers.iter().copied().cycle().take(channels))?;
        Ok(x.clone())
    }

    /// The bias of a layer with `rows` outputs, times `factor`; zeros where there is none.
    fn bias(
        &mut self,
        at: &Attributes<'_>,
        bias: Option<&&Known<'a>>,
        rows: usize,
        factor: f32,
    ) -> Result<Vec<f32>, OnnxError> {
        match bias {
            None => Ok(vec![0.0; rows]),
            Some(Known::Floats { dims, bytes }) => {
                let long = dims.iter().filter(|dim| **dim != 1).count();
                let last = dims.last().copied().unwrap_or(1);
                if long > 1 || (last != 1 && last != rows as i64) || (long == 1 && last == 1) {
                    return Err(at.unsupported(format!("a bias of {dims:?}, expected {rows}")));
                }
                let numbers = self.floats(at, bytes)?;
                Ok(numbers.iter().cycle().take(rows).map(|b| b * factor).collect())
            }
            Some(_) => Err(at.unsupported("a bias that is not constant")),
        }
    }

    /// The floats of a constant.
    fn floats(&mut self, at: &Attributes<'_>, bytes: &[u8]) -> Result<Vec<f32>, OnnxError> {
        self.floats_left = self
            .floats_left
            .checked_sub(bytes.len())
            .ok_or_else(|| at.unsupported("weights that are read more often than the file is long"))?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }
}

/// Ops that reach the network.
const OPS: &[&str] = &[
    "Conv",
    "Gemm",
    "MatMul",
    "Add",
    "Relu",
    "MaxPool",
    "Flatten",
    "Reshape",
    "Identity",
    "Dropout",
    "Softmax",
    "LogSoftmax",
    "Constant",
    "Shape",
    "Gather",
    "Unsqueeze",
    "Concat",
];

/// Exactly `N` dimensions, none of them 0.
fn sides<const N: usize>(at: &Attributes<'_>, dims: &[i64]) -> Result<[u32; N], OnnxError> {
    let sides: Option<Vec<u32>> =
        dims.iter().map(|dim| u32::try_from(*dim).ok().filter(|dim| *dim > 0)).collect();
    sides
        .and_then(|sides| sides.try_into().ok())
        .ok_or_else(|| at.unsupported(format!("weights of {dims:?}, expected {N} dimensions")))
}

/// `(cols, rows)` as `(rows, cols)`.
fn transpose(given: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows).flat_map(|row| (0..cols).map(move |col| given[col * rows + row])).collect()
}
