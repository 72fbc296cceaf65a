//! Questions between peers of a swarm, on `/lockstep/swarm/1`: what gossip has said before I came.
//!
//! ```text
//! stream   = request, answer                     one question a stream
//! request  = u32 BE length ‖ CBOR                at most 256 bytes
//! answer   = u32 BE length ‖ CBOR                at most 1 MiB; `Bytes` is followed by so many zeros
//! ```
//!
//! Answers are claims. Announcements carry the signatures of those whom they are about, addresses are dialled
//! under the key that they name, and a clock or a throughput is told to people only.

use super::limits as l;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::Stream;
use lockstep_base::Digest;
use lockstep_base::cbor::{self, CborError};
use lockstep_mesh::swarm::limits::ANNOUNCEMENT_BYTES_MAX;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use std::io;
use std::time::{Duration, Instant};

/// The protocol.
pub const PROTOCOL: &str = "/lockstep/swarm/1";

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Which announcements of this model do you know?
    #[n(0)]
    Announcements(#[n(0)] Digest),
    /// Which models do you know somebody to serve?
    #[n(1)]
    Models,
    /// Which peers do you know?
    #[n(2)]
    Peers,
    /// What is the time?
    #[n(3)]
    Clock,
    /// Send so many bytes.
    #[n(4)]
    Bytes(#[n(0)] u32),
    /// Who may not take part any more, in a private swarm?
    #[n(5)]
    Revocations,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// Announcements, each as its node signed it.
    #[n(0)]
    Announcements(#[n(0)] Vec<ByteVec>),
    /// Model roots, with the number of nodes.
    #[n(1)]
    Models(#[n(0)] Vec<ModelCount>),
    /// Addresses of peers, with the peer at the end.
    #[n(2)]
    Peers(#[n(0)] Vec<String>),
    /// Milliseconds since 1970.
    #[n(3)]
    Clock(#[n(0)] u64),
    /// So many bytes follow.
    #[n(4)]
    Bytes(#[n(0)] u32),
    /// No.
    #[n(5)]
    Refused(#[n(0)] Refusal),
    /// The list, as the swarm signed it.
    #[n(6)]
    Revocations(#[n(0)] ByteVec),
}

/// A model and how many announce it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ModelCount {
    /// The model.
    #[n(0)]
    pub root: Digest,
    /// Nodes.
    #[n(1)]
    pub nodes: u32,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Refusal {
    /// Too many questions, or too many bytes.
    #[n(0)]
    Busy,
    /// The question is beyond a limit.
    #[n(1)]
    Limit,
}

/// Why an exchange came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// The connection.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    /// Not a message.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Too long.
    #[error("a {what} of {got} bytes, expected at most {limit}")]
    Length {
        /// What.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// Too many of something in an answer.
    #[error("an answer with {got} {what}, expected at most {limit}")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// The answer is to another question.
    #[error("the answer is to another question")]
    Other,
    /// The peer refuses.
    #[error("the peer refuses: {0:?}")]
    Refused(Refusal),
    /// It takes too long.
    #[error("no answer within 10 s")]
    Timeout,
}

/// Reads a request.
///
/// # Errors
/// [`ExchangeError`] if it is none.
pub async fn read_request(stream: &mut Stream) -> Result<Request, ExchangeError> {
    let bytes = read(stream, "request", l::REQUEST_BYTES_MAX).await?;
    Ok(cbor::decode("request of the swarm", &bytes)?)
}

/// Writes an answer, with the bytes that belong to it.
///
/// # Errors
/// If the connection is lost.
pub async fn write_answer(stream: &mut Stream, answer: &Answer) -> Result<(), ExchangeError> {
    write(stream, &cbor::encode(answer)).await?;
    if let Answer::Bytes(count) = answer {
        let zeros = [0; 16 << 10];
        let mut left = *count as usize;
        while left > 0 {
            let now = left.min(zeros.len());
            stream.write_all(&zeros[..now]).await?;
            left -= now;
        }
    }
    stream.flush().await?;
    Ok(stream.close().await?)
}

/// Asks, and hears the answer.
///
/// # Errors
/// [`ExchangeError`] if there is none, or none to this question.
pub async fn ask(stream: Stream, request: Request) -> Result<Answer, ExchangeError> {
    let asked = async {
        let mut stream = stream;
        write(&mut stream, &cbor::encode(&request)).await?;
        stream.flush().await?;
        let bytes = read(&mut stream, "answer", l::ANSWER_BYTES_MAX).await?;
        let answer: Answer = cbor::decode("answer of the swarm", &bytes)?;
        check(&request, &answer)?;
        Ok(answer)
    };
    tokio::time::timeout(l::EXCHANGE_TIMEOUT, asked).await.map_err(|_| ExchangeError::Timeout)?
}

/// Asks for `count` bytes, and measures how long they take from the first one on.
///
/// # Errors
/// [`ExchangeError`] if they do not come.
pub async fn measure(stream: Stream, count: u32) -> Result<Duration, ExchangeError> {
    let asked = async {
        let mut stream = stream;
        let request = Request::Bytes(count);
        write(&mut stream, &cbor::encode(&request)).await?;
        stream.flush().await?;
        let bytes = read(&mut stream, "answer", l::ANSWER_BYTES_MAX).await?;
        check(&request, &cbor::decode("answer of the swarm", &bytes)?)?;
        let began = Instant::now();
        let (mut buffer, mut left) = (vec![0; 16 << 10], count as usize);
        while left > 0 {
            let now = left.min(buffer.len());
            stream.read_exact(&mut buffer[..now]).await?;
            left -= now;
        }
        Ok(began.elapsed())
    };
    tokio::time::timeout(l::EXCHANGE_TIMEOUT, asked).await.map_err(|_| ExchangeError::Timeout)?
}

/// Whether `answer` is one to `request`, within the limits.
fn check(request: &Request, answer: &Answer) -> Result<(), ExchangeError> {
    let at_most = |what, got, limit| {
        if got <= limit { Ok(()) } else { Err(ExchangeError::Count { what, got, limit }) }
    };
    match (request, answer) {
        (_, Answer::Refused(why)) => Err(ExchangeError::Refused(*why)),
        (Request::Announcements(_), Answer::Announcements(list)) => {
            at_most("announcements", list.len(), l::ANSWER_ANNOUNCEMENTS_MAX)?;
            let longest = list.iter().map(|bytes| bytes.len()).max().unwrap_or(0);
            at_most("bytes of an announcement", longest, ANNOUNCEMENT_BYTES_MAX)
        }
        (Request::Models, Answer::Models(list)) => at_most("models", list.len(), l::ANSWER_MODELS_MAX),
        (Request::Peers, Answer::Peers(list)) => {
            at_most("peers", list.len(), l::ANSWER_PEERS_MAX)?;
            let longest = list.iter().map(String::len).max().unwrap_or(0);
            at_most("bytes of an address", longest, crate::p2p::limits::ADDRESS_BYTES_MAX)
        }
        (Request::Clock, Answer::Clock(_)) => Ok(()),
        // A list has its own limits, and whoever reads it keeps to them.
        (Request::Revocations, Answer::Revocations(_)) => Ok(()),
        (Request::Bytes(asked), Answer::Bytes(given)) if asked == given => Ok(()),
        _ => Err(ExchangeError::Other),
    }
}

async fn write(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(&(bytes.len() as u32).to_be_bytes()).await?;
    stream.write_all(bytes).await
}

/// Memory grows with the bytes that are there, not with the length that is claimed.
async fn read(stream: &mut Stream, what: &'static str, limit: usize) -> Result<Vec<u8>, ExchangeError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let got = u32::from_be_bytes(length) as usize;
    if got > limit {
        return Err(ExchangeError::Length { what, got, limit });
    }
    let mut bytes = Vec::new();
    stream.take(got as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < got {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every message has one encoding, which is read back.
    #[test]
    fn messages_are_read_back() {
        let root = Digest([7; 32]);
        for request in [
            Request::Announcements(root),
            Request::Models,
            Request::Peers,
            Request::Clock,
            Request::Bytes(l::STREAM_BYTES_MAX),
            Request::Revocations,
        ] {
            let bytes = cbor::encode(&request);
            assert!(bytes.len() <= l::REQUEST_BYTES_MAX);
            assert_eq!(cbor::decode::<Request>("request", &bytes).unwrap(), request);
        }
        for answer in [
            Answer::Announcements(vec![vec![1, 2].into(), Vec::new().into()]),
            Answer::Models(vec![ModelCount { root, nodes: 3 }]),
            Answer::Peers(vec!["/ip4/192.0.2.1/tcp/1".into()]),
            Answer::Clock(u64::MAX),
            Answer::Bytes(5),
            Answer::Refused(Refusal::Busy),
            Answer::Revocations(vec![1].into()),
        ] {
            assert_eq!(cbor::decode::<Answer>("answer", &cbor::encode(&answer)).unwrap(), answer);
        }
    }

    /// An answer to another question, a refusal, and answers beyond the limits are none.
    #[test]
    fn answers_are_checked() {
        let many = vec![ByteVec::from(Vec::new()); l::ANSWER_ANNOUNCEMENTS_MAX + 1];
        let long = vec![ByteVec::from(vec![0; ANNOUNCEMENT_BYTES_MAX + 1])];
        let root = Request::Announcements(Digest::ZERO);
        for (request, answer) in [
            (root, Answer::Announcements(many)),
            (root, Answer::Announcements(long)),
            (root, Answer::Models(Vec::new())),
            (root, Answer::Refused(Refusal::Limit)),
            (Request::Clock, Answer::Bytes(1)),
            (Request::Bytes(2), Answer::Bytes(1)),
            (Request::Peers, Answer::Peers(vec!["x".repeat(10_000)])),
            (Request::Peers, Answer::Peers(vec![String::new(); l::ANSWER_PEERS_MAX + 1])),
        ] {
            assert!(check(&request, &answer).is_err(), "{request:?}");
        }
        assert!(check(&root, &Answer::Announcements(Vec::new())).is_ok());
    }
}
