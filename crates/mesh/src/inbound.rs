//! One incoming stream: bytes in, messages or data out. What a shell (libp2p or the simulator)
//! does with every stream it accepts, in one place.

use crate::data::{Data, DataError};
use crate::frame::{Channel, FrameDecoder, FrameError, Kind};
use crate::message::{Message, MessageError};

/// What a peer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A control message.
    Message(Message),
    /// A data frame.
    Data(Data),
}

/// Why a stream must be closed.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Not a control message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// Not a data frame.
    #[error(transparent)]
    Data(#[from] DataError),
}

/// The reading half of one stream.
#[derive(Debug)]
pub struct Inbound {
    frames: FrameDecoder,
    failed: Option<ProtocolError>,
}

impl Inbound {
    /// A stream that was opened for `channel`.
    #[must_use]
    pub fn new(channel: Channel) -> Inbound {
        Inbound { frames: FrameDecoder::new(channel), failed: None }
    }

    /// Adds bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// The next message or data frame, `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`ProtocolError`]; the same again from then on. The shell closes the stream.
    pub fn next_incoming(&mut self) -> Result<Option<Incoming>, ProtocolError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.read().inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Says that the stream ended.
    ///
    /// # Errors
    /// [`ProtocolError`] if it ended inside a frame, or the error that was met before.
    pub fn finish(&self) -> Result<(), ProtocolError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(self.frames.finish()?),
        }
    }

    fn read(&mut self) -> Result<Option<Incoming>, ProtocolError> {
        let Some(frame) = self.frames.next_frame()? else {
            return Ok(None);
        };
        Ok(Some(match frame.kind {
            Kind::Control => Incoming::Message(Message::from_bytes(&frame.payload)?),
            _ => Incoming::Data(Data::from_frame(&frame)?),
        }))
    }
}
