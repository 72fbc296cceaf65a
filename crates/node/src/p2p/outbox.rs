//! Frames that wait for one peer, bounded in number and in bytes.

use super::stream::FrameWriter;
use lockstep_mesh::frame::{Channel, Frame, padded_len};
use lockstep_mesh::limits::QUEUE_FRAMES_MAX;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// Bytes of control messages that wait for one peer: some pages of leaves.
const CONTROL_BYTES_MAX: usize = 16 << 20;
/// Bytes of rows that wait for one peer: whole windows of many tasks.
const DATA_BYTES_MAX: usize = 128 << 20;

/// The sending end.
#[derive(Debug)]
pub(super) struct Outbox {
    frames: mpsc::Sender<Frame>,
    waiting: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// The end that a writer empties.
#[derive(Debug)]
pub(super) struct Outgoing {
    frames: mpsc::Receiver<Frame>,
    waiting: Arc<AtomicUsize>,
}

/// An empty outbox for a stream of `channel`.
pub(super) fn outbox(channel: Channel) -> (Outbox, Outgoing) {
    let bytes_max = match channel {
        Channel::Control => CONTROL_BYTES_MAX,
        Channel::Stage => DATA_BYTES_MAX,
    };
    let (sender, frames) = mpsc::channel(QUEUE_FRAMES_MAX);
    let waiting = Arc::<AtomicUsize>::default();
    (Outbox { frames: sender, waiting: waiting.clone(), bytes_max }, Outgoing { frames, waiting })
}

impl Outbox {
    /// Adds a frame; `false` if the peer does not keep up, or the writer has ended.
    #[must_use]
    pub(super) fn send(&self, frame: Frame) -> bool {
        let bytes = padded_len(frame.payload.len());
        let waiting = self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        waiting <= self.bytes_max && self.frames.try_send(frame).is_ok()
    }

    /// Whether a writer still empties it.
    pub(super) fn is_open(&self) -> bool {
        !self.frames.is_closed()
    }
}

impl Outgoing {
    /// Writes frames until the outbox is dropped or the peer is gone.
    pub(super) async fn write(mut self, mut writer: FrameWriter) {
        while let Some(frame) = self.frames.recv().await {
            if writer.send(&frame).await.is_err() {
                return;
            }
            self.waiting.fetch_sub(padded_len(frame.payload.len()), Ordering::Relaxed);
        }
        // The last frame may be a goodbye: let it go out. The peer sees the end of the stream.
        let _ = writer.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_mesh::frame::Kind;

    /// Neither many small frames nor a few large ones wait for a peer that does not read.
    #[test]
    fn an_outbox_is_bounded_in_frames_and_in_bytes() {
        let fill = |channel, payload: usize| {
            let (outbox, _outgoing) = outbox(channel);
            (0..10_000)
                .take_while(|_| outbox.send(Frame { kind: Kind::Control, payload: vec![0; payload] }))
                .count()
        };
        assert_eq!(fill(Channel::Control, 10), QUEUE_FRAMES_MAX);
        assert_eq!(fill(Channel::Control, 1_000_000), CONTROL_BYTES_MAX / padded_len(1_000_000));
        assert_eq!(fill(Channel::Stage, 4_000_000), DATA_BYTES_MAX / padded_len(4_000_000));
    }
}
