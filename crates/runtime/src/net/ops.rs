//! The ops that move or compare values, for one example. Images are `(height, width, channels)`; shapes were checked
//! with the graph.

use core::ops::Range;
use lockstep_base::net::{Shape, Window};

/// Zeros around an image; `out` holds zeros.
pub(super) fn pad(x: &[i32], shape: Shape, top: u32, left: u32, out: &mut [i32], output: Shape) {
    let channels = shape.channels as usize;
    let (line, out_line) = (shape.width as usize * channels, output.width as usize * channels);
    let lines = out.chunks_exact_mut(out_line).skip(top as usize);
    for (x, out) in x.chunks_exact(line).zip(lines) {
        out[left as usize * channels..][..line].copy_from_slice(x);
    }
}

/// `out[(c H + y) W + x] = in[(y W + x) C + c]`.
pub(super) fn flatten(x: &[i32], shape: Shape, out: &mut [i32]) {
    let places = shape.places();
    for (place, x) in x.chunks_exact(shape.channels as usize).enumerate() {
        for (channel, x) in x.iter().enumerate() {
            out[channel * places + place] = *x;
        }
    }
}

/// The largest of each window, channel by channel, of what lies inside the image.
pub(super) fn max_pool(x: &[i32], shape: Shape, window: &Window, out: &mut [i32], output: Shape) {
    let channels = shape.channels as usize;
    for (place, out) in out.chunks_exact_mut(channels).enumerate() {
        out.fill(i32::MIN);
        let (rows, columns) = covered(window, shape, place, output);
        for row in rows {
            for column in columns.clone() {
                let at = (row * shape.width as usize + column) * channels;
                for (most, x) in out.iter_mut().zip(&x[at..at + channels]) {
                    *most = (*most).max(*x);
                }
            }
        }
    }
}

/// The patches of an image as rows of `cols` codes, in the order (kernel row, kernel column, channel), filled up
/// with zeros; `out` holds zeros. What lies outside the image stays 0.
pub(super) fn patches(x: &[i8], shape: Shape, window: &Window, output: Shape, cols: usize, out: &mut [i8]) {
    let (channels, width) = (shape.channels as usize, shape.width as usize);
    for (place, patch) in out.chunks_exact_mut(cols).enumerate() {
        let (rows, columns) = covered(window, shape, place, output);
        // Where the first covered row and column lie in the kernel.
        let kernel_row = rows.start + window.pads[0] as usize - origin(place, window, output).0;
        let kernel_column = columns.start + window.pads[1] as usize - origin(place, window, output).1;
        let run = columns.len() * channels;
        for (row, line) in rows.zip(kernel_row..) {
            let from = (row * width + columns.start) * channels;
            let to = (line * window.kernel[1] as usize + kernel_column) * channels;
            patch[to..to + run].copy_from_slice(&x[from..from + run]);
        }
    }
}

/// Top left corner of the window at `place`, counted from the corner of the padding.
fn origin(place: usize, window: &Window, output: Shape) -> (usize, usize) {
    let width = output.width as usize;
    (place / width * window.strides[0] as usize, place % width * window.strides[1] as usize)
}

/// Rows and columns of the image under the window at `place`.
fn covered(window: &Window, shape: Shape, place: usize, output: Shape) -> (Range<usize>, Range<usize>) {
    let (top, left) = origin(place, window, output);
    let one = |start: usize, kernel: u32, pad: u32, size: u32| {
        let (pad, size) = (pad as usize, size as usize);
        start.saturating_sub(pad)..(start + kernel as usize).saturating_sub(pad).min(size)
    };
    (
        one(top, window.kernel[0], window.pads[0], shape.height),
        one(left, window.kernel[1], window.pads[1], shape.width),
    )
}
