//! The scalar functions of the runtime under the names of golden files. One function an op.

use super::file::{Case, Fields, Out, cases};
use super::net;
use crate::pack::{Plain, Row};
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::config::{Activation, Experts, Pooling};
use lockstep_base::params::{Parameters, draw};
use lockstep_base::weights::{GROUP_COLS, Gain, Linear, Slope, WeightFormat};
use lockstep_runtime::arith::{
    Extent, RHO_ONE, RangeError, Step, choose_cut, code, embedded, gain_norm, inverse_rms, regularised,
    residual_sum, route, rsh, scale, soft_cap, sum_of_squares, within, x16,
};
use lockstep_runtime::attention::{Layer, Query, Unit};
use lockstep_runtime::forward::pool;
use lockstep_runtime::kernels::{self, Activations, Compute, Kernel, Scratch};
use lockstep_runtime::kv::HeadKv;
use lockstep_runtime::pool::Pool;
use lockstep_runtime::{attention, ffn, sample};

/// The tables of section 10 that the ops read, from tables.txt.
pub(super) struct Tables {
    pub(super) exp2: Vec<u16>,
    pub(super) exp2_sample: Vec<u32>,
    pub(super) activation: Vec<i16>,
}

impl Tables {
    pub(super) fn read() -> Tables {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tables.txt");
        let text = std::fs::read_to_string(path).expect(path);
        let cases = cases(&text);
        let of =
            |name: &str| &cases.iter().find(|case| case.input.word("name") == name).expect("a table").input;
        Tables {
            exp2: of("exp2").list("entries"),
            exp2_sample: of("exp2_sample").list("entries"),
            activation: of("activation").list("entries"),
        }
    }
}

/// A kernel without vectors or threads: the specification.
pub(super) fn scalar() -> Compute {
    Compute { kernel: Kernel::Scalar, pool: Pool::new(1) }
}

/// What the op of `case` gives; a range error is a result.
pub(super) fn compute(case: &Case<'_>, tables: &Tables) -> Out {
    let input = &case.input;
    let result = match input.word("op") {
        "table" => Ok(table(input)),
        "rsh" => Ok(Out::default().list("y", &map(input, |x| rsh(x, input.one("s"))))),
        "scale" => scale_op(input),
        "quantise" => Ok(quantise(input)),
        "norm" => Ok(norm(input)),
        "gain_norm" => gain(input),
        "soft_cap" => Ok(cap(input)),
        "route" => router(input, tables),
        "alibi" => Ok(alibi(input)),
        "linear" => linear(input),
        "rotated" => Ok(rotated(input)),
        "embed" => embed(input),
        "residual_add" => residual_add(input),
        "rope" => Ok(rope(input)),
        "codes16" => Ok(codes16(input)),
        "codes8" => Ok(codes8(input)),
        "scores" => scores(input, tables),
        "softmax" => Ok(softmax(input, tables)),
        "attention" => attention_output(input, tables),
        "activation" => plain(input, tables),
        "relu" => relu(input),
        "pool" => Ok(pooled(input)),
        "net" => net::compute(input),
        "gated" => gated(input, tables),
        "hadamard" => Ok(hadamard(input)),
        "draw" => Ok(draw_op(input)),
        "sample" => Ok(sample_op(input, tables)),
        op => panic!("case {:?}: unknown op {op}", case.name),
    };
    result.unwrap_or_else(|_| Out::default().text("error", "range"))
}

fn map(input: &Fields, f: impl Fn(i32) -> i32) -> Vec<i32> {
    input.list("x").into_iter().map(f).collect()
}

