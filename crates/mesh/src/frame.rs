//! Frames: how messages lie in a byte stream.
//!
//! ```text
//! version u8 | kind u8 | reserved u16 = 0 | payload length u32 BE | payload | zeros
//! ```
//! The total is a multiple of [`FRAME_GRID`] bytes. Padding on a constant grid from the start
//! means that the later query mixer (constant shapes on the wire) needs no new format. Padding
//! must be zero, so that a frame has one encoding and hides no second channel.

use crate::limits::{CONTROL_PAYLOAD_MAX, DATA_PAYLOAD_MAX, FRAME_GRID, FRAME_HEADER_BYTES};

/// The frame version that this release writes.
pub const FRAME_VERSION: u8 = 1;
/// Every frame version that this release reads.
pub const FRAME_VERSIONS: &[u8] = &[FRAME_VERSION];

/// The two streams between peers. Control messages overtake data because they have their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// Between a gateway and a stage: requests, tokens, receipts.
    Control,
    /// From a stage (or the gateway) to the next stage: tokens, activations.
    Stage,
}

impl Channel {
    /// Both channels.
    pub const ALL: [Channel; 2] = [Channel::Control, Channel::Stage];

    /// The protocol's name when a stream is opened.
    #[must_use]
    pub fn protocol(self) -> &'static str {
        match self {
            Channel::Control => "/lockstep/control/1",
            Channel::Stage => "/lockstep/stage/1",
        }
    }

    /// The channel of a protocol name.
    ///
    /// # Errors
    /// [`UnknownProtocol`], which names the supported ones.
    pub fn of_protocol(name: &str) -> Result<Channel, UnknownProtocol> {
        Channel::ALL
            .into_iter()
            .find(|channel| channel.protocol() == name)
            .ok_or_else(|| UnknownProtocol { got: name.chars().take(64).collect() })
    }
}

/// A stream was opened for a protocol that this release does not speak.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("protocol {got:?} is not supported, expected one of [{:?}, {:?}]", Channel::Control.protocol(), Channel::Stage.protocol())]
pub struct UnknownProtocol {
    /// The name, at most 64 characters of it.
    pub got: String,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A control message in deterministic CBOR.
    Control = 1,
    /// Tokens for the first stage.
    Tokens = 2,
    /// Residual rows for a later stage.
    Activations = 3,
    /// Forget the positions from here on; travels in order with the data that it is about.
    Truncate = 4,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 4] = [Kind::Control, Kind::Tokens, Kind::Activations, Kind::Truncate];

    /// The stream that the kind travels on.
    #[must_use]
    pub fn channel(self) -> Channel {
        match self {
            Kind::Control => Channel::Control,
            Kind::Tokens | Kind::Activations | Kind::Truncate => Channel::Stage,
        }
    }

    /// Bytes of the longest payload.
    #[must_use]
    pub fn payload_max(self) -> usize {
        match self {
            Kind::Control => CONTROL_PAYLOAD_MAX,
            Kind::Tokens | Kind::Activations => DATA_PAYLOAD_MAX,
            Kind::Truncate => crate::limits::DATA_HEADER_BYTES,
        }
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Why bytes are no frames. After an error the stream is out of step and must be closed.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// Another version.
    #[error("frame version {got} is not supported, expected one of {FRAME_VERSIONS:?}")]
    Version {
        /// Version of the frame.
        got: u8,
    },
    /// An unknown kind.
    #[error("frame kind {got} is unknown, expected 1 (control), 2 (tokens), 3 (activations) or 4 (truncate)")]
    Kind {
        /// Kind byte of the frame.
        got: u8,
    },
    /// A kind that belongs on the other stream.
    #[error("a {kind:?} frame on {}, expected it on {}", channel.protocol(), kind.channel().protocol())]
    Channel {
        /// Kind of the frame.
        kind: Kind,
        /// Stream that it came on.
        channel: Channel,
    },
    /// Reserved bytes are not zero.
    #[error("the reserved bytes of a frame are {got:#06x}, expected 0")]
    Reserved {
        /// The reserved bytes, as a big-endian number.
        got: u16,
    },
    /// The payload is too long.
    #[error("a {kind:?} frame announces {got} bytes, expected at most {limit}")]
    TooLong {
        /// Kind of the frame.
        kind: Kind,
        /// Announced length.
        got: usize,
        /// The limit of the kind.
        limit: usize,
    },
    /// Padding is not zero.
    #[error("byte {at} of a frame is {got:#04x} and belongs to the padding, expected 0")]
    Padding {
        /// Offset in the frame.
        at: usize,
        /// The byte.
        got: u8,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended after {got} bytes of a frame, expected {expected}")]
    Incomplete {
        /// Bytes of the unfinished frame.
        got: usize,
        /// Bytes that it needs, as far as is known.
        expected: usize,
    },
}

/// One frame without its padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: Kind,
    /// The content, at most [`Kind::payload_max`] bytes.
    pub payload: Vec<u8>,
}

