//! What each fuzz target does with its bytes.
//!
//! The claim is the same everywhere: bytes from outside give a value or an error, never a panic, an
//! overflow, a hang or more memory than a small multiple of the input. Where there is one encoding, what
//! is accepted must encode to the bytes that were read.

mod answer;

pub use answer::{answer_file, answer_key, keyed_answer, proved_answer};
use lockstep_base::cbor;
use lockstep_base::config::ModelConfig;
use lockstep_base::manifest::{self, Entry, EntryKind};
use lockstep_base::net::{Net, Shape};
use lockstep_base::part::Part;
use lockstep_base::receipt::{SignedReceipt, WireReceipt, state_root};
use lockstep_base::receipt_file::ReceiptFile;
use lockstep_base::{Digest, merkle};
use lockstep_mesh::data::Data;
use lockstep_mesh::frame::{Channel, FrameDecoder, Kind};
use lockstep_mesh::inbound::Inbound;
use lockstep_mesh::message::Message;
use lockstep_mesh::swarm::directory::{Directory, Limits};
use lockstep_mesh::swarm::{Announcement, Coverage, Holding};
use lockstep_model::bundle::{Bundle, HEADER_BYTES, MAGIC, Placed, VERSION};
use lockstep_model::chat::{self, ChatOptions, ChatTemplate};
use lockstep_model::net::{self, InputFormat, quantise};
use lockstep_model::onnx::{Prepare, import};
use lockstep_model::source;
use lockstep_model::tokenizer::{Tokenizer, TokenizerKind};
use lockstep_proof::proof::Proof;
use lockstep_runtime::kernels::{Compute, Kernel};
use lockstep_runtime::observe::Silent;
use lockstep_runtime::pool::Pool;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A receipt file, and everything that is asked of one without a model.
pub fn receipt_file(data: &[u8]) {
    let Ok(file) = ReceiptFile::from_bytes(data) else { return };
    assert_eq!(file.to_bytes(), data, "one encoding");
    let parts: Vec<Part> = file.stages.iter().map(|stage| stage.part).collect();
    let _ = Part::check_route(&parts, parts.last().map_or(0, |part| part.end_layer));
    let _ = file.parameters.digest();
    for stage in &file.stages {
        // A receipt costs a signature check of some ten microseconds: a few tell as much as many.
        let _ = stage.receipts.iter().take(4).map(SignedReceipt::signer).count();
        for signed in &stage.receipts {
            let wire = signed.to_wire();
            assert_eq!(WireReceipt::from_bytes(&wire.to_bytes()).as_ref(), Ok(&wire));
            let _ = (signed.receipt.end_token(), signed.receipt.closing());
        }
        for leaf in stage.served.iter().flat_map(|span| &span.leaves) {
            let _ = leaf.index().map(|index| index.place.to_string());
        }
    }
}

/// A receipt in wire form.
pub fn wire_receipt(data: &[u8]) {
    let Ok(wire) = WireReceipt::from_bytes(data) else { return };
    assert_eq!(wire.to_bytes().as_slice(), data, "one encoding");
    let hash = state_root(&wire.out_root, &wire.state_root);
    let _ = wire.signature.recover(&hash);
}