fn table(input: &Fields) -> Out {
    let bytes: Vec<u8> = match input.word("name") {
        "exp2" => input.list::<u16>("entries").iter().flat_map(|v| v.to_le_bytes()).collect(),
        "exp2_sample" => input.list::<u32>("entries").iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => input.list::<i16>("entries").iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    Out::default().text("sha256", &Digest::of(&[&bytes]).hex())
}

fn scale_op(input: &Fields) -> Result<Out, RangeError> {
    let scaled = input.list("x").into_iter().map(|x| scale(x, input.one("s"), "scale"));
    Ok(Out::default().list("y", &scaled.collect::<Result<Vec<i32>, _>>()?))
}

fn quantise(input: &Fields) -> Out {
    let x: Vec<i32> = input.list("x");
    let cut = choose_cut(Extent::of(&x), input.one("rho"), input.one("base"));
    let codes: Vec<i8> = x.iter().map(|x| code(*x, &cut)).collect();
    Out::default().one("k", cut.step.k).one("f", cut.step.f).list("codes", &codes)
}

fn norm(input: &Fields) -> Out {
    let x: Vec<i32> = input.list("x");
    let extent = Extent::of(&x);
    let (es, sum) = sum_of_squares(&x, extent.shift16());
    let s_prime = regularised(sum, es, input.word("norm_eps").parse().expect("norm_eps"));
    let (rho, kk) = inverse_rms(s_prime, x.len() as u32);
    let cut = choose_cut(extent, rho, -es - kk as i32);
    let codes: Vec<i8> = x.iter().map(|x| code(*x, &cut)).collect();
    let out = Out::default().one("es", es).one("S", sum).one("S'", s_prime).one("kk", kk).one("rho", rho);
    out.one("k", cut.step.k).one("f", cut.step.f).list("codes", &codes)
}

fn gain(input: &Fields) -> Result<Out, RangeError> {
    let x: Vec<i32> = input.list("x");
    let gain = Gain {
        mantissas: input.list("g"),
        shifts: input.list("t"),
        offsets: if input.has("offsets") { input.list("offsets") } else { Vec::new() },
        eps: input.one("eps"),
        out_frac: input.one("F"),
        centred: input.one::<u8>("centred") == 1,
    };
    let mut y = vec![0; x.len()];
    gain_norm(&x, &gain, &mut y)?;
    Ok(Out::default().list("y", &y))
}

/// The table is that of `x / (1 + x / slope)`, rounded down: a case names its slope, not 4,097 entries.
fn cap(input: &Fields) -> Out {
    let (slope, shift): (i64, u8) = (input.one("slope"), input.one("shift"));
    let entry = |i: i64| ((i << shift) * slope / (slope + (i << shift))) as i32;
    let table: Vec<i32> = (0..4097).map(entry).collect();
    Out::default().list("y", &map(input, |x| soft_cap(x, &table, shift)))
}

fn router(input: &Fields, tables: &Tables) -> Result<Out, RangeError> {
    let logits: Vec<i32> = input.list("logits");
    let experts = Experts {
        count: logits.len() as u32,
        per_token: input.one("per_token"),
        normalise: input.one::<u8>("normalise") == 1,
    };
    let choices = route(&logits, input.one("F"), &experts, &tables.exp2)?;
    let flat: Vec<i32> = choices.iter().flat_map(|c| [c.expert as i32, c.rho, c.kk as i32]).collect();
    Ok(Out::default().list("choice", &flat))
}

fn alibi(input: &Fields) -> Out {
    let (a, b): (i32, u32) = (input.one("a"), input.one("b"));
    let bias = input.list::<i32>("distance").into_iter().map(|distance| rsh(a * distance, b));
    Out::default().list("bias", &bias.collect::<Vec<_>>())
}

/// What enters a sublayer of a model that rotates online (3.3): z, and its codes.
fn rotated(input: &Fields) -> Out {
    let (x, n): (Vec<i32>, usize) = (input.list("x"), input.list::<i32>("x").len());
    let e = Extent::of(&x).shift16();
    let mut z: Vec<i32> = x.iter().map(|x| x16(*x, e)).collect();
    z.resize(n.next_multiple_of(32), 0);
    z.chunks_mut(input.one("B")).for_each(|block| kernels::hadamard(Kernel::Scalar, block));
    let (rho, base) = if input.has("norm_eps") {
        let (es, sum) = sum_of_squares(&x, e);
        let s_prime = regularised(sum, es, input.word("norm_eps").parse().expect("norm_eps"));
        let (rho, kk) = inverse_rms(s_prime, n as u32);
        (rho, e - es - kk as i32)
    } else {
        (RHO_ONE, e - 14 - input.one::<i32>("R"))
    };
    let cut = choose_cut(Extent::of(&z), rho, base);
    let codes: Vec<i8> = z.iter().map(|z| code(*z, &cut)).collect();
    Out::default().one("e", e).list("z", &z).one("k", cut.step.k).one("f", cut.step.f).list("codes", &codes)
}

fn relu(input: &Fields) -> Result<Out, RangeError> {
    let g: Vec<i32> = input.list("g");
    let mut a = vec![0; g.len()];
    ffn::hidden(Kernel::Scalar, Activation::Relu, &g, None, input.one("F"), &[], &mut a)?;
    Ok(Out::default().list("a", &a))
}

fn pooled(input: &Fields) -> Out {
    let pooling = if input.word("of") == "first" { Pooling::First } else { Pooling::Mean };
    Out::default().list("y", &pool(&input.list::<i32>("rows"), input.one("d_model"), pooling))
}

/// The matrix of fields with the prefix `p`.
pub(super) fn matrix(input: &Fields, p: &str) -> Linear {
    let cols: usize = input.one(&format!("{p}cols"));
    let (multipliers, shifts): (Vec<u8>, Vec<u8>) =
        (input.list(&format!("{p}m")), input.list(&format!("{p}s")));
    let count = multipliers.len();
    let int4 = input.has(&format!("{p}nibbles"));
    let low = format!("{p}low");
    let lows: Vec<u8> = if input.has(&low) {
        input.list::<i8>(&low).into_iter().map(|w| w as u8).collect()
    } else {
        Vec::new()
    };
    let cells: Vec<u8> = if int4 {
        input.list(&format!("{p}nibbles"))
    } else {
        input.list::<i8>(&format!("{p}w")).into_iter().map(|w| w as u8).collect()
    };
    assert_eq!(cells.len(), count * cols, "weights of {p}");
    let groups = if int4 { cols / GROUP_COLS } else { 0 };
    let ids: Vec<u16> = if int4 { input.list(&format!("{p}ids")) } else { Vec::new() };
    let bias: Vec<i32> =
        if input.has(&format!("{p}bias")) { input.list(&format!("{p}bias")) } else { Vec::new() };
    let rows = (0..count).map(|row| Row {
        cells: cells[row * cols..(row + 1) * cols].to_vec(),
        ids: ids[row * groups..(row + 1) * groups].to_vec(),
        multiplier: multipliers[row],
        shift: shifts[row],
        bias: bias.get(row).copied(),
        low: lows.get(row * cols..(row + 1) * cols).unwrap_or_default().to_vec(),
    });
    let plain = Plain {
        cols,
        format: match (int4, lows.is_empty()) {
            (true, _) => WeightFormat::Int4,
            (false, true) => WeightFormat::Int8,
            (false, false) => WeightFormat::Int16,
        },
        rows: rows.collect(),
        pre_shift: input.one(&format!("{p}s1")),
        out_frac: input.one(&format!("{p}F")),
    };
    plain.pack()
}

fn linear(input: &Fields) -> Result<Out, RangeError> {
    let weights = matrix(input, "");
    let tables: Vec<[i8; 16]> = if input.has("tables") {
        input.list::<i8>("tables").chunks(16).map(|table| table.try_into().expect("16 entries")).collect()
    } else {
        Vec::new()
    };
    let x: Vec<i8> = input.list("x");
    let step = Step { k: input.one("k"), f: input.one("f") };
    let compute = scalar();
    let mut acc = vec![0; weights.rows];
    let activations = Activations::new(&compute, &x, weights.cols);
    let all = 0..weights.rows;
    let out = if weights.format == WeightFormat::Int16 {
        Out::default()
    } else {
        kernels::accumulate(&activations, &weights, &tables, all, &mut acc, &mut Scratch::default());
        Out::default().list("acc", &acc)
    };
    let mut y = vec![0; weights.rows];
    kernels::linear(&compute, &weights, &tables, &x, &[step], &mut y)?;
    if input.has("bound") {
        within(Extent::of(&y).magnitude().into(), input.one("bound"), "linear")?;
    }
    Ok(out.list("y", &y))
}

fn embed(input: &Fields) -> Result<Out, RangeError> {
    let residual = input.one("R");
    let convert = |codes: &str, frac: i32| -> Result<Vec<i32>, RangeError> {
        input.list(codes).into_iter().map(|code| embedded(code, frac, residual)).collect()
    };
    let mut x = convert("codes", input.one("F"))?;
    if input.has("position_codes") {
        let positions = convert("position_codes", input.one("position_F"))?;
        x = x.into_iter().zip(positions).map(|(a, b)| residual_sum(a, b)).collect::<Result<_, _>>()?;
    }
    Ok(Out::default().list("x", &x))
}

fn residual_add(input: &Fields) -> Result<Out, RangeError> {
    let y: Vec<i32> = input.list("y");
    let sums = input.list("x").into_iter().zip(y).map(|(x, y)| residual_sum(x, y));
    Ok(Out::default().list("x", &sums.collect::<Result<Vec<i32>, _>>()?))
}

fn rope(input: &Fields) -> Out {
    let mut x: Vec<i32> = input.list("x");
    attention::rope(Kernel::Scalar, &mut x, &input.list::<i16>("cs"));
    Out::default().list("y", &x)
}

fn codes16(input: &Fields) -> Out {
    let x: Vec<i32> = input.list("x");
    let mut codes = vec![0i16; x.len()];
    let e = attention::head_codes16(Kernel::Scalar, &x, input.one("bound"), &mut codes);
    Out::default().one("e", e).list("codes", &codes)
}

fn codes8(input: &Fields) -> Out {
    let x: Vec<i32> = input.list("x");
    let mut codes = vec![0i8; x.len()];
    let e = attention::head_codes8(Kernel::Scalar, &x, &mut codes);
    Out::default().one("step", e).list("codes", &codes)
}

/// One query head that sees the positions from `first` (0) on.
struct Head {
    kv: HeadKv,
    codes: Vec<i16>,
    exponents: Vec<u8>,
    slopes: Vec<Slope>,
    visible: Range<usize>,
    frac: i32,
    dim: usize,
    exp2: Vec<u16>,
}

impl Head {
    fn new(input: &Fields, tables: &Tables, count: usize, dim: usize) -> Head {
        let first = if input.has("first") { input.one("first") } else { 0 };
        Head {
            kv: HeadKv::default(),
            codes: vec![0; dim],
            exponents: vec![0],
            slopes: Vec::new(),
            visible: first..first + count,
            frac: 0,
            dim,
            exp2: tables.exp2.clone(),
        }
    }

    fn layer(&self) -> Layer<'_> {
        Layer { dim: self.dim, score_frac: self.frac, exp2: &self.exp2, cap: None }
    }

    fn query(&self) -> Query<'_> {
        Query {
            codes: &self.codes,
            exponents: &self.exponents,
            slopes: &self.slopes,
            kv: &self.kv,
            visible: self.visible.clone(),
            position: self.visible.end - 1,
        }
    }
}

