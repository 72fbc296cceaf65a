//! Laws of the linear layer (docs/spec/arithmetic.md, section 4).

use super::matrix::{Fill, Matrix};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{Linear, WeightFormat};
use lockstep_runtime::arith::{LIMIT, RangeError, Step};
use lockstep_runtime::kernels::{
    Activations, Compute, Kernel, Scratch, accumulate, linear, linear_of, requantise,
};
use lockstep_runtime::pool::Pool;
use proptest::prelude::*;
use std::ops::Range;

const FORMATS: [WeightFormat; 3] = [WeightFormat::Int8, WeightFormat::Int4, WeightFormat::Int16];

fn compute(kernel: Kernel, threads: usize) -> Compute {
    Compute { kernel, pool: Pool::new(threads) }
}

fn accumulators(compute: &Compute, matrix: &Matrix, x: &[i8], rows: Range<usize>) -> Vec<i32> {
    let x = Activations::new(compute, x, matrix.linear.cols);
    // What was there before must not shine through.
    let mut acc = vec![0x5555_5555; x.tokens() * rows.len()];
    accumulate(&x, &matrix.linear, &matrix.tables, rows, &mut acc, &mut Scratch::default());
    acc
}

/// The kernel's dot products are those of the plain rows.
fn assert_exact(kernel: Kernel, format: WeightFormat, shape: [usize; 3], fills: [Fill; 2], seed: u64) {
    let [rows, cols, tokens] = shape;
    let mut rng = SplitMix64::new(seed);
    let matrix = Matrix::new(format, rows, cols, fills[0], &mut rng);
    let x = fills[1].vector(tokens * cols, &mut rng);
    let got = accumulators(&compute(kernel, 1), &matrix, &x, 0..rows);
    let expected = matrix.dot_products(&x);
    if let Some(at) = (0..got.len()).find(|at| got[*at] != expected[*at]) {
        panic!(
            "{kernel} {format:?} rows {rows} cols {cols} tokens {tokens} {fills:?} seed {seed}: token {} row {}: got {}, expected {}",
            at / rows,
            at % rows,
            got[at],
            expected[at]
        );
    }
}

/// Step 1, on every count of tokens and rows around the sizes of tiles and panels.
pub(super) fn dot_products_are_exact(kernel: Kernel) {
    for format in FORMATS {
        for cols in [32, 64, 96, 192] {
            for rows in [1, 2, 3, 4, 5, 8, 15, 16, 17, 33] {
                for tokens in (1..=17).chain([24, 25, 26, 33]) {
                    let seed = (cols * 10_000 + rows * 100 + tokens) as u64;
                    assert_exact(kernel, format, [rows, cols, tokens], [Fill::Uniform; 2], seed);
                }
            }
        }
    }
}

/// Step 1, where rows are cut into chunks that are unpacked one after the other.
pub(super) fn long_rows_are_exact(kernel: Kernel) {
    for format in FORMATS {
        for cols in [2048, 2080, 4096, 5632, 16_384] {
            for tokens in [1, 2, 3, 4, 7, 13] {
                assert_exact(kernel, format, [19, cols, tokens], [Fill::Uniform; 2], (cols + tokens) as u64);
            }
        }
    }
}

/// Step 1 on batches that take several tiles, blocks of rows and passes.
pub(super) fn batches_are_exact(kernel: Kernel) {
    for format in FORMATS {
        for [rows, cols, tokens] in [[150, 64, 40], [129, 2080, 29], [16, 32, 1200], [31, 1056, 64]] {
            // What the specification takes its time for need not be that large.
            let tokens = if kernel == Kernel::Scalar { tokens / 8 } else { tokens };
            assert_exact(kernel, format, [rows, cols, tokens], [Fill::Uniform; 2], (rows + tokens) as u64);
        }
    }
}

