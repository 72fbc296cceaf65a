//! Frames over one stream: bytes in, what they say out, and the other way round.

use futures::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use libp2p::Stream;
use lockstep_mesh::frame::{Channel, Frame};
use lockstep_mesh::inbound::{Inbound, Incoming, ProtocolError};
use std::time::Duration;

/// Bytes read at a time.
const READ_BYTES: usize = 16 << 10;
/// A peer that has not taken a frame after this long does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a stream ended before its time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The connection failed.
    #[error("connection lost: {0}")]
    Io(#[from] std::io::Error),
    /// The peer sent something else than the protocol.
    #[error("protocol violation: {0}")]
    Protocol(#[from] ProtocolError),
}

/// Splits a stream of `channel` into its two directions.
#[must_use]
pub fn split(stream: Stream, channel: Channel) -> (FrameReader, FrameWriter) {
    let (reader, writer) = stream.split();
    (
        FrameReader { reader, inbound: Inbound::new(channel), buffer: vec![0; READ_BYTES] },
        FrameWriter { writer },
    )
}

/// The receiving direction.
#[derive(Debug)]
pub struct FrameReader {
    reader: ReadHalf<Stream>,
    inbound: Inbound,
    buffer: Vec<u8>,
}

impl FrameReader {
    /// The next message or batch; `None` at a clean end.
    ///
    /// # Errors
    /// [`StreamError`] on a lost connection or a violation of the protocol.
    pub async fn next(&mut self) -> Result<Option<Incoming>, StreamError> {
        loop {
            if let Some(incoming) = self.inbound.next_incoming()? {
                return Ok(Some(incoming));
            }
            let count = self.reader.read(&mut self.buffer).await?;
            if count == 0 {
                self.inbound.finish()?;
                return Ok(None);
            }
            self.inbound.push(&self.buffer[..count]);
        }
    }
}

/// The sending direction.
#[derive(Debug)]
pub struct FrameWriter {
    writer: WriteHalf<Stream>,
}

impl FrameWriter {
    /// Sends one frame.
    ///
    /// # Errors
    /// If the connection is lost, or the peer does not read.
    pub async fn send(&mut self, frame: &Frame) -> std::io::Result<()> {
        let bytes = frame.to_bytes();
        let written = async {
            self.writer.write_all(&bytes).await?;
            self.writer.flush().await
        };
        tokio::time::timeout(WRITE_TIMEOUT, written).await.map_err(|_| {
            std::io::Error::new(std::io::ErrorKind::TimedOut, "the peer did not take a frame within 30 s")
        })?
    }

    /// Ends the direction.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn close(&mut self) -> std::io::Result<()> {
        let closed = tokio::time::timeout(WRITE_TIMEOUT, self.writer.close()).await;
        closed.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
}
