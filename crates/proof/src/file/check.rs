//! Verifying: with the model (tier A), or with its key (tier B).

use super::{AnswerFile, Claimed, FileError, Keyed, OpenedRow};
use crate::argument::Roots;
use crate::decoder::embedding::{Row, rows};
use crate::decoder::statement::Answer;
use crate::decoder::verify_stage;
use crate::error::VerifyError;
use crate::key::Key;
use crate::transcript::Hash;
use alloc::vec::Vec;
use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::weights::ModelWeights;

impl AnswerFile {
    /// Whether the file is about the model with root `root`.
    ///
    /// # Errors
    /// [`FileError::Model`] if not.
    pub fn check_model(&self, root: Digest) -> Result<(), FileError> {
        if self.root != root {
            return Err(FileError::Model { got: self.root, expected: root });
        }
        Ok(())
    }

    /// Whether the file is about this adapter, or about none.
    ///
    /// # Errors
    /// [`FileError::Adapter`] if not.
    pub fn check_adapter(&self, expected: Option<Digest>) -> Result<(), FileError> {
        if self.adapter != expected {
            return Err(FileError::Adapter { got: self.adapter, expected });
        }
        Ok(())
    }

    /// Checks that the model with root `root` gives this answer, with this adapter or with none: all of it, or the stages that were drawn. The caller has verified the
    /// weights of both.
    ///
    /// # Errors
    /// The first check that fails; then nothing is known.
    pub fn verify_adapted(
        &self,
        weights: &ModelWeights,
        root: Digest,
        adapter: Option<&AdapterWeights>,
    ) -> Result<(), FileError> {
        self.check_parts()?;
        self.check_model(root)?;
        self.check_adapter(adapter.map(|adapter| adapter.root))?;
        if let Some(Keyed { digest, .. }) = &self.keyed {
            return Err(FileError::NeedsKey { got: *digest });
        }
        let layers = weights.config.n_layers;
        if self.stages.last().is_none_or(|stage| stage.end != layers) {
            return Err(FileError::Layers { got: self.ends(), expected: [layers].into() });
        }
        self.verify_stages(&self.answer_of(weights, adapter), None, |_| None)
    }

    /// [`AnswerFile::verify_adapted`] without an adapter.
    ///
    /// # Errors
    /// The first check that fails; then nothing is known.
    pub fn verify(&self, weights: &ModelWeights, root: Digest) -> Result<(), FileError> {
        self.verify_adapted(weights, root, None)
    }

    /// Checks the same with the key of a model, which the caller trusts.
    ///
    /// # Errors
    /// The first check that fails; then nothing is known.
    pub fn verify_with_key(&self, key: &Key) -> Result<(), FileError> {
        self.check_parts()?;
        self.check_model(key.root())?;
        self.check_adapter(key.adapter().map(|adapter| adapter.root))?;
        let expected = key.digest();
        let keyed = match &self.keyed {
            Some(keyed) if keyed.digest == expected => keyed,
            other => {
                return Err(FileError::Key { got: other.as_ref().map(|keyed| keyed.digest), expected });
            }
        };
        let ends: Vec<u32> = key.stages().iter().map(|stage| stage.end).collect();
        if self.ends() != ends {
            return Err(FileError::Layers { got: self.ends(), expected: ends });
        }
        let embedded = self.embedded(keyed, key)?;
        self.verify_stages(&self.answer_of(key.weights(), key.adapter()), Some(&embedded), |stage| {
            Some(key.stages()[stage].root)
        })
    }

    fn verify_stages(
        &self,
        answer: &Answer<'_>,
        embedded: Option<&[i64]>,
        root_of: impl Fn(usize) -> Option<Hash>,
    ) -> Result<(), FileError> {
        let (mut first, mut entering) = (0, None);
        for (number, stage) in self.stages.iter().enumerate() {
            let layers = first..stage.end as usize;
            let columns = [entering, stage.leaving].into_iter().flatten().collect();
            (first, entering) = (layers.end, stage.leaving);
            let Some(proof) = &stage.proof else { continue };
            let roots = Roots { columns, weights: root_of(number) };
            let refused = |error: VerifyError| FileError::Refused { stage: number, error };
            verify_stage(answer, layers, embedded, &roots, proof).map_err(refused)?;
        }
        Ok(())
    }

    /// Tokens that are fed: all but the last of an answer.
    fn positions(&self) -> usize {
        self.tokens.len() - usize::from(!matches!(self.claimed, Claimed::Pooled(_)))
    }

    /// Distinct tokens that are fed, in ascending order.
    pub(super) fn fed(&self) -> Vec<u32> {
        let mut fed = self.tokens[..self.positions()].to_vec();
        fed.sort_unstable();
        fed.dedup();
        fed
    }

    /// The embedded tokens from their opened rows.
    fn embedded(&self, keyed: &Keyed, key: &Key) -> Result<Vec<i64>, FileError> {
        let config = &key.weights().config;
        let (fed, positions) = (self.fed(), self.positions());
        let width = config.d_model as usize;
        let wrong = |at: usize| FileError::Row {
            table: "embedding",
            row: fed.get(at).map_or(at, |token| *token as usize),
        };
        if keyed.tokens.len() != fed.len() {
            return Err(wrong(keyed.tokens.len().min(fed.len())));
        }
        let holds = |(token, OpenedRow { codes, path }): (&u32, &OpenedRow)| {
            codes.len() == 2 * width && key.embed().has(*token as usize, codes, path)
        };
        if let Some(at) = fed.iter().zip(&keyed.tokens).position(|row| !holds(row)) {
            return Err(wrong(at));
        }
        let learned = |position: usize| {
            let Some(table) = key.positions() else { return Ok(None) };
            let codes = table.row(position, width);
            let codes = codes.ok_or(FileError::Row { table: "positions", row: position })?;
            Ok(Some(Row { codes, frac: table.frac }))
        };
        let learned = (0..positions).map(learned).collect::<Result<Vec<_>, FileError>>()?;
        let row = |(position, learned)| {
            let at = fed.binary_search(&self.tokens[position]).unwrap_or(0);
            (Row { codes: &keyed.tokens[at].codes, frac: key.embed().frac }, learned)
        };
        rows(config, learned.into_iter().enumerate().map(row))
            .map_err(|error| FileError::Refused { stage: 0, error: VerifyError::Plan(error) })
    }
}
