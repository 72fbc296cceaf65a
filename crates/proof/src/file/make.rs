//! Making a file: stage by stage, so that no more than one is in memory.

use super::{AnswerFile, FILE_TOKENS_MAX, Keyed, OpenedRow, Sample, StageProof};
use crate::argument::prove::Phase;
use crate::commitment::Committed;
use crate::decoder::statement::Answer;
use crate::decoder::{Stage, boundary, prove_stage, weights};
use crate::error::{PlanError, ProveError};
use crate::field::Quintic;
use crate::key::Key;
use alloc::vec::Vec;
use lockstep_base::merkle;
use lockstep_base::weights::{Embedding, ModelWeights};
use lockstep_runtime::pool::Heap;
use std::path::Path;

/// What is to be proved of an answer, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// The answer.
    pub answer: Answer<'a>,
    /// Where stages end: the last at the model's last layer.
    pub ends: &'a [usize],
    /// The rows between two stages, `(positions, d_model)`, one less than there are stages.
    pub between: &'a [Vec<i32>],
    /// Not all stages, but those that a beacon draws.
    pub sample: Option<Sample>,
    /// The key of verifiers who do not hold the model: its stages are those of `ends`.
    pub key: Option<&'a Key>,
    /// Where the encoded weights of that key are kept ([`Key::keeping`]); without it they are encoded again.
    pub kept: Option<&'a Path>,
}

/// What a maker is doing: which stage, of how many, and what with it.
pub type Watch<'a> = dyn FnMut(usize, usize, Phase) + 'a;

/// The file without its proofs: everything that is fixed before a beacon may be known ([`AnswerFile::commitment`]).
///
/// # Errors
/// If the stages are not the model's, or the rows not theirs.
pub fn outline(order: &Order<'_>) -> Result<AnswerFile, PlanError> {
    let Order { answer, ends, between, sample, key, .. } = order;
    let config = &answer.weights.config;
    let (width, positions) = (config.d_model as usize, answer.positions());
    let (got, generated, limit) = (answer.tokens.len(), answer.generated, FILE_TOKENS_MAX);
    if got > limit {
        return Err(PlanError::Tokens { got, generated, limit });
    }
    if ends.last() != Some(&(config.n_layers as usize)) {
        return Err(PlanError::Layers { first: 0, end: ends.last().copied().unwrap_or(0) });
    }
    let expected = ends.len() - 1;
    if between.len() != expected {
        return Err(PlanError::Boundaries { got: between.len(), expected });
    }
    if let Some(rows) = between.iter().find(|rows| rows.len() != width * positions) {
        return Err(PlanError::Entering { got: rows.len(), expected: width * positions });
    }
    let roots: Vec<_> = between.iter().map(|rows| commit(rows, width, positions).root()).collect();
    let stages = ends.iter().enumerate().map(|(stage, end)| StageProof {
        end: *end as u32,
        leaving: roots.get(stage).copied(),
        proof: None,
    });
    let mut file = AnswerFile {
        root: answer.root,
        tokens: answer.tokens.to_vec(),
        generated: answer.generated,
        claimed: answer.claim.into(),
        adapter: answer.adapter.map(|adapter| adapter.root),
        stages: stages.collect(),
        sample: *sample,
        keyed: None,
    };
    if let Some(key) = key {
        file.keyed = Some(Keyed { digest: key.digest(), tokens: Vec::new() });
    }
    Ok(file)
}

/// Proves an answer.
///
/// # Errors
/// If it is not the model's, or cannot be proved yet.
pub fn make(order: &Order<'_>, watch: &mut Watch<'_>) -> Result<AnswerFile, ProveError> {
    let Order { answer, ends, between, key, kept, .. } = order;
    let mut file = outline(order)?;
    // Every stage needs as much memory as the one before.
    let _heap = Heap::keep();
    let width = answer.weights.config.d_model as usize;
    let positions = answer.positions();
    let drawn = file.drawn();
    let (mut first, mut entering) = (0, None);
    for (number, end) in ends.iter().enumerate() {
        let layers = first..*end;
        first = *end;
        let leaving = between.get(number).map(|rows| commit(rows, width, positions));
        if drawn[number] {
            let rows = number.checked_sub(1).and_then(|before| between.get(before)).map(Vec::as_slice);
            let commit = |key: &Key| match kept {
                Some(folder) => weights::kept(answer, layers.clone(), &key.stages()[number].root, folder),
                None => Ok(weights::commit(answer, layers.clone())?),
            };
            let held = key.map(commit).transpose()?;
            let stage = Stage {
                layers,
                entering: rows.zip(entering.as_ref()),
                leaving: leaving.as_ref(),
                weights: held.as_ref(),
            };
            let proof = prove_stage(answer, &stage, &mut |phase| watch(number, ends.len(), phase))?;
            file.stages[number].proof = Some(proof);
        }
        entering = leaving;
    }
    file.open_rows(answer.weights);
    Ok(file)
}

impl AnswerFile {
    /// Puts the rows of the embedding that a verifier with a key needs into a file for one.
    pub fn open_rows(&mut self, weights: &ModelWeights) {
        let fed: Vec<usize> = self.fed().into_iter().map(|token| token as usize).collect();
        if let Some(keyed) = &mut self.keyed {
            keyed.tokens = weights.embed.as_ref().map_or(Vec::new(), |table| open(table, &fed));
        }
    }
}

fn commit(rows: &[i32], width: usize, positions: usize) -> Committed<Quintic> {
    boundary::commit(rows, width, positions)
}

/// Rows with their paths.
fn open(table: &Embedding, rows: &[usize]) -> Vec<OpenedRow> {
    let leaves: Vec<_> = (0..table.rows).map(|row| merkle::leaf(table.row_bytes(row))).collect();
    let row = |row: &usize| OpenedRow {
        codes: table.row_bytes(*row).to_vec(),
        path: merkle::path(&leaves, *row).unwrap_or_default(),
    };
    rows.iter().map(row).collect()
}
