//! Attributes of Conv and MaxPool as a [`Window`].

use super::OnnxError;
use super::proto::{Attribute, Node};
use lockstep_base::net::{Shape, Window};

/// How the attributes of one node are read; anything unsupported is named.
pub(super) struct Attributes<'a> {
    pub(super) index: usize,
    pub(super) node: &'a Node<'a>,
}

impl<'a> Attributes<'a> {
    pub(super) fn unsupported(&self, what: impl Into<String>) -> OnnxError {
        OnnxError::Unsupported { node: self.index, op: self.node.op.into(), what: what.into() }
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.find(name).map_or(default, |attribute| attribute.int)
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        self.find(name).map_or(default, |attribute| attribute.float)
    }

    pub(super) fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.find(name).map(|attribute| &attribute.ints[..])
    }

    pub(super) fn find(&self, name: &str) -> Option<&'a Attribute<'a>> {
        self.node.attributes.iter().find(|attribute| attribute.name == name)
    }

    /// Refuses an attribute that has another value than the one that is implemented.
    pub(super) fn must_be(&self, name: &str, expected: i64) -> Result<(), OnnxError> {
        match self.int(name, expected) {
            got if got == expected => Ok(()),
            got => Err(self.unsupported(format!("{name} is {got}, expected {expected}"))),
        }
    }

    /// `N` numbers that fit u32, or the default.
    fn numbers<const N: usize>(&self, name: &str, default: [u32; N]) -> Result<[u32; N], OnnxError> {
        let Some(ints) = self.ints(name) else { return Ok(default) };
        let numbers: Option<Vec<u32>> = ints.iter().map(|number| u32::try_from(*number).ok()).collect();
        numbers
            .and_then(|numbers| numbers.try_into().ok())
            .ok_or_else(|| self.unsupported(format!("{name} is {ints:?}, expected {N} numbers from 0")))
    }

    /// The window over an image; `kernel` where the weights fix it.
    pub(super) fn window(&self, kernel: Option<[u32; 2]>, image: Shape) -> Result<Window, OnnxError> {
        let given = self.numbers::<2>("kernel_shape", kernel.unwrap_or([0, 0]))?;
        if kernel.is_some_and(|kernel| kernel != given) {
            return Err(self.unsupported(format!("kernel_shape is {given:?}, expected {kernel:?}")));
        }
        if self.numbers::<2>("dilations", [1, 1])? != [1, 1] {
            return Err(self.unsupported("dilations"));
        }
        let strides = self.numbers::<2>("strides", [1, 1])?;
        if strides.contains(&0) {
            return Err(self.unsupported("a stride of 0"));
        }
        let text = self.find("auto_pad").map_or(&b"NOTSET"[..], |attribute| attribute.text);
        let pads = match text {
            b"" | b"NOTSET" => self.numbers::<4>("pads", [0; 4])?,
            b"VALID" => [0; 4],
            b"SAME_UPPER" => same(given, strides, image, false),
            b"SAME_LOWER" => same(given, strides, image, true),
            other => {
                return Err(self.unsupported(format!("auto_pad {:?}", String::from_utf8_lossy(other))));
            }
        };
        Ok(Window { kernel: given, strides, pads })
    }
}

/// As many outputs as inputs over the stride, rounded up; an odd pad goes to the end (or the beginning).
fn same(kernel: [u32; 2], strides: [u32; 2], image: Shape, lower: bool) -> [u32; 4] {
    let one = |size: u32, kernel: u32, stride: u32| {
        let out = size.div_ceil(stride);
        let total = (u64::from(out.saturating_sub(1)) * u64::from(stride) + u64::from(kernel))
            .saturating_sub(u64::from(size));
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        let (less, more) = (total / 2, total - total / 2);
        if lower { (more, less) } else { (less, more) }
    };
    let (top, bottom) = one(image.height, kernel[0], strides[0]);
    let (left, right) = one(image.width, kernel[1], strides[1]);
    [top, left, bottom, right]
}
