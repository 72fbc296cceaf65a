//! The file of an answer: what is read is what was written, and every number of it is checked (`lockstep_proof::file`, proofs.md, 6).

use crate::decoder::{answered, config};
use lockstep_base::Digest;
use lockstep_base::config::ModelConfig;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{ModelWeights, WeightFormat};
use lockstep_proof::decoder::prove_watched;
use lockstep_proof::decoder::statement::Answer;
use lockstep_proof::error::VerifyError;
use lockstep_proof::file::{
    AnswerFile, FILE_BYTES_MAX, FILE_TOKENS_MAX, FileError, MAGIC, STAGES_MAX, Sample, StageProof, VERSION,
};
use lockstep_proof::proof::Proof;
use lockstep_runtime::synthetic;
use std::sync::{Arc, OnceLock};

const ROOT: Digest = Digest([3; 32]);
const GENERATED: usize = 2;

/// A model of one layer and its proved answer.
fn proved() -> &'static (Arc<ModelWeights>, AnswerFile) {
    static PROVED: OnceLock<(Arc<ModelWeights>, AnswerFile)> = OnceLock::new();
    PROVED.get_or_init(|| {
        let config = ModelConfig { n_layers: 1, vocab: 9, ..config(0) };
        let weights = Arc::new(synthetic::model(&config, WeightFormat::Int8, 5));
        let tokens = answered(&weights, 5, 3, GENERATED);
        let answer = Answer::greedy(&weights, ROOT, &tokens, GENERATED);
        let proof = prove_watched(&answer, &mut |_| {}).expect("it is proved");
        (weights, AnswerFile::whole(ROOT, tokens, GENERATED, 1, proof))
    })
}

/// A file without a proof in it.
fn empty() -> AnswerFile {
    AnswerFile::whole(Digest([0xab; 32]), vec![1, 0x0203_0405], 1, 3, Proof::new(b"x"))
}

/// The layout is the one in the module's head: a golden file in one line.
#[test]
fn the_layout_is_pinned() {
    let bytes = empty().to_bytes();
    let golden = [
        &b"LSPROOF\n\x06\x00\x86\x58\x20"[..],
        &[0xab; 32],
        b"\x82\x01\x1a\x02\x03\x04\x05\x01\x82\x00\x80\xf6\x81\x83\x03\xf6\x41x",
    ];
    assert_eq!(bytes, golden.concat());
    assert_eq!(AnswerFile::from_bytes(&bytes), Ok(empty()));
}

/// Each check of a number has its own error.
#[test]
fn every_field_is_checked() {
    let with = |at: usize, change: &[u8]| {
        let mut bytes = empty().to_bytes();
        bytes[at..at + change.len()].copy_from_slice(change);
        AnswerFile::from_bytes(&bytes).expect_err("a damaged field")
    };
    let of = |file: AnswerFile| AnswerFile::from_bytes(&file.to_bytes()).expect_err("a wrong number");
    assert_eq!(with(0, b"lockNET0"), FileError::Magic { got: b"lockNET0".to_vec() });
    assert_eq!(with(8, &[7, 1]), FileError::Version { got: 0x107 });
    assert!(matches!(with(10, &[0x87]), FileError::Cbor(_)));
    for got in [0, 1, FILE_TOKENS_MAX + 1] {
        assert_eq!(
            of(AnswerFile { tokens: vec![1; got], ..empty() }),
            FileError::Tokens { got, least: 2, limit: FILE_TOKENS_MAX }
        );
    }
    for got in [0, 2, u32::MAX] {
        let error = FileError::Generated { got, least: 1, limit: 1, tokens: 2 };
        assert_eq!(of(AnswerFile { generated: got as usize, ..empty() }), error);
    }
    let got = FILE_BYTES_MAX + 1;
    assert_eq!(AnswerFile::from_bytes(&vec![0; got]), Err(FileError::Size { got, limit: FILE_BYTES_MAX }));

    let stage =
        |end, leaving, proof: bool| StageProof { end, leaving, proof: proof.then(|| Proof::new(b"y")) };
    let root = Some([1; 32]);
    let staged = |stages: Vec<StageProof>, sample| of(AnswerFile { stages, sample, ..empty() });
    let wrong = |stage, stages, end| FileError::Stages { stage, stages, end };
    assert_eq!(staged(vec![], None), wrong(0, 0, 0));
    assert_eq!(staged(vec![stage(0, None, true)], None), wrong(0, 1, 0));
    assert_eq!(staged(vec![stage(1, root, true)], None), wrong(0, 1, 1));
    assert_eq!(staged(vec![stage(1, None, true), stage(2, None, true)], None), wrong(0, 2, 1));
    assert_eq!(staged(vec![stage(2, root, true), stage(2, None, true)], None), wrong(1, 2, 2));
    let many = (1..=STAGES_MAX as u32 + 1).map(|end| stage(end, root, true)).collect();
    assert_eq!(staged(many, None), wrong(0, STAGES_MAX + 1, 1));
    assert_eq!(staged(vec![stage(3, None, false)], None), FileError::Drawn { stage: 0, proved: false });
    let sample = |stages| Some(Sample { stages, beacon: Digest([5; 32]) });
    let two = || vec![stage(1, root, true), stage(2, None, true)];
    for got in [0, 2, 3] {
        assert_eq!(staged(two(), sample(got)), FileError::Sample { got, limit: 1 });
    }
    assert!(matches!(staged(two(), sample(1)), FileError::Drawn { proved: true, .. }));
}

