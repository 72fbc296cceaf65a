//! What an auditor of the circuit tried (proofs.md, 3 and 4): shapes that are filled up, identities that could wrap, tables that a bundle may hold.

mod cbor;
mod claimed;
mod files;
mod keys;
mod operators;
mod pruned;
mod satisfied;
mod subjects;
mod unread;

use crate::decoder::{answered, config};
use crate::harness::{Base, Case};
use lockstep_base::Digest;
use lockstep_base::config::{Activation, ModelConfig};
use lockstep_base::weights::{Gain, ModelWeights, Slope, WeightFormat};
use lockstep_proof::argument::Witness;
use lockstep_proof::circuit::Linear;
use lockstep_proof::decoder::statement::{Answer, Statement};
use lockstep_proof::error::PlanError;
use lockstep_proof::field::{Quintic, centred, residue};
use lockstep_proof::gadget::norm::Norm;
use lockstep_proof::gadget::quantise::Extent;
use lockstep_proof::gadget::{Builder, Built, Lie, whole};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::synthetic;
use satisfied::Checker;
use std::sync::Arc;

const ROOT: Digest = Digest([7; 32]);

/// The largest logit behind each of the last `generated` tokens but one, as the runtime has it.
fn largest_logits(weights: &Arc<ModelWeights>, tokens: &[u32], generated: usize) -> Vec<i64> {
    let engine = Engine::new(weights.clone(), Arc::new(crate::support::compute()));
    (tokens.len() - generated..tokens.len())
        .map(|end| {
            let mut cache = engine.new_cache();
            let mut x = engine.embed(&tokens[..end], 0, &mut Silent).expect("tokens");
            engine.layers(&mut x, &mut cache, &mut Silent).expect("in range");
            let last = &x[x.len() - engine.width()..];
            let logits = engine.logits(last, &[end - 1], &mut Silent).expect("in range");
            logits.iter().copied().max().expect("a vocabulary").into()
        })
        .collect()
}

/// proofs.md, 3: filling decides nothing. Whatever is no power of two (heads of a group, groups, channels, the hidden width, the stream, positions), the circuit has the
/// runtime's very logits.
#[test]
fn filling_decides_nothing() {
    let shapes = [
        ModelConfig { n_heads: 6, n_kv_heads: 2, ..config(0) },
        ModelConfig { n_heads: 3, n_kv_heads: 1, n_layers: 1, ..config(1) },
        ModelConfig { n_heads: 3, n_kv_heads: 3, head_dim: 10, rope_dim: 4, ..config(0) },
        ModelConfig {
            n_heads: 7,
            n_kv_heads: 1,
            head_dim: 4,
            rope_dim: 4,
            d_ffn: 65,
            d_model: 33,
            ..config(2)
        },
        ModelConfig { n_heads: 5, n_kv_heads: 1, head_dim: 2, rope_dim: 2, d_ffn: 1, ..config(0) },
    ];
    for (kind, shape) in shapes.iter().enumerate() {
        for seed in 0..if kind < 2 { 24 } else { 4 } {
            let weights = Arc::new(synthetic::model(shape, WeightFormat::Int8, seed));
            let tokens = answered(&weights, seed, 10, 2);
            let answer = Answer::greedy(&weights, ROOT, &tokens, 2);
            let case = Case::answered(answer, None, None);
            // In limbs or not; candidates that fill up have 0, which is the offset of the limbs.
            let limb = |name: &str| {
                let found = (0..case.witness.columns.len()).find(|column| case.name(*column) == name);
                found.map(|column| {
                    case.witness.columns[column].iter().map(|x| centred(*x)).collect::<Vec<i64>>()
                })
            };
            let low = limb("head: logits output").or_else(|| limb("head: logits output[0]")).expect("a head");
            let high = limb("head: logits output[1]").unwrap_or_else(|| vec![0; low.len()]);
            let logits: Vec<i64> = low.iter().zip(&high).map(|(low, high)| low + (high << 16)).collect();
            let vocab = shape.vocab as usize;
            assert!(!vocab.is_power_of_two(), "shape {kind}");
            let top = |row: &[i64]| row[..vocab].iter().max().expect("a logit") - row[vocab];
            let ours: Vec<i64> = logits.chunks(vocab.next_power_of_two()).map(top).collect();
            assert_eq!(ours, largest_logits(&weights, &tokens, 2), "shape {kind}, seed {seed}");
            if seed == 0 {
                let broken = Checker::new(&case.argument.circuit).violated(&case.witness);
                assert_eq!(broken, [], "shape {kind}, seed {seed}");
                assert_eq!(case.check(&case.witness), Ok(()), "shape {kind}");
            }
        }
    }
}

/// Columns of a witness by name.
struct Hand<'a> {
    built: &'a Built<'a, Base>,
    witness: Witness<Base>,
}

