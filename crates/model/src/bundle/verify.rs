//! The two passes over the large entries of a bundle, on all cores.
//!
//! 1. **Structure**, before anybody gets the weights: scales, table ids and sums of magnitudes, so that no
//!    byte of a hostile model makes the runtime wrap or index outside (see [`super::structure`]).
//! 2. **Roots**: every row is hashed and compared with the model root. SHA-256 is several times slower than
//!    the memory, so this pass may go on in the background while the weights are already computed with.
//!
//! The gate is [`Verification`]: whoever took weights from [`Loading::unverified`] waits on it before
//! anything computed with them is signed, sent or called an answer. [`Loading::verified`] is for all others.
//! Success is proved by counting: [`Verification::wait`] says yes only if every entry of the part was
//! compared, so that neither a lost thread nor a forgotten entry can look like success.

use super::error::BundleError;
use super::magnitudes::Magnitudes;
use super::structure::{self, StructureError};
use lockstep_base::digest::Digest;
use lockstep_base::manifest::Entry;
use lockstep_base::merkle;
use lockstep_base::weights::{Embedding, Linear, ModelWeights, PANEL_ROWS, Tables};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that are worth an order to a thread.
const CHUNK_BYTES: usize = 1 << 18;
/// Bytes below which threads cost more than they bring.
const THREADING_BYTES_MIN: usize = 1 << 20;
/// More threads than this do not read memory faster.
const THREADS_MAX: usize = 16;

/// Why bytes are not those of the model root, or are not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The bytes of an entry are not those under the model root.
    #[error("entry {entry} was changed: its root is {got}, expected {expected}")]
    Root {
        /// The entry.
        entry: String,
        /// Root over the bytes.
        got: Digest,
        /// Root in the manifest.
        expected: Digest,
    },
    /// The threads that verify ended early.
    #[error("{got} entries were verified, expected {expected}: a thread was lost")]
    Unfinished {
        /// Entries that were compared.
        got: usize,
        /// Entries of the part.
        expected: usize,
    },
}

/// Weights whose structure is checked and whose bytes are being compared with the model root.
#[derive(Debug)]
#[must_use = "weights that nobody waited for are not verified"]
pub struct Loading {
    pub(super) weights: ModelWeights,
    pub(super) verification: Verification,
}

impl Loading {
    /// The weights, when all of them are verified.
    ///
    /// # Errors
    /// The first entry that was changed.
    pub fn verified(self) -> Result<ModelWeights, BundleError> {
        self.verification.wait()?;
        Ok(self.weights)
    }

    /// The weights at once. Nothing that is computed with them may be signed, sent or called a result before
    /// [`Verification::wait`] said yes.
    #[must_use]
    pub fn unverified(self) -> (ModelWeights, Verification) {
        (self.weights, self.verification)
    }
}

/// Verification under way. Clones wait for the same one; it is abandoned when the last of them is dropped.
#[derive(Clone, Debug)]
pub struct Verification(Arc<Owner>);

/// Tells the threads that nobody waits any more.
#[derive(Debug)]
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Relaxed);
    }
}

impl Verification {
    /// Waits until every entry was compared with the model root.
    ///
    /// # Errors
    /// The first entry that was changed.
    pub fn wait(&self) -> Result<(), VerifyError> {
        let shared = &self.0.0;
        let mut state = shared.state();
        while state.running > 0 {
            state = shared.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match &state.failed {
            Some((_, error)) => Err(error.clone()),
            None if state.verified == shared.work.jobs.len() => Ok(()),
            None => Err(VerifyError::Unfinished { got: state.verified, expected: shared.work.jobs.len() }),
        }
    }
}

/// The rows of a large entry.
#[derive(Debug)]
pub(super) enum Rows {
    Linear(Linear),
    Embedding(Embedding),
}

/// An entry to be checked and compared with `root`.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) entry: String,
    pub(super) root: Digest,
    pub(super) rows: Rows,
}

impl Job {
    fn rows(&self) -> usize {
        match &self.rows {
            Rows::Linear(linear) => linear.rows,
            Rows::Embedding(embedding) => embedding.rows,
        }
    }