/// There is one encoding: cut off anywhere, a file is refused or is another one; whatever is read writes the same bytes.
#[test]
fn what_is_read_is_what_is_written() {
    let bytes = empty().to_bytes();
    for end in 0..bytes.len() - 1 {
        let error = AnswerFile::from_bytes(&bytes[..end]).expect_err("an end in the head");
        let magic = matches!(error, FileError::Magic { .. });
        assert!(magic || matches!(error, FileError::Cbor(_)), "{end}: {error}");
    }
    let seed = 77;
    let mut rng = SplitMix64::new(seed);
    let mut read = 0;
    for case in 0..20_000 {
        let mut bytes = bytes.clone();
        for _ in 0..=rng.below(3) {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] = rng.below(256) as u8;
        }
        bytes.truncate(1 + rng.below(2 * bytes.len() as u64) as usize);
        if let Ok(file) = AnswerFile::from_bytes(&bytes) {
            read += 1;
            assert_eq!(file.to_bytes(), bytes, "seed {seed}, case {case}");
        }
    }
    assert!(read > 500, "only {read} read");
}

/// proofs.md, 1: the file alone, with the model, verifies; about another model, other tokens, or with another proof it does not.
#[test]
fn only_the_proved_answer_verifies() {
    let (weights, file) = proved();
    let read = AnswerFile::from_bytes(&file.to_bytes()).expect("our own file");
    assert_eq!((&read, read.prompt().len(), read.answer().len()), (file, 3, GENERATED));
    assert_eq!(read.verify(weights, ROOT), Ok(()));

    let other = Digest([4; 32]);
    assert_eq!(read.verify(weights, other), Err(FileError::Model { got: ROOT, expected: other }));
    let relabelled = AnswerFile { root: other, ..read.clone() };
    assert!(matches!(relabelled.verify(weights, other), Err(FileError::Refused { .. })));
    let swapped = synthetic::model(&weights.config, WeightFormat::Int8, 6);
    assert!(matches!(read.verify(&swapped, ROOT), Err(FileError::Refused { .. })));
    for at in 0..read.tokens.len() {
        let mut file = read.clone();
        file.tokens[at] = (file.tokens[at] + 1) % weights.config.vocab;
        assert!(matches!(file.verify(weights, ROOT), Err(FileError::Refused { .. })), "token {at}");
        file.tokens[at] = weights.config.vocab;
        let refused = file.verify(weights, ROOT).expect_err("no such token").to_string();
        assert!(refused.contains("expected one below 9"), "{refused}");
    }
    let claimed = AnswerFile { generated: 1, ..read.clone() };
    assert!(matches!(claimed.verify(weights, ROOT), Err(FileError::Refused { .. })), "a shorter answer");
}

/// Bytes of the proof: damaged, cut off, continued.
#[test]
fn damaged_files_are_refused() {
    let (weights, file) = proved();
    let bytes = file.to_bytes();
    let check = |bytes: &[u8]| AnswerFile::from_bytes(bytes).and_then(|file| file.verify(weights, ROOT));
    let seed = 78;
    let mut rng = SplitMix64::new(seed);
    for case in 0..60 {
        let mut damaged = bytes.clone();
        // Every third case in the head, which is small.
        let below = if case % 3 == 0 { 72 } else { bytes.len() as u64 };
        let at = rng.below(below) as usize;
        damaged[at] ^= 1 << rng.below(8);
        assert!(check(&damaged).is_err(), "seed {seed}, case {case}: byte {at} of {}", bytes.len());
        let end = rng.below(bytes.len() as u64) as usize;
        assert!(check(&bytes[..end]).is_err(), "seed {seed}, case {case}: cut off at {end}");
    }
    let continued = [&bytes[..], &[0]].concat();
    assert!(matches!(check(&continued), Err(FileError::Cbor(_))), "a byte behind the end");
    let mut longer = file.clone();
    longer.stages[0].proof =
        file.stages[0].proof.as_ref().map(|proof| Proof::new(&[proof.body(), &[0]].concat()));
    let error = VerifyError::TrailingBytes { got: 1 };
    assert_eq!(check(&longer.to_bytes()), Err(FileError::Refused { stage: 0, error }));
    assert_eq!((MAGIC.len(), VERSION), (8, 6));
}
