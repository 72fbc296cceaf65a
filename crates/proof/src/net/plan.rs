//! What a network asks of a proof: its matrices, and where the elements of its values lie.
//!
//! An element of a value has a number in the order of docs/spec/nets.md (channel-last), and a place in the vectors of a circuit, which are
//! filled to powers of two: outputs of a convolution lie in (place of the image, channel), each filled by itself. Elements that `pad` added have
//! no place: they are 0.

use crate::argument::WITNESS_CELLS_MAX;
use crate::error::PlanError;
use crate::gadget::linear::{Layer, Part};
use crate::integer::log2_ceil;
use crate::matmul::Matrix;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::net::{Net, Op, Shape, Window};

/// Where the elements of a value lie in its vector of `2^log` places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The place of each element; `None` for one that is 0 and nowhere.
    pub of: Vec<Option<u32>>,
    /// log2 of the places.
    pub log: usize,
}

impl Places {
    /// One behind the other.
    #[must_use]
    pub fn in_order(elements: usize) -> Places {
        Places { of: (0..elements as u32).map(Some).collect(), log: log2_ceil(elements) }
    }

    /// (place of the image, channel).
    #[must_use]
    pub fn of_image(shape: Shape) -> Places {
        let (channels, log) = (shape.channels as usize, log2_ceil(shape.channels as usize));
        let place = |element: usize| (((element / channels) << log) + element % channels) as u32;
        let of = (0..shape.elements()).map(|element| Some(place(element))).collect();
        Places { of, log: log + log2_ceil(shape.places()) }
    }

    /// Those of `pad`.
    #[must_use]
    pub fn padded(&self, shape: Shape, output: Shape, pads: [u32; 4]) -> Places {
        let [top, left, ..] = pads;
        let channels = shape.channels as usize;
        let place = |element: usize| {
            let (place, channel) = (element / channels, element % channels);
            let (row, col) = (place / output.width as usize, place % output.width as usize);
            let (row, col) = (row.checked_sub(top as usize)?, col.checked_sub(left as usize)?);
            let inside = row < shape.height as usize && col < shape.width as usize;
            inside.then(|| self.of[(row * shape.width as usize + col) * channels + channel]).flatten()
        };
        Places { of: (0..output.elements()).map(place).collect(), log: self.log }
    }

    /// Those of `flatten`.
    #[must_use]
    pub fn flattened(&self, shape: Shape) -> Places {
        let (places, channels) = (shape.places(), shape.channels as usize);
        let of = (0..shape.elements()).map(|y| self.of[(y % places) * channels + y / places]).collect();
        Places { of, log: self.log }
    }

    /// For each place of the output, in order, the elements that its window covers, `None` outside the image; channel is `Some` for one channel alone.
    fn covered(
        window: &Window,
        shape: Shape,
        output: Shape,
        place: usize,
        channel: Option<usize>,
    ) -> Vec<Option<usize>> {
        let (y, x) = (place / output.width as usize, place % output.width as usize);
        let channels = shape.channels as usize;
        let side = |at: usize, step: u32, pad: u32, offset: u32, size: u32| {
            let at = (at as u64 * u64::from(step) + u64::from(offset)).checked_sub(pad.into())?;
            (at < size.into()).then_some(at as usize)
        };
        let mut covered = Vec::new();
        for i in 0..window.kernel[0] {
            for j in 0..window.kernel[1] {
                let row = side(y, window.strides[0], window.pads[0], i, shape.height);
                let col = side(x, window.strides[1], window.pads[1], j, shape.width);
                let first = row.zip(col).map(|(row, col)| (row * shape.width as usize + col) * channels);
                match channel {
                    Some(channel) => covered.push(first.map(|first| first + channel)),
                    None => covered.extend((0..channels).map(|channel| first.map(|first| first + channel))),
                }
            }
        }
        covered
    }

    /// The patches of a convolution: (place, column) to the places here, both filled.
    #[must_use]
    pub fn patches(&self, window: &Window, shape: Shape, output: Shape) -> (Vec<Option<u32>>, usize) {
        let columns = (window.kernel[0] * window.kernel[1] * shape.channels) as usize;
        let (log, log_places) = (log2_ceil(columns), log2_ceil(output.places()));
        let mut taken = vec![None; 1 << (log_places + log)];
        for place in 0..output.places() {
            for (column, element) in
                Places::covered(window, shape, output, place, None).into_iter().enumerate()
            {
                taken[(place << log) + column] = element.and_then(|element| self.of[element]);
            }
        }
        (taken, log)
    }