/// Step 1 with the largest products everywhere: what saturates `vpmaddubsw` (two products of the
/// same sign in neighbouring columns), what comes closest to the ends of i32 in `vpdpbusd`, and
/// -128, which valid data never has but a fault may make.
pub(super) fn extremes_do_not_saturate(kernel: Kernel) {
    let mut fills = vec![Fill::Extremes, Fill::Bytes];
    fills.extend([127, -127, -128].map(Fill::Constant));
    fills.extend([1, 2, 4, 16].map(|period| Fill::Alternating(127, period)));
    for format in FORMATS {
        for weights in &fills {
            for codes in &fills {
                for [cols, tokens] in [[32, 1], [96, 7], [192, 2], [4096, 1], [4096, 8], [1056, 27]] {
                    assert_exact(kernel, format, [5, cols, tokens], [*weights, *codes], cols as u64);
                }
            }
        }
        for value in [127, -127, -128] {
            let widest = [2, 65_536, 1];
            assert_exact(kernel, format, widest, [Fill::Constant(value), Fill::Constant(value)], 1);
            assert_exact(kernel, format, widest, [Fill::Constant(127), Fill::Constant(value)], 2);
        }
    }
}

/// Step 1 on random shapes.
pub(super) fn random_shapes_agree(kernel: Kernel) {
    let config = ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(format in 0usize..3, rows in 1usize..70, groups in 1usize..80, tokens in 1usize..48, seed: u64)| {
        let format = FORMATS[format];
        assert_exact(kernel, format, [rows, groups * 32, tokens], [Fill::Uniform; 2], seed);
    });
}

/// A row's result depends on that row alone: any range that starts at a panel gives the same as the
/// whole, and the rows of a permuted matrix give the permuted results.
pub(super) fn rows_are_independent(kernel: Kernel) {
    let compute = compute(kernel, 1);
    for format in FORMATS {
        for tokens in [1, 5, 9, 30] {
            let mut rng = SplitMix64::new(tokens as u64);
            let (rows, cols) = (45, 160);
            let matrix = Matrix::new(format, rows, cols, Fill::Uniform, &mut rng);
            let x = Fill::Uniform.vector(tokens * cols, &mut rng);
            let whole = accumulators(&compute, &matrix, &x, 0..rows);
            for range in [0..4, 4..20, 8..8, 8..9, 12..45, 40..45, 44..45] {
                let part = accumulators(&compute, &matrix, &x, range.clone());
                let expected: Vec<i32> =
                    whole.chunks(rows).flat_map(|token| token[range.clone()].to_vec()).collect();
                assert_eq!(part, expected, "{kernel} {format:?} tokens {tokens} rows {range:?}");
            }
            let order: Vec<usize> = (0..rows).map(|row| row * 7 % rows).collect();
            let permuted = permute(&matrix, &order);
            let got = accumulators(&compute, &permuted, &x, 0..rows);
            let expected: Vec<i32> =
                whole.chunks(rows).flat_map(|token| order.iter().map(|row| token[*row])).collect();
            assert_eq!(got, expected, "{kernel} {format:?} tokens {tokens}, rows permuted");
        }
    }
}

/// The matrix whose row i is row `order[i]` of `matrix`, moved by its committed bytes.
fn permute(matrix: &Matrix, order: &[usize]) -> Matrix {
    let Linear { rows, cols, format, .. } = matrix.linear;
    let mut codes = vec![0; format.code_bytes(rows, cols)];
    let mut ids = vec![0; format.id_bytes(rows, cols)];
    let bytes_in = |bits: usize| cols * bits / 8;
    let plane_bytes = matrix.linear.plane_bytes();
    for (to, from) in order.iter().enumerate() {
        let source = matrix.linear.row_bytes(*from);
        let (code_bytes, id_bytes) = match format {
            WeightFormat::Int8 | WeightFormat::Int16 => (&source[2..], &[][..]),
            WeightFormat::Int4 => source[2..].split_at(bytes_in(4)),
        };
        let step = if format == WeightFormat::Int4 { 32 } else { 16 };
        for (plane, code_bytes) in code_bytes.chunks(cols * 16 / step).enumerate() {
            for (i, chunk) in code_bytes.chunks(16).enumerate() {
                let at = plane * plane_bytes + matrix.linear.code_offset(to, i * step);
                codes[at..at + 16].copy_from_slice(chunk);
            }
        }
        for (group, id) in id_bytes.chunks(2).enumerate() {
            let at = 2 * matrix.linear.id_index(to, group);
            ids[at..at + 2].copy_from_slice(id);
        }
    }
    let permuted = |weights: &[i8]| match weights.is_empty() {
        true => Vec::new(),
        false => order.iter().flat_map(|row| weights[row * cols..(row + 1) * cols].to_vec()).collect(),
    };
    let (meaning, low) = (permuted(&matrix.meaning), permuted(&matrix.low));
    let linear = Linear { codes: codes.into(), table_ids: ids.into(), ..matrix.linear.clone() };
    Matrix { linear, tables: matrix.tables.clone(), meaning, low }
}

