//! Writes the seeds: valid inputs from which the fuzzer starts, made by the crates themselves or read
//! from test fixtures. `cargo run --release --example seeds -- CORPUS`, one folder a target.

use lockstep_base::digest::unhex;
use lockstep_base::weights::WeightFormat;
use lockstep_model::bundle::{self, Contents, TokenizerSection};
use lockstep_model::tokenizer::{Tokenizer, TokenizerKind};
use lockstep_model::{net, onnx};
use lockstep_runtime::synthetic;
use std::error::Error;
use std::path::{Path, PathBuf};

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let corpus = PathBuf::from(std::env::args().nth(1).ok_or("usage: seeds CORPUS")?);
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    receipts(&corpus, &crates)?;
    frames(&corpus, &crates)?;
    announcements(&corpus, &crates)?;
    bundles(&corpus)?;
    llama2c(&corpus)?;
    gguf(&corpus)?;
    hugging_face(&corpus, &crates)?;
    tokenizers(&corpus, &crates)?;
    chat_templates(&corpus)?;
    networks(&corpus, &crates)?;
    proofs(&corpus)?;
    answers(&corpus)
}

fn write(corpus: &Path, target: &str, name: &str, bytes: &[u8]) -> Done {
    let folder = corpus.join(target);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(format!("seed-{name}")), bytes)?;
    println!("{target}: seed-{name}, {} bytes", bytes.len());
    Ok(())
}

/// The golden announcements.
fn announcements(corpus: &Path, crates: &Path) -> Done {
    let text = std::fs::read_to_string(crates.join("mesh/tests/it/golden/swarm.txt"))?;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, bytes) = line.split_once(' ').ok_or("a line without bytes")?;
        write(corpus, "announcement", name, &unhex(bytes).ok_or("not hexadecimal")?)?;
    }
    Ok(())
}

/// The results of the lines `function … = result` of a golden file.
fn golden(path: &Path, function: &str) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let text = std::fs::read_to_string(path)?;
    let lines = text.lines().filter(|line| line.starts_with(&format!("{function} ")));
    let results = lines.filter_map(|line| line.split_once(" = ")).map(|(_, result)| unhex(result));
    Ok(results.collect::<Option<Vec<_>>>().ok_or("a golden line is not hexadecimal")?)
}

fn receipts(corpus: &Path, crates: &Path) -> Done {
    let folder = crates.join("base/tests/it/golden");
    let file = golden(&folder.join("receipt_file.txt"), "file")?.concat();
    lockstep_base::receipt_file::ReceiptFile::from_bytes(&file)?;
    write(corpus, "receipt_file", "golden", &file)?;
    for (i, wire) in golden(&folder.join("receipts.txt"), "wire")?.iter().enumerate() {
        write(corpus, "wire_receipt", &i.to_string(), wire)?;
    }
    Ok(())
}

/// Frames of the protocol's golden files: `name header payload +padding`.
fn frames(corpus: &Path, crates: &Path) -> Done {
    for (file, channel) in [("messages", 0), ("data", 1)] {
        let path = crates.join("mesh/tests/it/golden").join(format!("{file}.txt"));
        let text = std::fs::read_to_string(path)?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            let [name, header, payload, padding] = line.split(' ').collect::<Vec<_>>()[..] else {
                return Err(format!("{file}: {line:?} is not name, header, payload, padding").into());
            };
            let payload = unhex(payload).ok_or("a payload in hexadecimal")?;
            let mut stream = vec![channel | 0xfe];
            stream.extend(unhex(header).ok_or("a header in hexadecimal")?);
            stream.extend(&payload);
            stream.resize(stream.len() + padding.trim_start_matches('+').parse::<usize>()?, 0);
            let name = format!("{number}-{name}");
            write(corpus, "frames", &name, &stream)?;
            if channel == 0 {
                write(corpus, "messages", &name, &payload)?;
            }
        }
    }
    Ok(())
}

fn bundles(corpus: &Path) -> Done {
    let mut config = synthetic::small_config();
    (config.n_layers, config.context, config.vocab) = (1, 8, 5);
    let tokenizer =
        TokenizerSection { kind: TokenizerKind::Chars.as_str().into(), file: b"a\nb\nc\nd\ne\n".to_vec() };
    for (name, format) in [("int8", WeightFormat::Int8), ("int4", WeightFormat::Int4)] {
        let weights = synthetic::model(&config, format, 1);
        let template = Some("{{ messages[0].content }}");
        let bytes =
            bundle::write(&Contents { weights: &weights, tokenizer: &tokenizer, chat_template: template })?;
        lockstep_fuzz::check_mending(&bytes);
        write(corpus, "bundle", name, &bytes)?;
    }
    Ok(())
}

