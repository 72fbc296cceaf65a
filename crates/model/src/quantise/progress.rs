//! What an import tells the one who waits for it.

use std::fmt;

/// Phases of an import, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The model writes its calibration text.
    Calibrate,
    /// Matrices are rounded.
    Quantise,
    /// Bounds are proved.
    Check,
}

/// One step of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update<'a> {
    /// The phase.
    pub stage: Stage,
    /// What is being worked on, e.g. `layers.0003.q`.
    pub site: &'a str,
    /// Steps of this phase that are done.
    pub done: usize,
    /// Steps of this phase.
    pub total: usize,
}

/// Where updates go.
#[derive(Default)]
pub struct Progress<'a> {
    sink: Option<&'a mut dyn FnMut(Update<'_>)>,
}

impl<'a> Progress<'a> {
    /// Updates go to `sink`.
    pub fn new(sink: &'a mut dyn FnMut(Update<'_>)) -> Progress<'a> {
        Progress { sink: Some(sink) }
    }

    /// Nobody waits.
    #[must_use]
    pub fn none() -> Progress<'static> {
        Progress { sink: None }
    }

    pub(crate) fn report(&mut self, stage: Stage, site: &str, done: usize, total: usize) {
        if let Some(sink) = &mut self.sink {
            sink(Update { stage, site, done, total });
        }
    }
}

impl fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("sink", &self.sink.is_some()).finish()
    }
}
