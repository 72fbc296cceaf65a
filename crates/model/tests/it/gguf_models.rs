//! GGUF models: floats as the `gguf` package makes them, logits as llama.cpp computes them, and a comparison that notices what
//! could go wrong. `fixtures/make_gguf.py` made the numbers.

use std::fs;

use lockstep_model::source::gguf::{Gguf, TensorType};
use lockstep_model::source::{self, FloatModel, HeadKind, Matrix, Positions, RopeScaling, SourceError};

use crate::gguf_file::{Description, File, Meta, type_id};
use crate::source_data::fixture;

/// Between our logits and llama.cpp's in F32; logits have a standard deviation of 0.3 to 4.
const TOLERANCE: f32 = 1e-4;
/// The same where the activation is GELU: ggml looks it up in a table of f16 (`GGML_GELU_FP16`), which is off by up to 5e-4
/// of the value in every feed-forward block.
const TOLERANCE_GELU: f32 = 2e-2;
const MODELS: [&str; 12] = [
    "llama",
    "llama-quantised",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "gemma",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "bloom",
];

fn open(file: &File) -> Result<FloatModel, SourceError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, file.bytes()).unwrap();
    source::open_weights(&path)
}

fn tolerance(model: &FloatModel) -> f32 {
    if model.config.activation == source::Act::GeluTanh { TOLERANCE_GELU } else { TOLERANCE }
}