/// A token's result does not depend on the tokens it is computed with: prefill equals decode.
pub(super) fn tokens_are_independent(kernel: Kernel) {
    let compute = compute(kernel, 1);
    for format in FORMATS {
        let mut rng = SplitMix64::new(9);
        let (rows, cols, most) = (21, 224, 33);
        let matrix = Matrix::new(format, rows, cols, Fill::Uniform, &mut rng);
        let x = Fill::Uniform.vector(most * cols, &mut rng);
        let alone: Vec<i32> =
            x.chunks(cols).flat_map(|x| accumulators(&compute, &matrix, x, 0..rows)).collect();
        for tokens in 1..=most {
            let together = accumulators(&compute, &matrix, &x[..tokens * cols], 0..rows);
            assert_eq!(together, alone[..tokens * rows], "{kernel} {format:?} tokens {tokens}");
        }
    }
}

/// A layer with random scales whose outputs stay in range, and a batch for it.
fn layer(
    format: WeightFormat,
    rows: usize,
    cols: usize,
    tokens: usize,
    seed: u64,
) -> (Matrix, Vec<i8>, Vec<Step>) {
    let mut rng = SplitMix64::new(seed);
    let mut matrix = Matrix::new(format, rows, cols, Fill::Uniform, &mut rng);
    let x = Fill::Uniform.vector(tokens * cols, &mut rng);
    // |acc| <= 127^2 cols, brought below 2^19.
    let bits = (16_129 * cols as u64).ilog2() + 1;
    matrix.linear.pre_shift = bits.saturating_sub(19) as u8 + rng.below(3) as u8;
    matrix.linear.out_frac = rng.below(25) as i8 - 8;
    matrix.linear.multipliers = (0..rows).map(|_| 1 + rng.below(31) as u8).collect();
    if rng.below(2) == 1 {
        matrix.linear.bias = (0..rows).map(|_| rng.next_u64() as i32 >> 4).collect();
    }
    // v is below 2^19 * 961 < 2^29, and 2^16 * 961 < 2^26 at worst leaves room for 3 bits to the left.
    matrix.linear.shifts = (0..rows).map(|_| 10 + rng.below(40) as u8).collect();
    let steps = (0..tokens)
        .map(|_| Step {
            k: 16 + rng.below(16) as u8,
            f: 12
                - i16::from(matrix.linear.pre_shift)
                - i16::from(matrix.linear.out_frac)
                - rng.below(12) as i16,
        })
        .collect();
    (matrix, x, steps)
}

/// Steps 1 to 3 as the specification writes them, in 128 bits: all outputs, or the first error.
fn specified(matrix: &Matrix, x: &[i8], steps: &[Step]) -> Result<Vec<i32>, (usize, usize)> {
    let rsh = |x: i128, s: u32| if s == 0 { x } else { (x + (1 << (s - 1))) >> s };
    let w = &matrix.linear;
    let mut out = Vec::new();
    for (at, acc) in matrix.dot_products(x).into_iter().enumerate() {
        let (token, row) = (at / w.rows, at % w.rows);
        let step = steps[token];
        let t = rsh(acc.into(), w.pre_shift.into());
        let v = t * i128::from(w.multipliers[row]) * i128::from(step.k);
        let s =
            i32::from(w.shifts[row]) + 4 - i32::from(w.pre_shift) - i32::from(step.f) - i32::from(w.out_frac);
        let y = match s {
            29.. => 0,
            0..=28 => rsh(v, s as u32),
            // From 90 on, anything but 0 is out of range, and 2^90 v still fits.
            _ => v << (-s).min(90),
        };
        let sum = y + i128::from(w.bias.get(row).copied().unwrap_or(0));
        let inside = |value: i128| value.abs() <= LIMIT.into();
        if !(-(1 << 19)..1 << 19).contains(&t) || !inside(y) || !inside(sum) {
            return Err((token, row));
        }
        out.push(sum as i32);
    }
    Ok(out)
}

