//! The messages of an ONNX file, borrowed from its bytes.

use super::OnnxError;
use crate::protobuf::{Fields, Value};

/// Bytes of a file.
pub(super) const FILE_BYTES_MAX: usize = 256 << 20;
/// Nodes, initializers, inputs and outputs, each.
const ENTRIES_MAX: usize = 4096;
/// Inputs, outputs and attributes of a node, each.
const NODE_ENTRIES_MAX: usize = 64;
/// Dimensions of a tensor.
const RANK_MAX: usize = 8;
/// Integers of an attribute, and of a tensor of integers (they only describe shapes).
const INTS_MAX: usize = 64;
/// Bytes of a name.
const NAME_BYTES_MAX: usize = 512;
/// `TensorProto.DataType`.
const FLOAT: i64 = 1;
const INT64: i64 = 7;
/// `TensorProto.DataLocation`.
const EXTERNAL: i64 = 1;

/// The graph of a model.
#[derive(Debug, Default)]
pub(super) struct Graph<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) initializers: Vec<Tensor<'a>>,
    pub(super) inputs: Vec<ValueInfo<'a>>,
    pub(super) outputs: Vec<ValueInfo<'a>>,
}

/// One node.
#[derive(Debug, Default)]
pub(super) struct Node<'a> {
    pub(super) op: &'a str,
    pub(super) domain: &'a str,
    pub(super) inputs: Vec<&'a str>,
    pub(super) outputs: Vec<&'a str>,
    pub(super) attributes: Vec<Attribute<'a>>,
}

/// One attribute; what it does not have is empty.
#[derive(Debug, Default)]
pub(super) struct Attribute<'a> {
    pub(super) name: &'a str,
    pub(super) float: f32,
    pub(super) int: i64,
    pub(super) text: &'a [u8],
    pub(super) ints: Vec<i64>,
    pub(super) tensor: Option<Tensor<'a>>,
}

/// A constant tensor.
#[derive(Debug, Clone)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) dims: Vec<i64>,
    pub(super) data: Data<'a>,
}

/// What a tensor holds; as much of it as its dimensions say.
#[derive(Debug, Clone)]
pub(super) enum Data<'a> {
    /// f32, little-endian.
    Floats(&'a [u8]),
    /// Integers, few.
    Ints(Vec<i64>),
}

/// Name and shape of an input or output; a dimension that is not a number is 0.
#[derive(Debug, Default)]
pub(super) struct ValueInfo<'a> {
    pub(super) name: &'a str,
    pub(super) dims: Vec<i64>,
}

/// Calls `field` for every field of `message`.
fn each<'a>(
    what: &'static str,
    message: &'a [u8],
    mut field: impl FnMut(u64, Value<'a>) -> Result<(), OnnxError>,
) -> Result<(), OnnxError> {
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next_field().map_err(OnnxError::wire(what))? {
        field(number, value)?;
    }
    Ok(())
}

fn push<T>(what: &'static str, limit: usize, list: &mut Vec<T>, item: T) -> Result<(), OnnxError> {
    if list.len() == limit {
        return Err(OnnxError::TooLarge { what, got: limit as u64 + 1, limit: limit as u64 });
    }
    list.push(item);
    Ok(())
}

fn name<'a>(what: &'static str, value: Value<'a>) -> Result<&'a str, OnnxError> {
    let text = value.text().map_err(OnnxError::wire(what))?;
    if text.len() > NAME_BYTES_MAX {
        let (got, limit) = (text.len() as u64, NAME_BYTES_MAX as u64);
        return Err(OnnxError::TooLarge { what: "bytes of a name", got, limit });
    }
    Ok(text)
}