/// Both layouts of a checkpoint with one layer: dim 8, hidden 12, 2 heads, 1 kv head, 5 tokens, 4 positions.
fn llama2c(corpus: &Path) -> Done {
    let shape: [i32; 7] = [8, 12, 1, 2, 1, 5, 4];
    let layer = 8 + 8 * 8 + 2 * 8 * 4 + 8 * 8 + 8 + 3 * 8 * 12;
    let floats = 5 * 8 + layer + 8;
    let weights: Vec<u8> = (0..floats).flat_map(|i| ((i % 7) as f32 * 0.01 + 0.5).to_le_bytes()).collect();
    let words: Vec<u8> = shape.iter().flat_map(|word| word.to_le_bytes()).collect();
    let rope = vec![0; 2 * 4 * 2 * 4];
    let mut versioned = [b"24ka".as_slice(), &1i32.to_le_bytes(), &words, &[1]].concat();
    versioned.resize(256, 0);
    for (name, bytes) in
        [("legacy", [&words[..], &weights, &rope].concat()), ("v1", [versioned, weights].concat())]
    {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("model.bin");
        std::fs::write(&path, &bytes)?;
        lockstep_model::source::open_weights(&path)?;
        write(corpus, "llama2c", name, &bytes)?;
    }
    Ok(())
}

/// Entries and texts of a GGUF header.
#[derive(Default)]
struct GgufHeader {
    bytes: Vec<u8>,
    entries: u64,
}

