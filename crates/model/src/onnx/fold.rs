//! What is known of a name: constants, and the arithmetic on shapes that exporters write into graphs
//! (`Shape`, `Gather`, `Unsqueeze`, `Concat` in front of `Reshape`).

use super::OnnxError;
use super::proto::{Data, Tensor, elements};
use super::window::Attributes;

/// Integers of a folded constant.
const INTS_MAX: usize = 64;

/// What a name stands for.
#[derive(Debug, Clone)]
pub(super) enum Known<'a> {
    /// A value of the network, with its dimensions in ONNX (the batch first).
    Value {
        /// Index in the float network.
        value: usize,
        /// Its dimensions.
        dims: Vec<i64>,
    },
    /// A constant tensor of floats.
    Floats {
        /// Its dimensions.
        dims: Vec<i64>,
        /// f32 little-endian.
        bytes: &'a [u8],
    },
    /// A constant tensor of integers with 0 or 1 dimensions.
    Ints {
        /// Whether it is one number without dimensions.
        scalar: bool,
        /// The numbers.
        ints: Vec<i64>,
    },
}

impl<'a> Known<'a> {
    /// A constant of the file.
    pub(super) fn constant(tensor: &Tensor<'a>) -> Result<Known<'a>, OnnxError> {
        match &tensor.data {
            Data::Floats(bytes) => Ok(Known::Floats { dims: tensor.dims.clone(), bytes }),
            Data::Ints(ints) if tensor.dims.len() <= 1 => {
                Ok(Known::Ints { scalar: tensor.dims.is_empty(), ints: ints.clone() })
            }
            Data::Ints(_) => Err(OnnxError::Tensor {
                name: tensor.name.into(),
                what: format!("integers of dimensions {:?}, expected at most one", tensor.dims),
            }),
        }
    }
}

/// Folds an op over constant integers; `None` if it is no such op.
pub(super) fn fold<'a>(at: &Attributes<'a>, inputs: &[&Known<'a>]) -> Result<Option<Known<'a>>, OnnxError> {
    let ints = |known: &Known<'a>| match known {
        Known::Ints { scalar, ints } => Ok((*scalar, ints.clone())),
        _ => Err(at.unsupported("an input that is not a constant of integers")),
    };
    let list = |ints: Vec<i64>| Some(Known::Ints { scalar: false, ints });
    Ok(match (at.node.op, inputs) {
        ("Shape", [Known::Value { dims, .. } | Known::Floats { dims, .. }]) => list(dims.clone()),
        ("Gather", [from, index]) => {
            at.must_be("axis", 0)?;
            let ((_, from), (scalar, index)) = (ints(from)?, ints(index)?);
            let pick = |index: &i64| {
                let index = if *index < 0 { *index + from.len() as i64 } else { *index };
                usize::try_from(index).ok().and_then(|index| from.get(index).copied())
            };
            let picked: Option<Vec<i64>> = index.iter().map(pick).collect();
            let ints = picked.ok_or_else(|| at.unsupported(format!("index {index:?} of {from:?}")))?;
            Some(Known::Ints { scalar, ints })
        }
        ("Unsqueeze", [from, axes @ ..]) => {
            let (scalar, numbers) = ints(from)?;
            let axes = match axes {
                [] => at.ints("axes").unwrap_or_default().to_vec(),
                [axes, ..] => ints(axes)?.1,
            };
            if !scalar || axes != [0] {
                return Err(at.unsupported(format!("axes {axes:?}, expected 0 of one number")));
            }
            list(numbers)
        }
        ("Concat", parts) => {
            at.must_be("axis", 0)?;
            let mut all = Vec::new();
            for part in parts {
                all.extend(ints(part)?.1);
            }
            if all.len() > INTS_MAX {
                return Err(at.unsupported(format!("{} integers, expected at most {INTS_MAX}", all.len())));
            }
            list(all)
        }
        _ => None,
    })
}

/// The dimensions that `Reshape` to `target` gives: 0 keeps a dimension, -1 takes what is left.
pub(super) fn reshaped(at: &Attributes<'_>, dims: &[i64], target: &[i64]) -> Result<Vec<i64>, OnnxError> {
    let refuse = || at.unsupported(format!("a shape of {dims:?} as {target:?}"));
    let all = elements(dims).ok_or_else(refuse)?;
    let mut out = Vec::with_capacity(target.len());
    let mut open = None;
    for (axis, dim) in target.iter().enumerate() {
        match dim {
            0 => out.push(*dims.get(axis).ok_or_else(refuse)?),
            -1 if open.is_none() => {
                open = Some(axis);
                out.push(1);
            }
            1.. => out.push(*dim),
            _ => return Err(refuse()),
        }
    }
    let given = elements(&out).filter(|given| *given > 0).ok_or_else(refuse)?;
    if let Some(axis) = open {
        out[axis] = i64::try_from(all / given).map_err(|_| refuse())?;
    }
    if elements(&out) == Some(all) { Ok(out) } else { Err(refuse()) }
}