    fn bytes(&self) -> usize {
        match &self.rows {
            Rows::Linear(linear) => linear.codes.len() + linear.table_ids.len(),
            Rows::Embedding(embedding) => embedding.codes.len(),
        }
    }

    fn leaves(&self, rows: Range<usize>) -> Vec<Digest> {
        let mut bytes = Vec::new();
        let leaf = |row: usize| match &self.rows {
            Rows::Linear(linear) => {
                bytes.clear();
                linear.append_row_bytes(row, &mut bytes);
                merkle::leaf(&bytes)
            }
            Rows::Embedding(embedding) => merkle::leaf(embedding.row_bytes(row)),
        };
        rows.map(leaf).collect()
    }

    fn compare(&self, leaves: &[Digest]) -> Result<(), VerifyError> {
        let (got, expected) = (merkle::root(leaves), self.root);
        if got == expected {
            return Ok(());
        }
        Err(VerifyError::Root { entry: self.entry.clone(), got, expected })
    }

    /// The structure of some rows, which begin with a panel.
    fn check(
        &self,
        rows: Range<usize>,
        magnitudes: &Magnitudes,
        tables: &Tables,
    ) -> Result<(), StructureError> {
        let Rows::Linear(linear) = &self.rows else { return Ok(()) };
        for row in rows.clone() {
            structure::check_row_head(&self.entry, linear, row, tables)?;
        }
        if rows.end == linear.rows {
            structure::check_panel_padding(&self.entry, linear)?;
        }
        for first in rows.clone().step_by(PANEL_ROWS) {
            let sums = magnitudes.panel(linear, first / PANEL_ROWS, tables);
            for (row, (l1, least)) in (first..rows.end).zip(sums) {
                structure::check_reach(&self.entry, linear, row, l1, least)?;
            }
        }
        Ok(())
    }
}

/// Compares one matrix with its entry.
///
/// # Errors
/// [`VerifyError::Root`].
pub(super) fn verify_rows(entry: &Entry, linear: &Linear) -> Result<(), VerifyError> {
    let (name, rows) = (entry.name.clone(), Rows::Linear(linear.clone()));
    Work::new(vec![Job { entry: name, root: entry.root, rows }]).verify().wait()
}

/// Entries, cut into orders of about equal size.
#[derive(Debug, Default)]
pub(super) struct Work {
    jobs: Vec<Job>,
    /// Job and rows.
    chunks: Vec<(usize, Range<usize>)>,
    bytes: usize,
}

impl Work {
    pub(super) fn new(jobs: Vec<Job>) -> Work {
        let mut work = Work { bytes: jobs.iter().map(Job::bytes).sum(), jobs, chunks: Vec::new() };
        for (index, job) in work.jobs.iter().enumerate() {
            let rows = job.rows();
            let per_row = (job.bytes() / rows.max(1)).max(1);
            let step = (CHUNK_BYTES / per_row).next_multiple_of(PANEL_ROWS).max(PANEL_ROWS);
            let starts = (0..rows.max(1)).step_by(step);
            work.chunks.extend(starts.map(|start| (index, start..rows.min(start + step))));
        }
        work
    }