/// Steps 1 to 3 for random scales, with and without bias, on every number of threads.
pub(super) fn outputs_follow_the_specification(kernel: Kernel) {
    let mut in_range = 0;
    for threads in [1, 2, 3, 16] {
        let compute = compute(kernel, threads);
        for format in FORMATS {
            for (seed, [rows, cols, tokens]) in [
                [7, 32, 1],
                [64, 96, 3],
                [130, 192, 17],
                [300, 2080, 1],
                [515, 512, 2],
                [200, 512, 9],
                [33, 16_384, 1],
                [333, 96, 57],
                [100, 32, 1100],
            ]
            .into_iter()
            .enumerate()
            {
                let seed = seed as u64;
                let (matrix, x, steps) = layer(format, rows, cols, tokens, seed);
                let expected = specified(&matrix, &x, &steps);
                let mut out = vec![-1; rows * tokens];
                let got = linear(&compute, &matrix.linear, &matrix.tables, &x, &steps, &mut out);
                let shape = format!(
                    "{kernel} {format:?} threads {threads} rows {rows} cols {cols} tokens {tokens} seed {seed}"
                );
                assert_eq!(got.is_ok(), expected.is_ok(), "{shape}");
                if let Ok(expected) = expected {
                    assert_eq!(out, expected, "{shape}");
                    assert!(out.iter().any(|y| *y != 0), "{shape}: nothing but zeros shows nothing");
                    in_range += 1;
                }
            }
        }
    }
    assert!(in_range >= 70, "only {in_range} of 108 layers stayed in range");
}

/// A row of weights and codes whose dot product is `acc`, up to 8 million in magnitude.
fn reaching(acc: i32) -> (Matrix, Vec<i8>) {
    const COLS: usize = 512;
    let mut matrix = Matrix::new(WeightFormat::Int8, 1, COLS, Fill::Constant(127), &mut SplitMix64::new(0));
    let mut codes = matrix.linear.codes.to_vec();
    let last = matrix.linear.code_offset(0, COLS - 1);
    (codes[last], matrix.meaning[COLS - 1]) = (1, 1);
    matrix.linear.codes = codes.into();
    let (mut rest, mut x) = (acc / 127, vec![0; COLS]);
    for code in &mut x[..COLS - 1] {
        *code = rest.clamp(-127, 127) as i8;
        rest -= i32::from(*code);
    }
    x[COLS - 1] = (acc % 127) as i8;
    assert_eq!(matrix.dot_products(&x), [acc]);
    (matrix, x)
}

/// Steps 2 and 3 at their ends: accumulators around 2^19, shifts from far left to far right, values
/// at the limits, the largest biases.
pub(super) fn outputs_reach_the_bounds(kernel: Kernel) {
    let compute = compute(kernel, 1);
    let (mut passed, mut failed) = (0, 0);
    for seed in 0..6000 {
        let mut rng = SplitMix64::new(seed);
        let edges = [1 << 19, (1 << 19) + 1, -(1 << 19), -(1 << 19) - 1, (1 << 20) - 300_000];
        let acc = match rng.below(3) {
            0 => edges[rng.below(5) as usize],
            1 => (rng.next_u64() as i32 >> 9) >> rng.below(23),
            _ => rng.below(1 << 20) as i32 - (1 << 19),
        };
        let (mut matrix, x) = reaching(acc.clamp(-8_200_000, 8_200_000));
        matrix.linear.pre_shift = [0, 0, 0, 1, 2, 5, 30][rng.below(7) as usize];
        matrix.linear.shifts[0] = rng.below(256) as u8;
        matrix.linear.multipliers[0] = [31, 1 + rng.below(31) as u8][rng.below(2) as usize];
        matrix.linear.out_frac = rng.next_u64() as i8;
        if rng.below(2) == 1 {
            let ends = [LIMIT, -LIMIT, LIMIT - 1, i32::MAX, i32::MIN, 0, -1];
            matrix.linear.bias = vec![ends[rng.below(7) as usize]];
        }
        // The shift of the output, mostly where something is left of it.
        let s = if rng.below(8) == 0 { rng.below(400) as i32 - 200 } else { rng.below(44) as i32 - 10 };
        let w = &matrix.linear;
        let f = i32::from(w.shifts[0]) + 4 - i32::from(w.pre_shift) - i32::from(w.out_frac) - s;
        let steps = [Step { k: [31, 16 + rng.below(16) as u8][rng.below(2) as usize], f: f as i16 }];
        let expected = specified(&matrix, &x, &steps);
        let mut out = [0];
        let got = linear(&compute, &matrix.linear, &matrix.tables, &x, &steps, &mut out);
        match expected {
            Ok(expected) => {
                assert_eq!((got, &out[..]), (Ok(()), &expected[..]), "{kernel} seed {seed} acc {acc} s {s}");
                passed += 1;
            }
            Err(_) => {
                let error = requantise(matrix.dot_products(&x)[0], &matrix.linear, 0, steps[0]).err();
                assert!(error.is_some(), "{kernel} seed {seed}: no error in the specification's code");
                assert_eq!(got.err(), error, "{kernel} seed {seed} acc {acc} s {s}");
                failed += 1;
            }
        }
    }
    assert!(passed > 2000 && failed > 1000, "{passed} passed and {failed} failed: too few of one kind");
}

