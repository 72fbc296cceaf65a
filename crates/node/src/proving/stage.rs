//! A node proves what its stage computed: the border of the mesh to the protocol of proofs (docs/spec/proofs.md, 1).

use super::gib_at_most;
use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::part::Part;
use lockstep_base::weights::ModelWeights;
use lockstep_mesh::compute::{ComputeError, StageProver};
use lockstep_mesh::message::{Open, Prove};
use lockstep_mesh::rows::StageRows;
use lockstep_proof::decoder::plan::Plan;
use lockstep_proof::decoder::statement::{Answer, Claim};
use lockstep_proof::decoder::{Stage, boundary, prove_stage, weights};
use lockstep_proof::error::PlanError;
use lockstep_proof::field::Quintic;
use std::path::PathBuf;
use std::sync::Arc;

/// The commitment to rows of a model of this width.
#[must_use]
pub fn commit(width: usize, rows: &[i32]) -> Digest {
    Digest(boundary::commit::<Quintic>(rows, width, rows.len() / width).root())
}

/// Proves the part of a model that a node serves.
#[derive(Debug)]
pub struct PartProver {
    weights: Arc<ModelWeights>,
    root: Digest,
    part: Part,
    adapters: Vec<Arc<AdapterWeights>>,
    kept: Option<PathBuf>,
    gib_max: f64,
}

impl PartProver {
    /// For the `part` of the model with this root, and the adapters that it is served under. Encoded weights of keys lie in the folder `kept`, where there is one. What may need
    /// more than `gib_max` is refused: whoever asks chooses how long an answer is.
    ///
    /// # Errors
    /// If the part has no proofs.
    pub fn new(
        weights: Arc<ModelWeights>,
        root: Digest,
        part: Part,
        adapters: Vec<Arc<AdapterWeights>>,
        kept: Option<PathBuf>,
        gib_max: f64,
    ) -> Result<PartProver, PlanError> {
        Plan::new(&weights, None, 1, part.first_layer as usize..part.end_layer as usize)?;
        Ok(PartProver { weights, root, part, adapters, kept, gib_max })
    }

    fn width(&self) -> usize {
        self.weights.config.d_model as usize
    }
}

impl StageProver for PartProver {
    fn commit(&self, rows: &[i32]) -> Digest {
        commit(self.width(), rows)
    }

    fn prove(&self, open: &Open, rows: &StageRows, prove: &Prove) -> Result<Vec<u8>, ComputeError> {
        let refused = |text: String| Err(ComputeError::Input(text));
        if prove.parameters.digest() != open.parameters_digest {
            return refused("other parameters than those of the task".into());
        }
        let adapter = self.adapters.iter().find(|adapter| adapter.root == open.adapter);
        let answer = Answer {
            weights: &self.weights,
            root: self.root,
            tokens: &prove.tokens,
            generated: prove.generated as usize,
            claim: Claim::of(&prove.parameters, open.sampler_seed),
            adapter: adapter.map(AsRef::as_ref),
        };
        let (positions, width) = (answer.positions(), self.width());
        for (there, rows) in [(!self.part.embed, &rows.entering), (!self.part.head, &rows.leaving)] {
            let expected = if there { positions * width } else { 0 };
            if positions == 0 || rows.len() != expected {
                let got = rows.len() / width;
                return refused(format!("{got} positions of the task, expected those of {positions} tokens"));
            }
        }
        let committed = |there: bool, rows| there.then(|| boundary::commit(rows, width, positions));
        let entering = committed(!self.part.embed, &rows.entering);
        let leaving = committed(!self.part.head, &rows.leaving);
        let layers = self.part.first_layer as usize..self.part.end_layer as usize;
        let gib =
            gib_at_most(&answer, layers.clone()).map_err(|error| ComputeError::Input(error.to_string()))?;
        if gib > self.gib_max {
            let limit = self.gib_max;
            return refused(format!("a proof that may take {gib:.1} GiB here, expected at most {limit}"));
        }
        let held = match prove.weights {
            None => None,
            Some(root) => {
                let held = match &self.kept {
                    Some(folder) => weights::kept(&answer, layers.clone(), &root.0, folder),
                    None => weights::commit(&answer, layers.clone()).map_err(Into::into),
                };
                let held = held.map_err(|error| ComputeError::Input(error.to_string()))?;
                if held.root() != root.0 {
                    let got = Digest(held.root());
                    return refused(format!("the weights here have the commitment {got}, expected {root}"));
                }
                Some(held)
            }
        };
        let stage = Stage {
            layers,
            entering: entering.as_ref().map(|committed| (&rows.entering[..], committed)),
            leaving: leaving.as_ref(),
            weights: held.as_ref(),
        };
        let proof = prove_stage(&answer, &stage, &mut |_| {});
        proof.map(|proof| proof.body().to_vec()).map_err(|error| ComputeError::Input(error.to_string()))
    }
}
