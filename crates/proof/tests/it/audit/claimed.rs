//! What a file claims of its answer (file.rs): drawn tokens, vectors of encoders, answers with an adapter, with the model and with its key.

use super::ROOT;
use super::subjects::{Kind, Subject, encoders, matrices, samplers};
use lockstep_base::Digest;
use lockstep_proof::decoder::statement::Sampling;
use lockstep_proof::file::make::{Order, make};
use lockstep_proof::file::{AnswerFile, Claimed, FileError};
use lockstep_proof::key::Key;

/// The file of a subject, as it is read again.
fn file_of(subject: &Subject, key: Option<&Key>) -> AnswerFile {
    let answer = subject.answer();
    let ends = [answer.weights.config.n_layers as usize];
    let order = Order { answer, ends: &ends, between: &[], sample: None, key, kept: None };
    let file = make(&order, &mut |_, _, _| {}).expect("a file");
    let read = AnswerFile::from_bytes(&file.to_bytes()).expect("our own file");
    assert_eq!(read, file);
    read
}

/// The key of a subject's answers.
fn key_of(subject: &Subject) -> Key {
    let answer = subject.answer();
    let ends = [answer.weights.config.n_layers as usize];
    match answer.adapter {
        Some(adapter) => Key::adapted(answer.weights, adapter, ROOT, &ends),
        None => Key::new(answer.weights, ROOT, &ends),
    }
    .expect("a key")
}

fn kinds() -> Vec<Kind> {
    [&samplers()[..4], &encoders(), &matrices()[..1]].concat()
}

/// file.rs: a file of any claim holds with the model and with the key; no other claim, seed, vector or adapter does, nor another key.
#[test]
fn every_claim_has_a_file() {
    for kind in kinds() {
        let subject = kind.small().answered(5, 4, 2);
        let answer = subject.answer();
        let key = key_of(&subject);
        let other = key_of(&kind.small().answered(6, 4, 2));
        for key in [None, Some(&key)] {
            let verify = |file: &AnswerFile| match key {
                None => file.verify_adapted(answer.weights, ROOT, answer.adapter),
                Some(key) => file.verify_with_key(key),
            };
            let file = file_of(&subject, key);
            let name = kind.name;
            assert_eq!(verify(&file), Ok(()), "{name}");
            for claimed in others(&file.claimed) {
                let lying = AnswerFile { claimed, ..file.clone() };
                let read = AnswerFile::from_bytes(&lying.to_bytes());
                assert!(read.is_err() || verify(&lying).is_err(), "{name}: {:?}", lying.claimed);
                assert_ne!(lying.commitment(), file.commitment(), "{name}: {:?}", lying.claimed);
            }
            let strange = Some(Digest([9; 32]));
            let got = file.adapter.map_or(strange, |_| None);
            let lying = AnswerFile { adapter: got, ..file.clone() };
            let expected = answer.adapter.map(|adapter| adapter.root);
            assert_eq!(verify(&lying), Err(FileError::Adapter { got, expected }), "{name}");
            assert_ne!(lying.commitment(), file.commitment(), "{name}");
            assert!(file.verify_with_key(&other).is_err(), "{name}: another key");
        }
    }
}

/// Claims that are not this one.
fn others(claimed: &Claimed) -> Vec<Claimed> {
    match claimed {
        Claimed::Greedy => {
            let seed = Digest([1; 32]);
            let sampling = Sampling { temperature_q16: 1 << 16, top_k: 0, top_p_q16: 1 << 16, seed };
            vec![Claimed::Sampled(sampling), Claimed::Pooled(vec![0; 8])]
        }
        Claimed::Sampled(sampling) => vec![
            Claimed::Greedy,
            Claimed::Pooled(vec![]),
            Claimed::Sampled(Sampling { seed: Digest([1; 32]), ..*sampling }),
            Claimed::Sampled(Sampling { temperature_q16: sampling.temperature_q16 - 1, ..*sampling }),
            Claimed::Sampled(Sampling { top_k: sampling.top_k + 1, ..*sampling }),
            Claimed::Sampled(Sampling { top_p_q16: sampling.top_p_q16 - 1, ..*sampling }),
        ],
        Claimed::Pooled(vector) => {
            let off = |at: usize, by: i32| {
                let mut vector = vector.clone();
                vector[at] += by;
                Claimed::Pooled(vector)
            };
            let last = vector.len() - 1;
            let short = Claimed::Pooled(vector[..last].to_vec());
            vec![Claimed::Greedy, short, off(0, 1), off(last, -1), off(last / 2, i32::MAX / 2)]
        }
    }
}