/// A stream of frames as a peer sends it, in pieces; the first byte chooses channel and pieces.
pub fn frames(data: &[u8]) {
    let Some((choice, stream)) = data.split_first() else { return };
    let channel = Channel::ALL[usize::from(choice & 1)];
    let piece = usize::from(choice >> 1) * 16 + 1;

    let mut decoder = FrameDecoder::new(channel);
    let mut inbound = Inbound::new(channel);
    let (mut read, mut broken) = (Vec::new(), false);
    for bytes in stream.chunks(piece) {
        inbound.push(bytes);
        while let Ok(Some(_)) = inbound.next_incoming() {}
        if broken {
            continue;
        }
        decoder.push(bytes);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    read.extend_from_slice(&frame.to_bytes());
                    match frame.kind {
                        Kind::Control => drop(Message::from_bytes(&frame.payload)),
                        Kind::Tokens | Kind::Activations | Kind::Truncate => {
                            if let Ok(data) = Data::from_frame(&frame) {
                                assert_eq!(data.to_frame(), frame, "one encoding");
                            }
                        }
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
    }
    assert!(stream.starts_with(&read), "frames are the bytes that were read");
    let _ = (inbound.finish(), decoder.finish());
}

/// One control message.
pub fn messages(data: &[u8]) {
    if let Ok(message) = Message::from_bytes(data) {
        assert_eq!(message.to_bytes(), data, "one encoding");
        let _ = (message.task(), message.name());
    }
}

/// An announcement of a node, and what a directory makes of it.
pub fn announcement(data: &[u8]) {
    let mut directory = Directory::new(Limits::default());
    let heard = directory.hear(0, data);
    let Ok(announcement) = Announcement::parse(data) else {
        assert!(heard.is_err() && directory.is_empty());
        return;
    };
    assert_eq!(announcement.bytes(), data, "one encoding");
    assert!(heard.is_ok() && directory.hear(0, data).is_err(), "heard once");
    let _ = Coverage::of(300, Holding::of(announcement.claims()).into_iter()).holes();
    assert_eq!(directory.tick(u64::MAX).len(), 1, "every lease ends");
}

/// A bundle: as it is, then with the hashes put right that the fuzzer cannot guess.
pub fn bundle(data: &[u8]) {
    open_bundle(data.to_vec());
    if let Some(mended) = mend_bundle(data) {
        open_bundle(mended);
    }
}

fn open_bundle(bytes: Vec<u8>) {
    let Ok(bundle) = Bundle::from_bytes(bytes) else { return };
    let layers = bundle.config().n_layers;
    let _ = bundle.load(&Part::whole(layers));
    let _ = bundle.verify_all(&mut |_, _, _| {});
    let _ = (bundle.tokenizer(), bundle.chat_template());
}

/// Puts header, roots of blobs and model root right, so that what is behind them is reached. Rows of
/// tensors are checked for structure before they are hashed.
fn mend_bundle(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.to_vec();
    let header = bytes.get_mut(..HEADER_BYTES)?;
    header[..8].copy_from_slice(MAGIC.as_bytes());
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].fill(0);
    header[24..32].copy_from_slice(&(data.len() as u64).to_le_bytes());
    let manifest_bytes = usize::try_from(u64::from_le_bytes(header[16..24].try_into().ok()?)).ok()?;
    let end = HEADER_BYTES.checked_add(manifest_bytes)?;
    let mut placed: Vec<Placed> = cbor::decode("manifest", bytes.get(HEADER_BYTES..end)?).ok()?;
    for Placed { entry, offset } in &mut placed {
        let range = *offset as usize..offset.checked_add(entry.bytes)? as usize;
        if let (EntryKind::Blob, Some(content)) = (&entry.kind, data.get(range)) {
            entry.root = manifest::blob_root(content);
        }
    }
    let entries: Vec<Entry> = placed.iter().map(|placed| placed.entry.clone()).collect();
    let root = manifest::model_root(&entries).ok()?;
    bytes[HEADER_BYTES..end].copy_from_slice(&cbor::encode(&placed));
    bytes[32..HEADER_BYTES].copy_from_slice(&root.0);
    Some(bytes)
}

/// A folder of this process, for readers that take a path; in memory where there is such a place.
fn folder() -> PathBuf {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let memory = || tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    FOLDER.get_or_init(|| memory().expect("a folder for files")).path().to_owned()
}

/// A llama2.c checkpoint.
pub fn llama2c(data: &[u8]) {
    let path = folder().join("model.bin");
    std::fs::write(&path, data).expect("a file can be written");
    let _ = source::open_weights(&path);
}

/// A GGUF file: its weights, then its vocabulary and a text under it.
pub fn gguf(data: &[u8]) {
    let path = folder().join("model.gguf");
    std::fs::write(&path, data).expect("a file can be written");
    let Ok(gguf) = source::gguf::Gguf::open(&path) else { return };
    for tensor in gguf.tensors() {
        assert!(tensor.start + tensor.bytes <= data.len() as u64, "tensors lie inside the file");
    }
    let _ = (gguf.model(), gguf.chat_template());
    let Ok(Some(tokenizer)) = gguf.tokenizer() else { return };
    if let Ok(tokens) = tokenizer.encode("Once 1234 <s>\u{e9}", tokenizer.bos().is_some()) {
        assert!(tokens.iter().all(|token| (*token as usize) < tokenizer.vocab_size()));
        let _ = tokenizer.decode(&tokens);
    }
}

/// A Hugging Face folder: `config.json`, a zero byte, `model.safetensors`.
pub fn safetensors(data: &[u8]) {
    let Some(cut) = data.iter().position(|byte| *byte == 0) else { return };
    let folder = folder();
    std::fs::write(folder.join("config.json"), &data[..cut]).expect("a file can be written");
    std::fs::write(folder.join("model.safetensors"), &data[cut + 1..]).expect("a file can be written");
    let _ = source::open_weights(&folder);
}

/// A tokenizer's file (its kind chosen by the first byte), then a text and tokens under it.
pub fn tokenizer(data: &[u8]) {
    let Some((choice, file)) = data.split_first() else { return };
    let kind = TokenizerKind::ALL[usize::from(*choice) % TokenizerKind::ALL.len()];
    let _ = Tokenizer::detect(file, 512);
    let Ok(tokenizer) = Tokenizer::from_bytes(kind, file) else { return };
    let text = String::from_utf8_lossy(&file[..file.len().min(64)]).into_owned();
    if let Ok(tokens) = tokenizer.encode(&text, true) {
        let size = tokenizer.vocab_size() as u32;
        assert!(tokens.iter().all(|token| *token < size), "tokens are below the vocabulary's size");
        let _ = tokenizer.decode(&tokens);
        let mut stream = tokenizer.decode_stream();
        for token in tokens.into_iter().chain([0, size, u32::MAX]) {
            let _ = stream.push(token);
        }
        let _ = stream.finish();
    }
}