impl Hand<'_> {
    fn set(&mut self, name: &str, value: i64) {
        let column = self.built.circuit.columns.iter().position(|column| column.name == name);
        self.witness.columns[column.unwrap_or_else(|| panic!("no column {name}"))][0] = residue(value);
    }

    fn digits(&mut self, name: &str, value: i128, count: usize) -> Vec<i128> {
        let digits = digits(value, count);
        for (i, digit) in digits.iter().enumerate() {
            self.set(&format!("{name} digit {i}[0]"), *digit as i64);
        }
        digits
    }

    /// The carries of positions that add up to 0.
    fn carries(&mut self, name: &str, positions: &[i128]) {
        let mut carry = 0;
        for (i, position) in positions[..positions.len() - 1].iter().enumerate() {
            assert_eq!((carry + position) % 1024, 0, "{name} {i}");
            carry = (carry + position) >> 10;
            self.set(&format!("{name} carry {i}"), carry as i64);
            let shifted = carry as i64 + (1 << 16);
            self.set(&format!("{name} carry {i}[0]"), shifted & 0xffff);
            self.set(&format!("{name} carry {i}[1]"), shifted >> 16);
        }
        assert_eq!(carry + positions[positions.len() - 1], 0, "{name}");
    }
}

/// Base 2^10, of a number that has no more.
fn digits(value: i128, count: usize) -> Vec<i128> {
    assert!((0..1 << (10 * count)).contains(&value), "{value}");
    (0..count).map(|i| value >> (10 * i) & 1023).collect()
}

/// The product of two numbers, digit by digit.
fn times(a: &[i128], b: &[i128], positions: usize) -> Vec<i128> {
    let mut out = vec![0; positions];
    a.iter().enumerate().for_each(|(i, a)| b.iter().enumerate().for_each(|(j, b)| out[i + j] += a * b));
    out
}

/// proofs.md, 3, norm: powers of four have no second meaning. 257 * 4^26 has 61 bits; cut to six digits it is 4^26, as if n were 1, and the norm would be wrong by the root of 257.
#[test]
fn no_power_of_a_norm_is_cut_to_its_digits() {
    let norm = Norm { width: 257, eps: 0 };
    let mut builder = Builder::<Base>::proving(16, None);
    builder.scope("test".into());
    let x = |at: usize| if at == 0 { 20_000 } else { 10_000 * i64::from(at < 257) };
    let x = Linear::view(whole(builder.commit("x", 9, (0..512).map(x).collect()), 9));
    let sixteen = builder.sixteen("x", (&[(&x, 9)], i64::MAX), 0, Extent::Any, Some(norm.rounds()));
    let (_, base) = builder.norm("norm", &sixteen, norm);
    // e = 0, a remainder of 5 bits, kk = 22.
    assert_eq!(builder.integers(&base, 0), [-27]);
    let built = builder.finish();
    let witness = built.witness.clone().expect("a prover's");
    let checker = Checker::new(&built.circuit);
    assert_eq!(checker.violated(&witness), []);

    // 625 and 313 are the largest and the others in 11 bits.
    let sum: i128 = 625 * 625 + 256 * 313 * 313;
    let power: i128 = (257 << 52) & ((1 << 60) - 1);
    assert_eq!(power, 1 << 52);
    let rho = (power as u128 / sum as u128).isqrt() as i128;
    let below = power - rho * rho * sum;
    let above = (2 * rho + 1) * sum - 1 - below;
    let mut hand = Hand { built: &built, witness };
    hand.set("test: norm kk", 26);
    hand.set("test: norm rho[0]", rho as i64 - (1 << 13));
    let product = digits(power, 6);
    product.iter().enumerate().for_each(|(i, x)| hand.set(&format!("test: norm power.{}", i + 1), *x as i64));
    let square = hand.digits("test: norm rho squared", rho * rho, 3);
    let odd = hand.digits("test: norm odd", 2 * rho + 1, 2);
    let below = hand.digits("test: norm below", below, 5);
    let above = hand.digits("test: norm above", above, 5);
    let sum = digits(sum, 3);
    let mut at_most = times(&square, &sum, 6);
    at_most.iter_mut().zip(&product).for_each(|(out, x)| *out = x - *out);
    at_most.iter_mut().zip(&below).for_each(|(out, x)| *out -= x);
    hand.carries("test: norm at most", &at_most);
    let mut above_all = times(&odd, &sum, 5);
    above_all.iter_mut().zip(below.iter().zip(&above)).for_each(|(out, (a, b))| *out -= a + b);
    above_all[0] -= 1;
    hand.carries("test: norm above all", &above_all);
    let broken: Vec<String> =
        checker.violated(&hand.witness).into_iter().map(|item| checker.describe(item)).collect();
    assert_eq!(broken.len(), 1, "{broken:?}");
    assert!(broken[0].contains("norm kk"), "{broken:?}");
}