    fn threads(&self) -> usize {
        if self.bytes < THREADING_BYTES_MIN {
            return 1;
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        cores.min(THREADS_MAX).min(self.chunks.len()).max(1)
    }

    /// The first pass. A changed byte is reported as such, not as whatever number it made.
    ///
    /// # Errors
    /// The first entry that is out of range, or was changed so that it is.
    pub(super) fn check(&self, tables: &Tables) -> Result<(), BundleError> {
        let magnitudes = Magnitudes::new(tables);
        let next = AtomicUsize::new(0);
        // Orders are taken in turn, so the first failure of all threads is the first failure.
        let run = || -> Option<(usize, StructureError)> {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let (job, rows) = self.chunks.get(at)?;
                if let Err(error) = self.jobs[*job].check(rows.clone(), &magnitudes, tables) {
                    return Some((at, error));
                }
            }
        };
        let failed = match self.threads() {
            1 => run(),
            threads => std::thread::scope(|scope| {
                let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
                let own = run();
                let joined = others
                    .into_iter()
                    .map(|other| other.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
                joined.chain([own]).flatten().min_by_key(|(at, _)| *at)
            }),
        };
        let Some((at, error)) = failed else { return Ok(()) };
        let job = &self.jobs[self.chunks[at].0];
        job.compare(&job.leaves(0..job.rows()))?;
        Err(error.into())
    }

    /// The second pass, in the background where it is long.
    pub(super) fn verify(self) -> Verification {
        let threads = self.threads();
        let leaves = self.jobs.iter().map(|job| Mutex::new((vec![Digest::ZERO; job.rows()], 0))).collect();
        let shared = Arc::new(Shared {
            work: self,
            leaves,
            next: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            state: Mutex::default(),
            ended: Condvar::new(),
        });
        let verification = Verification(Arc::new(Owner(shared.clone())));
        let mut started = 0;
        for _ in 0..if threads > 1 { threads } else { 0 } {
            let worker = Worker::new(&shared);
            let thread = std::thread::Builder::new().name("verify".into());
            started += usize::from(thread.spawn(move || worker.run()).is_ok());
        }
        if started == 0 {
            Worker::new(&shared).run();
        }
        verification
    }
}

#[derive(Debug)]
struct Shared {
    work: Work,
    /// For each job: leaf hashes, and how many rows are hashed.
    leaves: Vec<Mutex<(Vec<Digest>, usize)>>,
    next: AtomicUsize,
    abandoned: AtomicBool,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    verified: usize,
    /// Of all jobs that failed so far the first.
    failed: Option<(usize, VerifyError)>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread; dropping it, in whatever way, says that it ended.
struct Worker(Arc<Shared>);

impl Worker {
    fn new(shared: &Arc<Shared>) -> Worker {
        shared.state().running += 1;
        Worker(shared.clone())
    }