    /// The windows of a pooling: (element of the output, element of the window) to the places here. A window that is partly outside, and what fills it up,
    /// has one of its elements several times.
    ///
    /// # Errors
    /// If a window has an element that `pad` added.
    pub fn windows(&self, window: &Window, shape: Shape, output: Shape) -> Option<(Vec<Option<u32>>, usize)> {
        let log = log2_ceil((window.kernel[0] * window.kernel[1]) as usize);
        let to = Places::of_image(output);
        let mut taken = vec![None; 1 << (to.log + log)];
        let channels = output.channels as usize;
        for element in 0..output.elements() {
            let (place, channel) = (element / channels, element % channels);
            let covered = Places::covered(window, shape, output, place, Some(channel));
            let inside: Vec<u32> =
                covered.into_iter().flatten().map(|element| self.of[element]).collect::<Option<_>>()?;
            let to = (to.of[element]? as usize) << log;
            for at in 0..1usize << log {
                taken[to + at] = Some(*inside.get(at).or(inside.first())?);
            }
        }
        Some((taken, log))
    }
}

/// Places that a window covers.
fn columns_of(window: &Window) -> u64 {
    u64::from(window.kernel[0]) * u64::from(window.kernel[1])
}

/// Patches are written out for the circuit: their places, filled, are not more than a commitment has cells. Known before anything is allocated.
fn affordable(places: usize, columns: u64) -> Result<(), PlanError> {
    let filled = |n: u64| n.checked_next_power_of_two().unwrap_or(u64::MAX);
    let cells = filled(places as u64).saturating_mul(filled(columns));
    let got = usize::try_from(cells).unwrap_or(usize::MAX);
    if got > WITNESS_CELLS_MAX { Err(PlanError::TooLarge { got, limit: WITNESS_CELLS_MAX }) } else { Ok(()) }
}

/// The matrices of a network, one for each node that has one.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// By node.
    pub layers: Vec<Option<Layer<'a>>>,
    /// Where the elements of each value lie.
    pub places: Vec<Places>,
}

impl<'a> Plan<'a> {
    /// The plan of `net`.
    ///
    /// # Errors
    /// If something has no argument yet, or an identity could wrap.
    pub fn new(net: &'a Net) -> Result<Plan<'a>, PlanError> {
        let (graph, values) = (net.graph(), net.values());
        let mut places = vec![Places::in_order(graph.input.shape.elements())];
        let mut layers = Vec::with_capacity(graph.nodes.len());
        for (node, op) in graph.nodes.iter().enumerate() {
            let input = op.inputs().next().unwrap_or(0) as usize;
            let (shape, output) = (values[input].shape, values[node + 1].shape);
            let here = &places[input];
            let place = format!("node {node}");
            let weights = op.weights().map(|weights| &net.weights()[weights as usize]);
            let matrix = |cols, log_cols| {
                weights.map(|weights| {
                    let rows = (0..weights.rows as u32).collect();
                    let matrix = Matrix { weights, tables: &[] };
                    let rows = Part { first: 0, places: rows, log: log2_ceil(weights.rows) };
                    let cols = Part { first: 0, places: cols, log: log_cols };
                    Ok(Layer::new(&place, matrix, &rows, &[cols])?.bounded())
                })
            };
            let (next, layer) = match op {
                Op::Pad { pads, .. } => (here.padded(shape, output, *pads), None),
                Op::Flatten { .. } => (here.flattened(shape), None),
                Op::Quantise { .. } | Op::Relu { .. } => (here.clone(), None),
                Op::Linear { .. } => {
                    // A column of something that is nowhere multiplies 0: it may read any place that is 0.
                    let cols: Option<Vec<u32>> = here.of.iter().copied().collect();
                    let cols = cols.ok_or(PlanError::Unsupported {
                        place: place.clone(),
                        op: "linear",
                        expected: "a vector without padding",
                    })?;
                    (Places::in_order(output.elements()), matrix(cols, here.log))
                }
                Op::Conv { window, .. } => {
                    affordable(output.places(), columns_of(window) * u64::from(shape.channels))?;
                    let (_, log) = here.patches(window, shape, output);
                    let columns = window.kernel[0] * window.kernel[1] * shape.channels;
                    (Places::of_image(output), matrix((0..columns).collect(), log))
                }
                Op::MaxPool { window, .. } => {
                    affordable(output.elements(), columns_of(window))?;
                    if here.windows(window, shape, output).is_none() {
                        let expected = "windows over an image without padding";
                        return Err(PlanError::Unsupported { place, op: op.name(), expected });
                    }
                    let (got, limit) = (values[input].high - values[input].low, 1 << 29);
                    if got > limit {
                        return Err(PlanError::CouldWrap { place, what: "a difference", got, limit });
                    }
                    (Places::of_image(output), None)
                }
                Op::Add { left, right, .. } => {
                    if places[*left as usize] != places[*right as usize] {
                        let expected = "values that lie alike";
                        return Err(PlanError::Unsupported { place, op: op.name(), expected });
                    }
                    (here.clone(), None)
                }
            };
            layers.push(layer.transpose()?);
            places.push(next);
        }
        Ok(Plan { layers, places })
    }
}