/// Reads a model: its graph.
pub(super) fn model(bytes: &[u8]) -> Result<Graph<'_>, OnnxError> {
    if bytes.len() > FILE_BYTES_MAX {
        let (got, limit) = (bytes.len() as u64, FILE_BYTES_MAX as u64);
        return Err(OnnxError::TooLarge { what: "bytes of the file", got, limit });
    }
    let wire = OnnxError::wire("model");
    let (mut found, mut opset) = (None, None);
    each("model", bytes, |number, value| {
        match number {
            7 if found.is_some() => {
                return Err(OnnxError::TooLarge { what: "graphs", got: 2, limit: 1 });
            }
            7 => found = Some(graph(value.bytes().map_err(&wire)?)?),
            8 => {
                let (domain, version) = opset_import(value.bytes().map_err(&wire)?)?;
                if matches!(domain, "" | "ai.onnx") {
                    opset = Some(version);
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    match opset {
        None => Err(OnnxError::Missing { what: "operator set" }),
        Some(7..=23) => found.ok_or(OnnxError::Missing { what: "graph" }),
        Some(got) => Err(OnnxError::Opset { got }),
    }
}

fn opset_import(message: &[u8]) -> Result<(&str, i64), OnnxError> {
    let (mut domain, mut version) = ("", 0);
    each("opset_import", message, |number, value| {
        match number {
            1 => domain = name("opset_import", value)?,
            2 => version = value.int().map_err(OnnxError::wire("opset_import"))?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((domain, version))
}

fn graph(message: &[u8]) -> Result<Graph<'_>, OnnxError> {
    let mut graph = Graph::default();
    each("graph", message, |number, value| {
        let bytes = || value.bytes().map_err(OnnxError::wire("graph"));
        match number {
            1 => push("nodes", ENTRIES_MAX, &mut graph.nodes, node(bytes()?)?),
            5 => push("initializers", ENTRIES_MAX, &mut graph.initializers, tensor(bytes()?)?),
            11 => push("inputs", ENTRIES_MAX, &mut graph.inputs, value_info(bytes()?)?),
            12 => push("outputs", ENTRIES_MAX, &mut graph.outputs, value_info(bytes()?)?),
            15 => Err(OnnxError::Tensor { name: String::new(), what: "sparse initializers".into() }),
            _ => Ok(()),
        }
    })?;
    Ok(graph)
}

fn node(message: &[u8]) -> Result<Node<'_>, OnnxError> {
    let mut node = Node::default();
    each("node", message, |number, value| {
        match number {
            1 => push("inputs of a node", NODE_ENTRIES_MAX, &mut node.inputs, name("node", value)?)?,
            2 => push("outputs of a node", NODE_ENTRIES_MAX, &mut node.outputs, name("node", value)?)?,
            4 => node.op = name("node", value)?,
            5 => {
                let bytes = value.bytes().map_err(OnnxError::wire("node"))?;
                push("attributes", NODE_ENTRIES_MAX, &mut node.attributes, attribute(bytes)?)?;
            }
            7 => node.domain = name("node", value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(node)
}

fn attribute(message: &[u8]) -> Result<Attribute<'_>, OnnxError> {
    let wire = OnnxError::wire("attribute");
    let mut attribute = Attribute::default();
    each("attribute", message, |number, value| {
        match number {
            1 => attribute.name = name("attribute", value)?,
            2 => attribute.float = value.float().map_err(&wire)?,
            3 => attribute.int = value.int().map_err(&wire)?,
            4 => attribute.text = value.bytes().map_err(&wire)?,
            5 => attribute.tensor = Some(tensor(value.bytes().map_err(&wire)?)?),
            8 => value.ints(&mut attribute.ints, INTS_MAX).map_err(&wire)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(attribute)
}

fn tensor(message: &[u8]) -> Result<Tensor<'_>, OnnxError> {
    let wire = OnnxError::wire("tensor");
    let (mut dims, mut ints, mut title) = (Vec::new(), Vec::new(), "");
    let (mut kind, mut location) = (0, 0);
    // The last field of each kind holds; typed data is packed.
    let (mut raw, mut floats) = (None, None);
    each("tensor", message, |number, value| {
        match number {
            1 => value.ints(&mut dims, RANK_MAX).map_err(&wire)?,
            2 => kind = value.int().map_err(&wire)?,
            4 => floats = Some(value.bytes().map_err(&wire)?),
            7 => value.ints(&mut ints, INTS_MAX).map_err(&wire)?,
            8 => title = name("tensor", value)?,
            9 => raw = Some(value.bytes().map_err(&wire)?),
            13 => location = EXTERNAL,
            14 => location = value.int().map_err(&wire)?,
            _ => {}
        }
        Ok(())
    })?;
    let unread = |what: &str| OnnxError::Tensor { name: title.into(), what: what.into() };
    if location == EXTERNAL {
        return Err(unread("its data is in another file"));
    }
    let size = |got: usize| OnnxError::TensorSize { name: title.into(), dims: dims.clone(), got };
    let elements = elements(&dims);
    let data = match kind {
        FLOAT => {
            let bytes = raw.or(floats).unwrap_or_default();
            if elements.and_then(|count| count.checked_mul(4)) != Some(bytes.len()) {
                return Err(size(bytes.len()));
            }
            Data::Floats(bytes)
        }
        INT64 => {
            if let Some(raw) = raw {
                if raw.len() > 8 * INTS_MAX {
                    return Err(unread("more than 64 integers"));
                }
                ints = raw.as_chunks::<8>().0.iter().map(|word| i64::from_le_bytes(*word)).collect();
            }
            if elements != Some(ints.len()) {
                return Err(size(raw.map_or(8 * ints.len(), <[u8]>::len)));
            }
            Data::Ints(ints)
        }
        other => return Err(unread(&format!("data type {other}, expected 1 (float) or 7 (int64)"))),
    };
    Ok(Tensor { name: title, dims, data })
}

/// Elements of a tensor; `None` if a dimension is negative or the product does not fit.
pub(super) fn elements(dims: &[i64]) -> Option<usize> {
    dims.iter().try_fold(1usize, |product, dim| product.checked_mul(usize::try_from(*dim).ok()?))
}

fn value_info(message: &[u8]) -> Result<ValueInfo<'_>, OnnxError> {
    let wire = OnnxError::wire("value_info");
    let mut info = ValueInfo::default();
    // TypeProto 1 tensor_type, of which 2 is the shape, of which 1 are dimensions, of which 1 is the number.
    each("value_info", message, |number, value| match number {
        1 => {
            info.name = name("value_info", value)?;
            Ok(())
        }
        2 => each("type", value.bytes().map_err(&wire)?, |number, value| {
            if number != 1 {
                return Ok(());
            }
            each("tensor_type", value.bytes().map_err(&wire)?, |number, value| {
                if number != 2 {
                    return Ok(());
                }
                each("shape", value.bytes().map_err(&wire)?, |number, value| {
                    if number != 1 {
                        return Ok(());
                    }
                    let mut dim = 0;
                    each("dimension", value.bytes().map_err(&wire)?, |number, value| {
                        if number == 1 {
                            dim = value.int().map_err(&wire)?;
                        }
                        Ok(())
                    })?;
                    push("dimensions", RANK_MAX, &mut info.dims, dim)
                })
            })
        }),
        _ => Ok(()),
    })?;
    Ok(info)
}