/// proofs.md, 4, rotation: a bundle's angles may be up to 1 each; those that are not near the unit circle, where `2^14 a'` could differ by p from `a c - b s`, are refused.
#[test]
fn angles_off_the_circle_are_refused() {
    // What would be accepted: 65,534 of 2^14 each, and 130,048 less.
    let rotated = |by| {
        let mut builder = Builder::<Base>::proving(16, (by != 0).then_some(Lie { value: 1, at: 1, by }));
        let x = Linear::view(whole(builder.commit("x", 1, vec![32_767, 32_767]), 1));
        let one = Linear::constant(residue(1 << 14));
        let rotated = builder.rotate("rotated", 1, &x, (&one, &one));
        let rotated = builder.integers(&rotated, 1);
        let built = builder.finish();
        let witness = built.witness.as_ref().expect("a prover's");
        (rotated, Checker::new(&built.circuit).violated(witness))
    };
    assert_eq!(rotated(0), (vec![0, 65_534], vec![]));
    assert_eq!(rotated(-130_048), (vec![0, -64_514], vec![]));

    let mut weights = synthetic::model(&config(0), WeightFormat::Int8, 1);
    let refused = |weights: &ModelWeights| {
        let answer = Answer::greedy(weights, ROOT, &[1, 2, 3], 1);
        Statement::<Quintic>::new(answer).err()
    };
    assert_eq!(refused(&weights), None);
    for angle in [[16_384, 16_384], [-12_289, 12_288], [8_193, -16_384]] {
        weights.tables.rope[0][6..8].copy_from_slice(&angle);
        let error = refused(&weights).expect("off the circle");
        assert!(matches!(error, PlanError::CouldWrap { what: "|cosine| + |sine|", .. }), "{error}");
    }
}

/// proofs.md, 3: channels that fill a plain block up have the activation of 0, so it must be 0.
#[test]
fn an_activation_of_zero_that_is_not_zero_is_refused() {
    for (kind, activation, refused) in
        [(1, Activation::Table, true), (1, Activation::Relu, false), (0, Activation::Table, false)]
    {
        let config = ModelConfig { activation, ..config(kind) };
        let mut weights = synthetic::model(&config, WeightFormat::Int8, 1);
        weights.tables.activation[4096] = 1;
        let answer = Answer::greedy(&weights, ROOT, &[1, 2, 3], 1);
        assert_eq!(Statement::<Quintic>::new(answer).is_err(), refused, "kind {kind}, {activation:?}");
    }
}

/// proofs.md, 1: the model, not a part of it, and not one with something that the circuit does not read.
#[test]
fn parts_of_a_model_are_refused() {
    let weights = synthetic::model(&config(1), WeightFormat::Int8, 1);
    let refused = |change: &dyn Fn(&mut ModelWeights)| {
        let mut weights = weights.clone();
        change(&mut weights);
        let answer = Answer::greedy(&weights, ROOT, &[1, 2, 3], 1);
        Statement::<Quintic>::new(answer).is_err()
    };
    let gain = || Some(Gain::default());
    assert!(!refused(&|_| {}));
    assert!(refused(&|weights| weights.embed = None), "no embedding");
    assert!(refused(&|weights| weights.positions = None), "no positions");
    assert!(refused(&|weights| weights.head = None), "no head");
    assert!(refused(&|weights| weights.layers.truncate(1)), "a layer less");
    assert!(refused(&|weights| weights.first_layer = 1), "later layers");
    assert!(refused(&|weights| weights.embed_norm = gain()), "a norm behind the embedding");
    assert!(refused(&|weights| weights.tables.alibi = vec![Slope::default(); 4]), "slopes");
    assert!(refused(&|weights| weights.layers[1].q_norm = gain()), "a norm of queries");
    assert!(refused(&|weights| weights.layers[0].ffn_post = gain()), "a norm behind a sublayer");
    assert!(
        refused(&|weights| {
            let dense = weights.layers[0].ffn.dense_mut().expect("a dense block");
            dense.gate = Some(dense.up.clone());
        }),
        "a gate"
    );
}

/// proofs.md, 5: what is too large is refused before anything of its size is written out.
#[test]
fn too_many_logits_are_refused_at_once() {
    let mut weights = synthetic::model(&config(1), WeightFormat::Int8, 1);
    weights.config.vocab = 1 << 22;
    let tokens = [1; 33];
    let answer = Answer::greedy(&weights, ROOT, &tokens, 32);
    assert!(Statement::<Quintic>::new(answer).is_ok());
    let answer = Answer { generated: 31, ..answer };
    assert!(Statement::<Quintic>::new(answer).is_ok());
    weights.config.vocab += 1;
    let answer = Answer::greedy(&weights, ROOT, &tokens, 32);
    let (got, limit) = (1 << 28, 1 << 27);
    assert_eq!(Statement::<Quintic>::new(answer).err(), Some(PlanError::TooLarge { got, limit }));
}