impl GgufHeader {
    fn text(&mut self, text: &str) {
        self.bytes.extend((text.len() as u64).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn entry(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.text(key);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
        self.entries += 1;
    }

    fn string(&mut self, key: &str, value: &str) {
        self.entry(key, 8, &[]);
        self.text(value);
    }

    fn texts(&mut self, key: &str, texts: &[&str]) {
        self.entry(key, 9, &[&8u32.to_le_bytes()[..], &(texts.len() as u64).to_le_bytes()].concat());
        texts.iter().for_each(|text| self.text(text));
    }

    /// Numbers of four bytes, floats (6) or integers (5).
    fn words(&mut self, key: &str, kind: u32, words: &[[u8; 4]]) {
        let head = [&kind.to_le_bytes()[..], &(words.len() as u64).to_le_bytes(), &words.concat()].concat();
        self.entry(key, 9, &head);
    }
}

/// Two architectures of one layer: a Llama in Q8_0 with a scored vocabulary, a GPT-2 in F32 with merges.
fn gguf(corpus: &Path) -> Done {
    for name in ["llama", "gpt2"] {
        let llama = name == "llama";
        let mut header = GgufHeader::default();
        header.string("general.architecture", name);
        for (key, value) in [
            ("block_count", 1u32),
            ("embedding_length", 32),
            ("feed_forward_length", 32),
            ("attention.head_count", 4),
            ("context_length", 8),
        ] {
            header.entry(&format!("{name}.{key}"), 4, &value.to_le_bytes());
        }
        for key in ["layer_norm_rms_epsilon", "layer_norm_epsilon"] {
            header.entry(&format!("{name}.attention.{key}"), 6, &1e-5f32.to_le_bytes());
        }
        header.string("tokenizer.ggml.model", name);
        header.string("tokenizer.ggml.pre", "gpt-2");
        header.texts("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "a", "b", "ab", "\u{2581}"]);
        header.texts("tokenizer.ggml.merges", &["a b"]);
        header.words("tokenizer.ggml.token_type", 5, &[2, 3, 3, 1, 1, 1, 1].map(i32::to_le_bytes));
        header.words("tokenizer.ggml.scores", 6, &[0., 0., 0., -1., -2., -0.5, -3.].map(f32::to_le_bytes));
        header.entry("tokenizer.ggml.eos_token_id", 4, &2u32.to_le_bytes());
        header.string("tokenizer.chat_template", "{{ messages[0].content }}");
        let matrices: &[(&str, [u64; 2])] = match llama {
            true => {
                &[("attn_q", [32, 32]), ("attn_k", [32, 32]), ("attn_v", [32, 32]), ("ffn_gate", [32, 32])]
            }
            false => &[("attn_qkv", [32, 96])],
        };
        let both = [("attn_output", [32, 32]), ("ffn_up", [32, 32]), ("ffn_down", [32, 32])];
        let in_layer =
            matrices.iter().chain(&both).map(|(part, dims)| (format!("blk.0.{part}"), dims.to_vec()));
        let mut tensors: Vec<(String, Vec<u64>)> = vec![("token_embd".into(), vec![32, 7])];
        tensors.extend(in_layer);
        let mut vectors = vec!["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"];
        if !llama {
            tensors.push(("position_embd".into(), vec![32, 8]));
            vectors.extend(["blk.0.attn_norm.bias", "blk.0.ffn_norm.bias", "output_norm.bias"]);
        }
        let mut table = GgufHeader::default();
        let mut data = Vec::new();
        let count = tensors.len() + vectors.len();
        let named = tensors.into_iter().map(|(name, dims)| (format!("{name}.weight"), dims));
        for (name, dims) in named.chain(vectors.into_iter().map(|name| (name.to_owned(), vec![32]))) {
            let blocks = dims.iter().product::<u64>() / 32;
            let quantised = llama && dims.len() == 2;
            table.text(&name);
            table.bytes.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| table.bytes.extend(dim.to_le_bytes()));
            table.bytes.extend(if quantised { 8u32 } else { 0 }.to_le_bytes());
            table.bytes.extend((data.len() as u64).to_le_bytes());
            for _ in 0..blocks {
                match quantised {
                    true => data.extend([&[0, 0x24][..], &[3; 32]].concat()),
                    false => data.extend([0.5f32.to_le_bytes(); 32].concat()),
                }
            }
            data.resize(data.len().next_multiple_of(32), 0);
        }
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend((count as u64).to_le_bytes());
        file.extend(header.entries.to_le_bytes());
        file.extend([header.bytes, table.bytes].concat());
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(data);
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, &file)?;
        let gguf = lockstep_model::source::gguf::Gguf::open(&path)?;
        gguf.model()?;
        gguf.tokenizer()?.ok_or("a vocabulary")?;
        write(corpus, "gguf", name, &file)?;
    }
    Ok(())
}

fn hugging_face(corpus: &Path, crates: &Path) -> Done {
    for name in ["llama-gqa", "llama-bias-bf16"] {
        let folder = crates.join("model/tests/fixtures").join(name);
        let config = std::fs::read(folder.join("config.json"))?;
        let tensors = std::fs::read(folder.join("model.safetensors"))?;
        write(corpus, "safetensors", name, &[config, vec![0], tensors].concat())?;
    }
    Ok(())
}

fn tokenizers(corpus: &Path, crates: &Path) -> Done {
    let fixture = |name: &str| std::fs::read(crates.join("model/tests/fixtures").join(name));
    let json = br#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":0,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{"<s>":0,"a":1,"b":2,"ab":3},"merges":["a b"]}}"#;
    let scored: Vec<u8> = [("<unk>", 0f32), ("<s>", 0.), ("</s>", 0.), (" a", -1.), ("b", -2.)]
        .iter()
        .flat_map(|(text, score)| {
            [&score.to_le_bytes()[..], &(text.len() as i32).to_le_bytes(), text.as_bytes()].concat()
        })
        .collect();
    let files = [
        (TokenizerKind::HfJson, "json", json.to_vec()),
        (TokenizerKind::SentencePiece, "spm-bpe", fixture("spm-bpe.model")?),
        (TokenizerKind::SentencePiece, "spm-unigram", fixture("spm-unigram.model")?),
        (TokenizerKind::Llama2c, "llama2c", [5i32.to_le_bytes().to_vec(), scored].concat()),
        (TokenizerKind::Chars, "chars", b"a\nb\n\xc3\xa4\n".to_vec()),
    ];
    for (kind, name, file) in files {
        Tokenizer::from_bytes(kind, &file)?;
        let choice = TokenizerKind::ALL.iter().position(|other| *other == kind).ok_or("a known kind")?;
        write(corpus, "tokenizer", name, &[vec![choice as u8], file].concat())?;
    }
    Ok(())
}

fn chat_templates(corpus: &Path) -> Done {
    let chatml = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    let macros = "{% macro say(m) %}[{{ m.role|upper }}] {{ m.content.strip() }}{% endmacro %}{% set ns = namespace(n=0) %}{% for m in messages if m.role != 'system' %}{% set ns.n = ns.n + 1 %}{{ say(m) }}{% if loop.last %}{{ ns.n }}{% endif %}{% endfor %}{% if not messages %}{{ raise_exception('none') }}{% endif %}";
    write(corpus, "chat_template", "chatml", chatml.as_bytes())?;
    write(corpus, "chat_template", "macros", macros.as_bytes())
}

/// Small networks: the Iris models and a file with every supported op, and what they become.
fn networks(corpus: &Path, crates: &Path) -> Done {
    for (name, path) in [
        ("iris-ols", "../models/iris/iris-ols.onnx"),
        ("iris-mlp", "../models/iris/iris-mlp.onnx"),
        ("every-op", "model/tests/fixtures/every-op.onnx"),
    ] {
        let file = std::fs::read(crates.join(path))?;
        let float = onnx::import(name, &file, &onnx::Prepare::NONE)?;
        write(corpus, "onnx", name, &file)?;
        write(corpus, "net", name, &net::write(&net::quantise(&float, net::InputFormat::BYTES)?))?;
    }
    Ok(())
}

/// The proof that the target checks, and its beginning (behind the commitment, before the openings).
fn proofs(corpus: &Path) -> Done {
    let proved = lockstep_fuzz::Proved::iris();
    proved.check(proved.file());
    write(corpus, "proof", "iris-mlp", proved.file())?;
    write(corpus, "proof", "cut", &proved.file()[..proved.file().len() / 8])
}

/// The answer that the target knows, and its beginning.
fn answers(corpus: &Path) -> Done {
    let file = lockstep_fuzz::proved_answer().to_bytes();
    write(corpus, "answer_file", "honest", &file)?;
    write(corpus, "answer_file", "cut", &file[..file.len() / 8])?;
    let (key, file) = lockstep_fuzz::keyed_answer();
    write(corpus, "answer_file", "keyed", &file.to_bytes())?;
    write(corpus, "answer_key", "honest", &key.to_bytes())
}
