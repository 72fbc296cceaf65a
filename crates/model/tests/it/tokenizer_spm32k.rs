//! The scored BPE on the real Llama 2 vocabulary (32,000 pieces) against llama.cpp's 47 vectors.
//!
//! The vocabulary lies in a GGUF file. The few lines below read its metadata and write it as a llama2.c `tokenizer.bin`,
//! which is what the reader under test reads.

use std::collections::HashMap;
use std::fs;

use lockstep_model::tokenizer::{Tokenizer, TokenizerKind};

use crate::source_data::data;

struct Gguf<'a>(&'a [u8]);

impl<'a> Gguf<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> usize {
        u64::from_le_bytes(self.take(8).try_into().unwrap()) as usize
    }

    fn string(&mut self) -> &'a [u8] {
        let len = self.u64();
        self.take(len)
    }

    /// The raw bytes of every element; a scalar is an array of one.
    fn value(&mut self, kind: u32) -> Vec<&'a [u8]> {
        match kind {
            0 | 1 | 7 => vec![self.take(1)],
            2 | 3 => vec![self.take(2)],
            4..=6 => vec![self.take(4)],
            10..=12 => vec![self.take(8)],
            8 => vec![self.string()],
            9 => {
                let (kind, len) = (self.u32(), self.u64());
                (0..len).flat_map(|_| self.value(kind)).collect()
            }
            other => panic!("GGUF type {other}"),
        }
    }
}

fn metadata(file: &[u8]) -> HashMap<String, Vec<&[u8]>> {
    let mut gguf = Gguf(file);
    assert_eq!(gguf.take(4), b"GGUF");
    let (_version, _tensors, entries) = (gguf.u32(), gguf.u64(), gguf.u64());
    let mut entry = || {
        let key = String::from_utf8(gguf.string().to_vec()).unwrap();
        let kind = gguf.u32();
        (key, gguf.value(kind))
    };
    (0..entries).map(|_| entry()).collect()
}

fn as_llama2c(metadata: &HashMap<String, Vec<&[u8]>>) -> Vec<u8> {
    let (tokens, scores) = (&metadata["tokenizer.ggml.tokens"], &metadata["tokenizer.ggml.scores"]);
    let mut file = 256i32.to_le_bytes().to_vec();
    for (token, score) in tokens.iter().zip(scores) {
        let piece = String::from_utf8(token.to_vec()).unwrap().replace('\u{2581}', " ");
        file.extend_from_slice(score);
        file.extend((piece.len() as i32).to_le_bytes());
        file.extend(piece.bytes());
    }
    file
}

#[test]
fn the_llama_2_vocabulary_agrees_with_all_47_vectors_of_llama_cpp() {
    let Some(folder) = data("tokenizer-gguf") else { return };
    let gguf = fs::read(folder.join("ggml-vocab-llama-spm.gguf")).unwrap();
    let file = as_llama2c(&metadata(&gguf));
    let tokenizer = Tokenizer::from_bytes(TokenizerKind::Llama2c, &file).unwrap();
    assert_eq!(tokenizer.vocab_size(), 32_000);
    let texts = fs::read_to_string(folder.join("ggml-vocab-llama-spm.gguf.inp")).unwrap();
    let ids = fs::read_to_string(folder.join("ggml-vocab-llama-spm.gguf.out")).unwrap();
    let pairs: Vec<_> = texts.split("\n__ggml_vocab_test__\n").zip(ids.split('\n')).collect();
    assert_eq!(pairs.len(), 47);
    for (text, ids) in pairs {
        let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids), text);
    }
}