fn difference(model: &FloatModel, description: &Description) -> f32 {
    let got = model.logits_all(&description.tokens).unwrap();
    assert_eq!(got.len(), description.logits.len());
    let pairs = got.iter().flatten().zip(description.logits.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn bits(bytes: &str) -> Vec<u8> {
    lockstep_base::digest::unhex(bytes).unwrap()
}

#[test]
fn every_element_type_becomes_the_floats_that_ggml_defines() {
    let text = fs::read_to_string(fixture("gguf/blocks.txt")).unwrap();
    let mut seen = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let [name, block, floats] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let kind = TensorType::from_id(type_id(name)).unwrap();
        let mut got = Vec::new();
        kind.dequantise(&bits(block), &mut got);
        let expected: Vec<u32> =
            bits(floats).chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let got: Vec<u32> = got.into_iter().map(f32::to_bits).collect();
        assert_eq!(got, expected, "{name}");
        seen.push(kind);
    }
    assert!(TensorType::all().all(|kind| seen.contains(&kind)), "{seen:?}");
}

#[test]
fn logits_equal_those_of_llama_cpp() {
    for name in MODELS {
        let description = Description::read(name);
        let model = open(&description.file()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let got = difference(&model, &description);
        eprintln!("{name}: {got}");
        assert!(got < tolerance(&model), "{name}: {got}");
    }
}

#[test]
fn metadata_becomes_the_config() {
    let config = |name: &str| open(&Description::read(name).file()).unwrap().config;
    let llama = config("llama");
    let Positions::Rope(rope) = &llama.positions else { panic!("rope") };
    assert!(
        matches!(&rope.scaling, RopeScaling::LongRope { short, long, .. } if short == long && short.len() == 4)
    );
    assert_eq!((llama.n_layers, llama.head_dim, llama.context, llama.head), (2, 8, 64, HeadKind::Own));
    assert_eq!(config("qwen2").head, HeadKind::Tied);
    let gemma3 = config("gemma3");
    let windowed: Vec<bool> = gemma3.windows.iter().map(Option::is_some).collect();
    assert_eq!(windowed, [true, true, true, true, true, false, true]);
    assert_eq!(gemma3.local_rope.unwrap().theta, 10_000.0);
    let mixtral = config("mixtral").experts.unwrap();
    assert_eq!((mixtral.count, mixtral.per_token, mixtral.normalise, mixtral.hidden), (4, 2, true, 24));
    let mut old = Description::read("qwen2").file();
    old.version = 2;
    old.set("qwen2.rope.scale_linear", Meta::F32(4.0));
    let Positions::Rope(rope) = open(&old).unwrap().config.positions else { panic!("rope") };
    assert_eq!(rope.scaling, RopeScaling::Linear { factor: 4.0 });
}

/// Rows of one head exchanged between the order of halves and that of neighbours.
fn in_halves(matrix: &Matrix, head_dim: usize) -> Matrix {
    matrix.with_row_order(|row| {
        let (head, place) = (row / head_dim, row % head_dim);
        head * head_dim + (place % (head_dim / 2)) * 2 + place / (head_dim / 2)
    })
}

#[test]
fn the_comparison_notices_each_mutation() {
    type Mutation = fn(&mut FloatModel);
    let mutations: [(&str, &str, Mutation); 14] = [
        ("llama", "q and k rows reordered", |m| {
            let head_dim = m.config.head_dim;
            for layer in &mut m.layers {
                layer.q.weight = in_halves(&layer.q.weight, head_dim);
                layer.k.weight = in_halves(&layer.k.weight, head_dim);
            }
        }),
        ("llama", "rope_freqs dropped", |m| {
            let Positions::Rope(rope) = &mut m.config.positions else { panic!("rope") };
            rope.scaling = RopeScaling::None;
        }),
        ("qwen2", "k bias dropped", |m| {
            m.layers[1].k.bias.as_mut().unwrap().fill(0.0);
        }),
        ("qwen2", "q bias not reordered", |m| m.layers[0].q.bias.as_mut().unwrap().swap(1, 2)),
        ("qwen3", "q norm not reordered", |m| m.layers[0].q_norm.as_mut().unwrap().swap(1, 2)),
        ("mixtral", "experts exchanged", |m| {
            let source::Ffn::Experts { experts, .. } = &mut m.layers[0].ffn else { panic!("experts") };
            experts.swap(0, 1);
        }),
        ("qwen3moe", "weights of experts not divided by their sum", |m| {
            m.config.experts.as_mut().unwrap().normalise = false;
        }),
        ("gemma", "embedding not scaled", |m| m.config.embed_scale = 1.0),
        ("gemma2", "soft cap of scores dropped", |m| m.config.attn_softcap = None),
        ("gemma2", "windows on the other layers", |m| m.config.windows.rotate_left(1)),
        ("gemma3", "local rotation dropped", |m| m.config.local_rope = None),
        ("phi3", "gain of the rotation dropped", |m| {
            let layer = &mut m.layers[0];
            layer.q.weight =
                layer.q.weight.map_rows("q", |row| row.iter_mut().for_each(|x| *x /= 1.25)).unwrap();
        }),
        ("gpt2", "q and k exchanged", |m| {
            let layer = &mut m.layers[0];
            std::mem::swap(&mut layer.q, &mut layer.k);
            layer.q.bias.as_mut().unwrap()[0] += 1.0;
        }),
        ("bloom", "norm of the embedding dropped", |m| m.embed = m.head.clone().unwrap()),
    ];
    for (name, what, mutate) in mutations {
        let description = Description::read(name);
        let mut model = open(&description.file()).unwrap();
        mutate(&mut model);
        let got = difference(&model, &description);
        assert!(got > 10.0 * tolerance(&model), "{name}, {what}: only {got}");
    }
}

/// Expert tensors one by one, as files before March 2024 have them, make the same model.
#[test]
fn experts_of_old_files_are_read() {
    let description = Description::read("mixtral");
    let mut file = description.file();
    let stacked = std::mem::take(&mut file.tensors);
    for tensor in stacked {
        let Some(part) = tensor.name.strip_suffix("_exps.weight") else {
            file.tensors.push(tensor);
            continue;
        };
        for (expert, data) in tensor.data.chunks(tensor.data.len() / 4).enumerate() {
            let mut one = tensor.clone();
            one.name = format!("{part}.{expert}.weight");
            one.dims.truncate(2);
            one.data = data.to_vec();
            file.tensors.push(one);
        }
    }
    assert!(difference(&open(&file).unwrap(), &description) < TOLERANCE);
}

#[test]
fn a_file_that_asks_for_something_else_is_refused_by_name() {
    type Edit = fn(&mut File);
    let edits: [(&str, &str, Edit); 15] = [
        ("llama", "mamba", |f| {
            f.set("general.architecture", Meta::text("mamba"));
        }),
        ("llama", "general.architecture", |f| {
            f.remove("general.architecture");
        }),
        ("llama", "split model", |f| {
            f.set("split.count", Meta::U32(3));
        }),
        ("llama", "general.type", |f| {
            f.set("general.type", Meta::text("adapter"));
        }),
        ("llama", "yarn", |f| {
            f.tensors.retain(|tensor| tensor.name != "rope_freqs.weight");
            f.set("llama.rope.scaling.type", Meta::text("yarn"));
        }),
        ("llama", "llama.block_count", |f| {
            f.remove("llama.block_count");
        }),
        ("llama", "n_layers", |f| {
            f.set("llama.block_count", Meta::U32(u32::MAX));
        }),
        ("llama", "llama.block_count", |f| {
            f.set("llama.block_count", Meta::text("two"));
        }),
        ("llama", "blk.2.attn_q", |f| {
            f.set("llama.block_count", Meta::U32(3));
        }),
        ("llama", "blk.1.", |f| {
            f.set("llama.block_count", Meta::U32(1));
        }),
        ("llama", "llama.logit_scale", |f| {
            f.set("llama.logit_scale", Meta::F32(0.5));
        }),
        ("qwen2", "qwen2.attention.sliding_window", |f| {
            f.set("qwen2.attention.sliding_window", Meta::U32(8));
        }),
        ("qwen2", "blk.1.attn_k.bias", |f| f.tensors.retain(|tensor| tensor.name != "blk.1.attn_k.bias")),
        ("qwen3", "value_length", |f| {
            f.set("qwen3.attention.value_length", Meta::U32(8));
        }),
        ("gpt2", "position_embd.weight", |f| {
            f.set("gpt2.context_length", Meta::U32(65));
        }),
    ];
    for (name, expected, edit) in edits {
        let mut file = Description::read(name).file();
        edit(&mut file);
        let text = open(&file).unwrap_err().to_string();
        assert!(text.contains(expected), "{name}: {text:?} does not name {expected:?}");
    }
}

#[test]
fn tensors_are_found_by_name_and_shape() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, Description::read("mixtral").file().bytes()).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.version(), 3);
    let info = gguf.tensors().find(|tensor| tensor.name == "blk.0.ffn_up_exps.weight").unwrap();
    assert_eq!((info.shape.as_slice(), info.kind.name()), (&[4, 24, 32][..], "F32"));
    let all = gguf.stacked(&info.name, (3, 4), 24, 32).unwrap();
    assert_eq!((all.rows(), all.cols()), (24, 32));
    assert!(matches!(gguf.stacked(&info.name, (4, 4), 24, 32), Err(SourceError::OutOfRange { .. })));
    assert!(matches!(gguf.matrix("output.weight", 32, 64), Err(SourceError::Shape { .. })));
    assert!(matches!(gguf.vector("ghost", 3), Err(SourceError::MissingTensor { .. })));
}