/// `values` of the visible positions, with zeros for those before them.
fn from_first<T: Clone + Default>(head: &Head, values: Vec<T>, width: usize) -> Vec<T> {
    [vec![T::default(); head.visible.start * width], values].concat()
}

fn scores(input: &Fields, tables: &Tables) -> Result<Out, RangeError> {
    let (q, e_k): (Vec<i16>, Vec<u8>) = (input.list("q"), input.list("e_k"));
    let mut head = Head::new(input, tables, e_k.len(), q.len());
    head.kv.k = from_first(&head, input.list("keys"), q.len());
    head.kv.k_exponents = from_first(&head, e_k, 1);
    (head.codes, head.exponents, head.frac) = (q, vec![input.one("e_q")], input.one("F"));
    if input.has("slope") {
        let slope: Vec<u16> = input.list("slope");
        head.slopes = vec![Slope { a: slope[0], b: slope[1] as u8 }];
    }
    let mut unit = Unit::default();
    unit.score(Kernel::Scalar, &head.layer(), &head.query())?;
    Ok(Out::default().list("t", &unit.t))
}

fn softmax(input: &Fields, tables: &Tables) -> Out {
    let mut unit = Unit::default();
    unit.t = input.list("t");
    let mut head = Head::new(input, tables, unit.t.len(), 1);
    head.kv.v_steps = from_first(&head, input.list("step_v"), 1);
    head.kv.v = vec![0; head.visible.end];
    let (layer, query) = (head.layer(), head.query());
    unit.measure(Kernel::Scalar, &query);
    unit.sum(Kernel::Scalar, &layer, &query);
    unit.weigh(Kernel::Scalar, &layer, &query);
    let out = Out::default().one("m", unit.stats[0]).one("Z", unit.stats[1]).one("E", unit.stats[2]);
    out.list("d", &unit.d).list("p'", &unit.t)
}