/// A chat template, rendered for a short conversation.
pub fn chat_template(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(template) = ChatTemplate::new(source) else { return };
    let messages = [chat::Message::new("user", "Hello"), chat::Message::new("assistant", "<s>")];
    let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
    let _ = template.render(&messages, &options);
}

/// Elements of all values of a network that a target still runs: a fuzzer makes many small ones.
const NET_ELEMENTS_RUN: usize = 1 << 14;

/// An ONNX file; what is imported is quantised, and what is then accepted runs without a range error.
pub fn onnx(data: &[u8]) {
    let Ok(float) = import("fuzz", data, &Prepare::NONE) else { return };
    let elements: usize = float.shapes().iter().map(Shape::elements).sum();
    if elements > NET_ELEMENTS_RUN {
        return;
    }
    float.output(&vec![1.0; float.shapes()[0].elements()]).expect("an input of the right size");
    if let Ok(net) = quantise(&float, InputFormat::BYTES) {
        run_net(&net);
        let file = net::write(&net);
        assert_eq!(net::read(&file, Some(&net.root())).expect("a file that was written").root(), net.root());
    }
}

/// The file of an integer network.
pub fn net(data: &[u8]) {
    let Ok(net) = net::read(data, None) else { return };
    assert_eq!(net::write(&net), data, "one encoding");
    run_net(&net);
}

/// The bounds of an accepted network are proved: it runs.
fn run_net(net: &Net) {
    if net.values().iter().map(|value| value.shape.elements()).sum::<usize>() > NET_ELEMENTS_RUN {
        return;
    }
    let compute = Compute { kernel: Kernel::Scalar, pool: Pool::new(1) };
    let input = net.graph().input;
    for value in [input.low, input.high] {
        let example = vec![value; input.shape.elements()];
        lockstep_runtime::net::run(&compute, net, &example, &mut Silent).expect("bounds are proved");
    }
}

/// A small network, proved: what is true of it, and what is not.
pub struct Proved {
    net: Net,
    honest: Proof,
    /// What the network gives for the flower, and an output that is off by one.
    outputs: [Vec<i32>; 2],
}

/// An Iris in tenths of a centimetre.
const FLOWER: [i32; 4] = [59, 30, 51, 18];

impl Proved {
    /// The Iris network (4-20-20-3 with ReLU) on one flower.
    ///
    /// # Panics
    /// If our own file is no network, or cannot be proved.
    #[must_use]
    pub fn iris() -> Proved {
        const FILE: &[u8] = include_bytes!("../../models/iris/iris-mlp.onnx");
        let float = import("iris-mlp", FILE, &Prepare { scale: 0.1, ..Prepare::NONE }).expect("our own file");
        let net = quantise(&float, InputFormat { frac: 0, low: 0, high: 100 }).expect("a network");
        let compute = Compute { kernel: Kernel::Scalar, pool: Pool::new(1) };
        let (output, honest) = lockstep_proof::net::prove(&compute, &net, &FLOWER).expect("a proof");
        let mut wrong = output.clone();
        wrong[0] += 1;
        Proved { net, honest, outputs: [output, wrong] }
    }

    /// The proof as a file.
    #[must_use]
    pub fn file(&self) -> &[u8] {
        self.honest.as_bytes()
    }

    /// Checks a file for both statements.
    ///
    /// # Panics
    /// If it proves the false one; or the true one in other bytes than the prover's, since no byte of a proof is free.
    pub fn check(&self, file: &[u8]) {
        let Ok(proof) = Proof::from_bytes(file.to_vec()) else { return };
        assert_eq!(proof.as_bytes(), file, "one encoding");
        let proved =
            |output: &Vec<i32>| lockstep_proof::net::verify(&self.net, &FLOWER, output, &proof).is_ok();
        let [right, wrong] = self.outputs.each_ref().map(proved);
        assert!(!wrong, "a false statement was proved");
        assert!(right == (proof == self.honest), "the honest proof, and no other bytes");
    }
}

/// A proof for a fixed statement.
pub fn proof(data: &[u8]) {
    static PROVED: OnceLock<Proved> = OnceLock::new();
    PROVED.get_or_init(Proved::iris).check(data);
}

/// What [`mend_bundle`] makes of a bundle that needs no mending: the same bytes. (Called by the seeds.)
///
/// # Panics
/// If the bundle changes or does not open: then the target would be testing nothing.
pub fn check_mending(bytes: &[u8]) {
    assert_eq!(mend_bundle(bytes).as_deref(), Some(bytes), "a whole bundle is left as it is");
    let bundle = Bundle::from_bytes(bytes.to_vec()).expect("a whole bundle opens");
    bundle.load(&Part::whole(bundle.config().n_layers)).expect("a whole bundle loads");
    let config: ModelConfig = bundle.config().clone();
    config.validate().expect("its configuration is valid");
    assert_ne!(bundle.model_root(), Digest::ZERO);
    assert_ne!(bundle.model_root(), merkle::empty_root());
}