/// Bytes on the wire of a frame with a payload of `payload` bytes.
#[must_use]
pub fn padded_len(payload: usize) -> usize {
    (FRAME_HEADER_BYTES + payload).next_multiple_of(FRAME_GRID)
}

impl Frame {
    /// The bytes on the wire.
    ///
    /// # Panics
    /// If the payload is longer than its kind allows: what we send ourselves is within limits.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        assert!(self.payload.len() <= self.kind.payload_max(), "payload within its limit");
        let mut bytes = Vec::with_capacity(padded_len(self.payload.len()));
        bytes.extend_from_slice(&[FRAME_VERSION, self.kind as u8, 0, 0]);
        bytes.extend_from_slice(&(self.payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes.resize(padded_len(self.payload.len()), 0);
        bytes
    }
}

/// Cuts a byte stream into frames, however it arrives in pieces.
///
/// Give it what was read ([`push`](Self::push)), then take frames ([`next_frame`](Self::next_frame))
/// until there is none. A header is judged as soon as it is there, so a hostile length costs no
/// memory: the buffer holds at most one frame and what was pushed last.
#[derive(Debug)]
pub struct FrameDecoder {
    channel: Channel,
    buffer: Vec<u8>,
    start: usize,
    failed: Option<FrameError>,
}

impl FrameDecoder {
    /// A decoder for one stream.
    #[must_use]
    pub fn new(channel: Channel) -> FrameDecoder {
        FrameDecoder { channel, buffer: Vec::new(), start: 0, failed: None }
    }

    /// Adds bytes that were read. After an error they are dropped.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`] for what is no frame; the same error again from then on.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.parse().inspect_err(|&error| {
            self.failed = Some(error);
            self.buffer = Vec::new();
            self.start = 0;
        })
    }

    /// Says that the stream ended.
    ///
    /// # Errors
    /// [`FrameError::Incomplete`] in the middle of a frame, or the error that was met before.
    pub fn finish(&self) -> Result<(), FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let rest = &self.buffer[self.start..];
        if rest.is_empty() {
            return Ok(());
        }
        let expected = match header(rest, self.channel)? {
            Some((_, length)) => padded_len(length),
            None => FRAME_GRID,
        };
        Err(FrameError::Incomplete { got: rest.len(), expected })
    }

    fn parse(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some((kind, length)) = header(rest, self.channel)? else {
            return Ok(None);
        };
        let total = padded_len(length);
        if rest.len() < total {
            return Ok(None);
        }
        let end = FRAME_HEADER_BYTES + length;
        if let Some(at) = (end..total).find(|&at| rest[at] != 0) {
            return Err(FrameError::Padding { at, got: rest[at] });
        }
        let payload = rest[FRAME_HEADER_BYTES..end].to_vec();
        self.start += total;
        Ok(Some(Frame { kind, payload }))
    }
}

/// Kind and payload length, once the header is there.
fn header(bytes: &[u8], channel: Channel) -> Result<Option<(Kind, usize)>, FrameError> {
    let Some(header) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
        return Ok(None);
    };
    if !FRAME_VERSIONS.contains(&header[0]) {
        return Err(FrameError::Version { got: header[0] });
    }
    let kind = Kind::from_byte(header[1]).ok_or(FrameError::Kind { got: header[1] })?;
    if kind.channel() != channel {
        return Err(FrameError::Channel { kind, channel });
    }
    let reserved = u16::from_be_bytes([header[2], header[3]]);
    if reserved != 0 {
        return Err(FrameError::Reserved { got: reserved });
    }
    let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if length > kind.payload_max() {
        return Err(FrameError::TooLong { kind, got: length, limit: kind.payload_max() });
    }
    Ok(Some((kind, length)))
}