fn attention_output(input: &Fields, tables: &Tables) -> Result<Out, RangeError> {
    let (p, v): (Vec<i32>, Vec<i8>) = (input.list("p'"), input.list("values"));
    let dim = v.len() / p.len();
    let mut head = Head::new(input, tables, p.len(), dim);
    let (z, e): (i32, i32) = (input.one("Z"), input.one("E"));
    head.kv.v = from_first(&head, v, dim);
    let mut unit = Unit::default();
    (unit.t, unit.stats) = (p, vec![0, z, e]);
    let (layer, query) = (head.layer(), head.query());
    // The weights have the steps of the values in them.
    unit.accumulate(Kernel::Scalar, &layer, &query);
    let mut y = vec![0; dim];
    unit.finish(Kernel::Scalar, &layer, &query, &mut y)?;
    Ok(Out::default().list("o", unit.total(dim, &query, 0)).list("y", &y))
}

fn plain(input: &Fields, tables: &Tables) -> Result<Out, RangeError> {
    activated(input, tables, "a", None)
}

fn gated(input: &Fields, tables: &Tables) -> Result<Out, RangeError> {
    activated(input, tables, "h", Some(&input.list::<i32>("u")))
}

fn activated(input: &Fields, tables: &Tables, key: &str, u: Option<&[i32]>) -> Result<Out, RangeError> {
    let g: Vec<i32> = input.list("g");
    let mut h = vec![0; g.len()];
    let (kind, frac) = (Activation::Table, input.one("F"));
    ffn::hidden(Kernel::Scalar, kind, &g, u, frac, &tables.activation, &mut h)?;
    Ok(Out::default().list(key, &h))
}