/// A range error is the one of the first token, and of its first row, however the work was split.
pub(super) fn range_errors_are_the_first(kernel: Kernel) {
    for format in FORMATS {
        for tokens in [1, 4, 11, 40] {
            let (mut matrix, x, mut steps) = layer(format, 700, 256, tokens, 77);
            matrix.linear.bias.clear();
            matrix.linear.out_frac = 0;
            matrix.linear.shifts.fill(20);
            steps.iter_mut().for_each(|step| step.f = 0);
            // Some rows of the last tokens are far out of range.
            steps[tokens / 2..].iter_mut().for_each(|step| step.f = 14);
            for row in [650, 400, 399] {
                matrix.linear.shifts[row] = 0;
            }
            let Err((token, row)) = specified(&matrix, &x, &steps) else {
                panic!("{format:?} {tokens}: the layer was made to leave its range")
            };
            let acc = matrix.dot_products(&x)[token * 700 + row];
            let expected = requantise(acc, &matrix.linear, row, steps[token]);
            assert!(matches!(expected, Err(RangeError { what: "linear layer", .. })), "{expected:?}");
            for threads in [1, 2, 3] {
                let mut out = vec![0; tokens * 700];
                let got =
                    linear(&compute(kernel, threads), &matrix.linear, &matrix.tables, &x, &steps, &mut out);
                assert_eq!(
                    got.err(),
                    expected.err(),
                    "{kernel} {format:?} tokens {tokens} threads {threads}"
                );
            }
        }
    }
}

/// Two planes: `acc_h + floor(acc_l / 128)` where one plane has acc, also where the low sum is
/// negative and no multiple, in a matrix of one row and one group; and what is prepared once serves
/// several matrices.
pub(super) fn planes_add_up(kernel: Kernel) {
    for (rows, cols, tokens) in [(1, 32, 1), (1, 32, 40), (7, 64, 3), (70, 288, 30), (40, 160, 13)] {
        let mut rng = SplitMix64::new((rows + cols + tokens) as u64);
        let both = Matrix::new(WeightFormat::Int16, rows, cols, Fill::Uniform, &mut rng);
        let high = Matrix::new(WeightFormat::Int8, rows, cols, Fill::Constant(0), &mut rng);
        let plane = both.linear.plane_bytes();
        let part = |range: Range<usize>| both.linear.codes.slice(range).expect("inside");
        let linear_of_plane = |codes| Linear { codes, ..high.linear.clone() };
        let (high, low) = (linear_of_plane(part(0..plane)), linear_of_plane(part(plane..2 * plane)));
        let x = Fill::Uniform.vector(tokens * cols, &mut rng);
        let compute = compute(kernel, 2);
        let prepared = Activations::new(&compute, &x, cols);
        let steps = vec![Step { k: 16, f: 0 }; tokens];
        // Shifted by 4 for k = 16 means 16 sixteenths: outputs are accumulators.
        let run = |weights: &Linear| {
            let weights = Linear { shifts: vec![0; rows], multipliers: vec![1; rows], ..weights.clone() };
            let mut out = vec![0; tokens * rows];
            linear_of(&compute, &weights, &[], &prepared, &steps, &mut out).expect("in range");
            out
        };
        let expected: Vec<i32> =
            run(&high).iter().zip(run(&low)).map(|(high, low)| high + low.div_euclid(128)).collect();
        assert_eq!(run(&both.linear), expected, "{kernel} rows {rows} cols {cols} tokens {tokens}");
        assert_eq!(expected, both.dot_products(&x), "{kernel} rows {rows} cols {cols} tokens {tokens}");
    }
}