    fn run(self) {
        let shared = &*self.0;
        while !shared.abandoned.load(Ordering::Relaxed) {
            let at = shared.next.fetch_add(1, Ordering::Relaxed);
            let Some((index, rows)) = shared.work.chunks.get(at) else { return };
            if shared.state().failed.as_ref().is_some_and(|(failed, _)| failed < index) {
                return;
            }
            let job = &shared.work.jobs[*index];
            let hashed = job.leaves(rows.clone());
            let mut leaves = shared.leaves[*index].lock().unwrap_or_else(PoisonError::into_inner);
            leaves.0[rows.clone()].copy_from_slice(&hashed);
            leaves.1 += rows.len();
            if leaves.1 < job.rows() {
                continue;
            }
            let result = job.compare(&leaves.0);
            leaves.0 = Vec::new();
            drop(leaves);
            let mut state = shared.state();
            match result {
                Ok(()) => state.verified += 1,
                Err(error) if state.failed.as_ref().is_none_or(|(failed, _)| index < failed) => {
                    state.failed = Some((*index, error));
                }
                Err(_) => {}
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.state().running -= 1;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Bundle, Contents, TokenizerSection, write};
    use super::*;
    use lockstep_base::config::ModelConfig;
    use lockstep_base::part::Part;
    use lockstep_base::weights::WeightFormat;
    use lockstep_runtime::synthetic;

    /// Large enough that several threads verify it.
    fn bundle(format: WeightFormat, change: impl FnOnce(&mut ModelWeights)) -> Vec<u8> {
        let config = ModelConfig { d_model: 512, d_ffn: 1024, n_layers: 2, ..synthetic::small_config() };
        let mut weights = synthetic::model(&config, format, 3);
        change(&mut weights);
        let tokenizer = TokenizerSection { kind: "none".into(), file: Vec::new() };
        write(&Contents { weights: &weights, tokenizer: &tokenizer, chat_template: None }).unwrap()
    }

    fn flipped(mut bytes: Vec<u8>, entry: &str) -> Vec<u8> {
        let bundle = Bundle::from_bytes(bytes.clone()).unwrap();
        let placed = bundle.entries().iter().find(|placed| placed.entry.name == entry).unwrap();
        bytes[(placed.offset + placed.entry.bytes / 2) as usize] ^= 1;
        bytes
    }

    /// Weights come before the verdict, and the verdict comes: of good bytes and of changed ones.
    #[test]
    fn a_changed_byte_is_found_in_the_background() {
        for format in [WeightFormat::Int8, WeightFormat::Int4] {
            let good = bundle(format, |_| {});
            let load = |bytes: Vec<u8>, part: &Part| Bundle::from_bytes(bytes).unwrap().load_unverified(part);
            let (_, verification) = load(good.clone(), &Part::whole(2)).unwrap().unverified();
            assert_eq!(verification.clone().wait(), Ok(()), "{format:?}");
            assert_eq!(verification.wait(), Ok(()), "{format:?}: a verdict can be asked for again");
            for changed in ["layers.0001.down", "embed", "head", "layers.0000.q"] {
                let bytes = flipped(good.clone(), changed);
                let (_, verification) = load(bytes.clone(), &Part::whole(2)).unwrap().unverified();
                let error = verification.wait().unwrap_err();
                assert!(matches!(&error, VerifyError::Root { entry, .. } if entry == changed), "{error}");
                let error = Bundle::from_bytes(bytes.clone()).unwrap().load(&Part::whole(2)).unwrap_err();
                assert!(matches!(&error, BundleError::Root { entry, .. } if entry == changed), "{error}");
                let other = Part::layers(if changed == "layers.0000.q" { 1..2 } else { 0..1 }, 2);
                let other = Part { embed: false, head: false, ..other };
                load(bytes, &other).unwrap().verified().expect("a part that does not read it");
            }
        }
    }

    /// Of several changed entries the first is named, whichever thread finds one first.
    #[test]
    fn the_first_changed_entry_is_named() {
        let bytes = flipped(flipped(bundle(WeightFormat::Int8, |_| {}), "layers.0001.v"), "layers.0000.up");
        for _ in 0..20 {
            let error = Bundle::from_bytes(bytes.clone()).unwrap().load(&Part::whole(2)).unwrap_err();
            assert!(
                matches!(&error, BundleError::Root { entry, .. } if entry == "layers.0000.up"),
                "{error}"
            );
        }
    }

    /// Weights that the runtime could not bear are refused before anybody gets them.
    #[test]
    fn structure_is_checked_before_weights_are_given() {
        let bytes = bundle(WeightFormat::Int8, |weights| weights.layers[1].q.multipliers[60] = 0);
        let error = Bundle::from_bytes(bytes).unwrap().load_unverified(&Part::whole(2)).unwrap_err();
        assert_eq!(error.to_string(), "layers.0001.q, row 60: multiplier is 0, expected 1 to 31");
        let bytes = bundle(WeightFormat::Int8, |weights| {
            let up = &mut weights.layers[1].ffn.dense_mut().unwrap().up;
            let mut codes = up.codes.to_vec();
            codes[up.code_offset(601, 17)] = 0x80;
            up.codes = codes.into();
        });
        let error = Bundle::from_bytes(bytes).unwrap().load_unverified(&Part::whole(2)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "layers.0001.up, row 601: smallest weight is -128, expected -127 to 127"
        );
    }

    /// Threads that end without having compared everything are no success.
    #[test]
    fn lost_threads_are_no_success() {
        let data = bundle(WeightFormat::Int8, |_| {});
        let (weights, _) =
            Bundle::from_bytes(data).unwrap().load_unverified(&Part::whole(2)).unwrap().unverified();
        let rows = Rows::Linear(weights.layers[0].q.clone());
        let shared = Shared {
            work: Work::new(vec![Job { entry: "q".into(), root: Digest::ZERO, rows }]),
            leaves: Vec::new(),
            next: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            state: Mutex::default(),
            ended: Condvar::new(),
        };
        let shared = Arc::new(shared);
        drop(Worker::new(&shared));
        let verdict = Verification(Arc::new(Owner(shared))).wait();
        assert_eq!(verdict, Err(VerifyError::Unfinished { got: 0, expected: 1 }));
    }
}