fn hadamard(input: &Fields) -> Out {
    let mut z: Vec<i32> = input.list("h");
    z.chunks_mut(input.one("B")).for_each(|block| kernels::hadamard(Kernel::Scalar, block));
    Out::default().list("z", &z)
}

fn draw_op(input: &Fields) -> Out {
    let seed = Digest::from_hex(input.word("seed")).expect("64 hexadecimal digits");
    Out::default().text("draw", &draw(&seed, input.one("position")).to_string())
}

fn sample_op(input: &Fields, tables: &Tables) -> Out {
    let logits: Vec<i32> = input.list("l");
    let parameters = Parameters {
        temperature_q16: input.one("temperature_q16"),
        top_k: input.one("top_k"),
        top_p_q16: input.one("top_p_q16"),
        ..Parameters::greedy(1)
    };
    let (frac, word) = (input.one("F"), input.word("draw").parse().expect("64 bits"));
    let token = sample::sample(&logits, frac, &parameters, word, &tables.exp2_sample);
    if parameters.temperature_q16 < lockstep_base::params::TEMPERATURE_GREEDY_BELOW_Q16 {
        return Out::default().one("token", token);
    }
    let w: Vec<u32> =
        sample::weights(&logits, frac, parameters.temperature_q16, &tables.exp2_sample).collect();
    let kept = sample::kept(&logits, frac, &parameters, &tables.exp2_sample);
    let tokens: Vec<u32> = kept.iter().map(|(_, token)| *token).collect();
    let out = Out::default().list("w", &w).list("kept", &tokens);
    out.one("Z", sample::mass(&kept) as i64).one("token", token)
}
