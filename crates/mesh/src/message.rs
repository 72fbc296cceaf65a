//! Control messages, in deterministic CBOR (RFC 8949, 4.2), on `/lockstep/control/1`.
//!
//! A message is an array of its number and its fields. Everything with a length is checked
//! against [`crate::limits`] while reading, so that the machines may trust what they are given.

mod prove;
mod token;

pub use prove::{ProofPage, Prove};
pub use token::{Alternative, Logprobs, Token};

use crate::code::Code;
use crate::frame::{Frame, Kind};
use crate::limits;
use lockstep_base::Digest;
use lockstep_base::cbor::{self, CborError};
use lockstep_base::keys::{NodeId, id_of_public};
use lockstep_base::leaf::StageSecrets;
use lockstep_base::limits::{CONTEXT_MAX, LEAF_BYTES_MAX, TOP_LOGPROBS_MAX};
use lockstep_base::params::{Parameters, TEMPERATURE_MAX_Q16};
use lockstep_base::part::Part;
use lockstep_base::receipt::WireReceipt;
use lockstep_base::receipt_file::ServedLeaf;
use minicbor::{Decode, Encode};

/// "Who are you": the first message between two peers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Hello {
    /// Frame versions that the sender reads.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub versions: Vec<u8>,
    /// Name and version of the sender's program.
    #[n(1)]
    pub agent: String,
}

/// What a node serves: the answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Info {
    /// Frame versions that the node reads.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub versions: Vec<u8>,
    /// Name and version of the node's program.
    #[n(1)]
    pub agent: String,
    /// The node's key, compressed (SEC 1). Its address is the node's name.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub public_key: [u8; 33],
    /// The model.
    #[n(3)]
    pub model_root: Digest,
    /// Its arithmetic.
    #[n(4)]
    pub opset: String,
    /// Its name for people.
    #[n(5)]
    pub model: String,
    /// What the node serves of it.
    #[n(6)]
    pub part: Part,
    /// Layers of the model.
    #[n(7)]
    pub n_layers: u32,
    /// Width of its residual stream.
    #[n(8)]
    pub d_model: u32,
    /// Its vocabulary.
    #[n(9)]
    pub vocab: u32,
    /// Its longest sequence.
    #[n(10)]
    pub context: u32,
    /// Tasks that the node takes.
    #[n(11)]
    pub tasks_max: u32,
    /// Tasks that it has now.
    #[n(12)]
    pub tasks_open: u32,
    /// Roots of the adapters that tasks may ask for.
    #[n(13)]
    pub adapters: Vec<Digest>,
    /// Whether it proves what it computed.
    #[n(14)]
    pub proves: bool,
}

impl Info {
    /// The node's name, from its key.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        id_of_public(&self.public_key)
    }
}

/// The next stage: who it is and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct NextHop {
    /// Its node.
    #[n(0)]
    pub node: NodeId,
    /// Its address, in the form of the transport.
    #[n(1)]
    pub address: String,
}

/// A new task for one stage.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Open {
    /// The task.
    #[n(0)]
    pub task: Digest,
    /// Index of the stage in its route.
    #[n(1)]
    pub stage: u16,
    /// What the stage serves.
    #[n(2)]
    pub part: Part,
    /// The model.
    #[n(3)]
    pub model_root: Digest,
    /// Its arithmetic.
    #[n(4)]
    pub opset: String,
    /// Where the salts of this stage's leaves come from.
    #[n(5)]
    pub secrets: StageSecrets,
    /// Digest of the sampling parameters, for the receipt.
    #[n(6)]
    pub parameters_digest: Digest,
    /// The parameters themselves: only the stage with the head needs them.
    #[n(7)]
    pub parameters: Option<Parameters>,
    /// Seed of the sampler.
    #[n(8)]
    pub sampler_seed: Digest,
    /// Positions that the task takes at most.
    #[n(9)]
    pub positions: u32,
    /// Full trace, or only boundaries and KV.
    #[n(10)]
    pub full_trace: bool,
    /// Log-probabilities of so many alternatives with each token.
    #[n(11)]
    pub logprobs: Option<u8>,
    /// Commitment to the audit class, zero without.
    #[n(12)]
    pub audit_class: Digest,
    /// Who sends the data: the stage before, or the owner itself.
    #[n(13)]
    pub previous: NodeId,
    /// Where the activations go; `None` for the stage with the head.
    #[n(14)]
    pub next: Option<NextHop>,
    /// Root of the adapter that all of the task is computed under, zero without.
    #[n(15)]
    pub adapter: Digest,
    /// Keep the rows that enter and leave, commit to them in the closing receipt, and prove afterwards what is asked for.
    #[n(16)]
    pub provable: bool,
    /// Keep what leaves until [`Message::Resend`] says where it goes: the stage takes the place of one that was lost.
    #[n(17)]
    pub held: bool,
}

/// A page of the leaves of one span.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Leaves {
    /// The task.
    #[n(0)]
    pub task: Digest,
    /// First token of the span.
    #[n(1)]
    pub first_token: u32,
    /// Which page.
    #[n(2)]
    pub page: u32,
    /// Pages of the span.
    #[n(3)]
    pub pages: u32,
    /// The leaves as they were computed: position by position, KV cache and trace together in execution order.
    #[n(4)]
    pub leaves: Vec<ServedLeaf>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Fault {
    /// The task, where it is about one.
    #[n(0)]
    pub task: Option<Digest>,
    /// Its kind.
    #[n(1)]
    pub code: Code,
    /// The stage at fault, as far as the sender knows.
    #[n(2)]
    pub stage: Option<u16>,
    /// For people: what was got and what was expected.
    #[n(3)]
    pub text: String,
}

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub enum Message {
    /// Either way: who are you.
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// Node: this is what I serve.
    #[n(1)]
    Info(#[n(0)] Box<Info>),
    /// Gateway: serve this task.
    #[n(2)]
    Open(#[n(0)] Box<Open>),
    /// Node: ready for data.
    #[n(3)]
    Opened {
        /// The task.
        #[n(0)]
        task: Digest,
    },
    /// Last stage: a sampled token.
    #[n(4)]
    Token(#[n(0)] Token),
    /// Node: a receipt in wire form.
    #[n(5)]
    Receipt {
        /// The task.
        #[n(0)]
        task: Digest,
        /// The receipt.
        #[cbor(n(1), with = "wire")]
        receipt: WireReceipt,
    },
    /// Gateway: sign what is left, once all positions below `end` are computed.
    #[n(6)]
    Close {
        /// The task.
        #[n(0)]
        task: Digest,
        /// Positions of the task.
        #[n(1)]
        end: u32,
    },
    /// Node: signed and forgotten, but for the leaves.
    #[n(7)]
    Closed {
        /// The task.
        #[n(0)]
        task: Digest,
    },
    /// Gateway: forget the task now, whatever is in flight.
    #[n(8)]
    Cancel {
        /// The task.
        #[n(0)]
        task: Digest,
    },
    /// Gateway: where are you?
    #[n(9)]
    Probe {
        /// The task.
        #[n(0)]
        task: Digest,
    },
    /// Node: this far.
    #[n(10)]
    Progress {
        /// The task.
        #[n(0)]
        task: Digest,
        /// Positions that are computed.
        #[n(1)]
        computed: u32,
        /// Positions that arrived.
        #[n(2)]
        received: u32,
    },
    /// Gateway: show the leaves of a span.
    #[n(11)]
    LeavesRequest {
        /// The task.
        #[n(0)]
        task: Digest,
        /// First token of the span.
        #[n(1)]
        first_token: u32,
        /// Which page.
        #[n(2)]
        page: u32,
    },
    /// Node: the leaves.
    #[n(12)]
    Leaves(#[n(0)] Leaves),
    /// Either way: something went wrong.
    #[n(13)]
    Error(#[n(0)] Fault),
    /// Gateway: prove your part of a closed task. The answer is the first page of the proof, once it is made.
    #[n(14)]
    Prove(#[n(0)] Box<Prove>),
    /// Gateway: show another page of a proof.
    #[n(15)]
    ProofRequest {
        /// The task.
        #[n(0)]
        task: Digest,
        /// Which page.
        #[n(1)]
        page: u32,
    },
    /// Node: a page of a proof.
    #[n(16)]
    Proof(#[n(0)] ProofPage),
    /// Gateway: from now on the data of this task come from another node. The answer is [`Rewired`](Self::Rewired).
    #[n(17)]
    Rewire {
        /// The task.
        #[n(0)]
        task: Digest,
        /// Who sends the data from now on.
        #[n(1)]
        previous: NodeId,
    },
    /// Node: nothing comes from the old one any more.
    #[n(18)]
    Rewired {
        /// The task.
        #[n(0)]
        task: Digest,
        /// Who sends the data from now on.
        #[n(1)]
        previous: NodeId,
        /// Positions that arrived.
        #[n(2)]
        received: u32,
    },
    /// Gateway: send what leaves your stage to this node, what left it before as well.
    #[n(19)]
    Resend {
        /// The task.
        #[n(0)]
        task: Digest,
        /// To whom.
        #[n(1)]
        next: NextHop,
        /// First position; `None` to go on where the last order ended.
        #[n(2)]
        from: Option<u32>,
        /// Hold what is at this position and behind it, until there is another order; `u32::MAX` holds nothing.
        #[n(3)]
        until: u32,
    },
    /// Node: a neighbour in this task is gone, or forgot it. The task goes on, and what leaves the stage is kept.
    #[n(20)]
    Lost {
        /// The task.
        #[n(0)]
        task: Digest,
        /// The neighbour.
        #[n(1)]
        peer: NodeId,
        /// [`Code::PeerLost`], or what the neighbour said.
        #[n(2)]
        code: Code,
    },
}

/// Why a payload is no message.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageError {
    /// Not deterministic CBOR of a known message.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// A text with control characters.
    #[error("{field} of a control message has control characters, expected none")]
    Control {
        /// Which field.
        field: &'static str,
    },
    /// Something in it is too long or too large.
    #[error("{field} of a control message is {got}, expected at most {limit}")]
    Limit {
        /// Which field.
        field: &'static str,
        /// Its length or value.
        got: u64,
        /// The limit.
        limit: u64,
    },
}

impl Message {
    /// The deterministic encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`MessageError`] if it is not exactly one message within the limits.
    pub fn from_bytes(bytes: &[u8]) -> Result<Message, MessageError> {
        let message: Message = cbor::decode("control message", bytes)?;
        message.check()?;
        Ok(message)
    }

    /// The frame that carries the message.
    #[must_use]
    pub fn to_frame(&self) -> Frame {
        Frame { kind: Kind::Control, payload: self.to_bytes() }
    }

    /// The task that the message is about.
    #[must_use]
    pub fn task(&self) -> Option<Digest> {
        match self {
            Message::Hello(_) | Message::Info(_) => None,
            Message::Open(open) => Some(open.task),
            Message::Token(token) => Some(token.task),
            Message::Leaves(leaves) => Some(leaves.task),
            Message::Error(fault) => fault.task,
            Message::Prove(prove) => Some(prove.task),
            Message::Proof(page) => Some(page.task),
            Message::Opened { task }
            | Message::Receipt { task, .. }
            | Message::Close { task, .. }
            | Message::Closed { task }
            | Message::Cancel { task }
            | Message::Probe { task }
            | Message::Progress { task, .. }
            | Message::LeavesRequest { task, .. }
            | Message::ProofRequest { task, .. }
            | Message::Rewire { task, .. }
            | Message::Rewired { task, .. }
            | Message::Lost { task, .. }
            | Message::Resend { task, .. } => Some(*task),
        }
    }

    /// The message's name, for error texts.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Message::Hello(_) => "Hello",
            Message::Info(_) => "Info",
            Message::Open(_) => "Open",
            Message::Opened { .. } => "Opened",
            Message::Token(_) => "Token",
            Message::Receipt { .. } => "Receipt",
            Message::Close { .. } => "Close",
            Message::Closed { .. } => "Closed",
            Message::Cancel { .. } => "Cancel",
            Message::Probe { .. } => "Probe",
            Message::Progress { .. } => "Progress",
            Message::LeavesRequest { .. } => "LeavesRequest",
            Message::Leaves(_) => "Leaves",
            Message::Error(_) => "Error",
            Message::Prove(_) => "Prove",
            Message::ProofRequest { .. } => "ProofRequest",
            Message::Proof(_) => "Proof",
            Message::Rewire { .. } => "Rewire",
            Message::Rewired { .. } => "Rewired",
            Message::Resend { .. } => "Resend",
            Message::Lost { .. } => "Lost",
        }
    }

    fn check(&self) -> Result<(), MessageError> {
        match self {
            Message::Hello(hello) => check_peer(&hello.versions, &hello.agent),
            Message::Info(info) => {
                check_peer(&info.versions, &info.agent)?;
                limit("opset", info.opset.len(), limits::OPSET_MAX)?;
                limit("model", info.model.len(), limits::NAME_MAX)?;
                limit("adapters", info.adapters.len(), limits::ADAPTERS_MAX)
            }
            Message::Open(open) => check_open(open),
            Message::Token(token) => {
                let top = token.logprobs.as_ref().map_or(0, |logprobs| logprobs.top.len());
                limit("top", top, TOP_LOGPROBS_MAX as usize)
            }
            Message::Leaves(leaves) => {
                let longest = leaves.leaves.iter().map(|leaf| leaf.bytes.len()).max();
                limit("bytes of a leaf", longest.unwrap_or(0), LEAF_BYTES_MAX)
            }
            Message::Prove(prove) => {
                limit("tokens", prove.tokens.len(), limits::PROVABLE_POSITIONS_MAX as usize + 1)?;
                check_parameters(&prove.parameters)
            }
            Message::Proof(page) => limit("bytes of a page", page.bytes.len(), limits::PROOF_PAGE_BYTES),
            Message::Resend { next, .. } => limit("next address", next.address.len(), limits::ADDRESS_MAX),
            Message::Error(fault) => {
                limit("text", fault.text.len(), limits::ERROR_TEXT_MAX)?;
                // It is shown to people: it must not steer their terminal.
                match fault.text.chars().any(char::is_control) {
                    true => Err(MessageError::Control { field: "text" }),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

impl Fault {
    /// A fault with its text cut to the limit, without control characters.
    #[must_use]
    pub fn new(task: Option<Digest>, code: Code, stage: Option<u16>, text: &str) -> Fault {
        let text = text.replace(char::is_control, " ");
        let mut end = text.len().min(limits::ERROR_TEXT_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Fault { task, code, stage, text: text[..end].to_owned() }
    }
}

fn limit(field: &'static str, got: usize, limit: usize) -> Result<(), MessageError> {
    if got <= limit {
        return Ok(());
    }
    Err(MessageError::Limit { field, got: got as u64, limit: limit as u64 })
}

fn check_peer(versions: &[u8], agent: &str) -> Result<(), MessageError> {
    limit("versions", versions.len(), limits::VERSIONS_MAX)?;
    limit("agent", agent.len(), limits::NAME_MAX)
}

pub(crate) fn check_open(open: &Open) -> Result<(), MessageError> {
    limit("opset", open.opset.len(), limits::OPSET_MAX)?;
    limit("positions", open.positions as usize, CONTEXT_MAX as usize)?;
    if open.provable {
        limit("provable positions", open.positions as usize, limits::PROVABLE_POSITIONS_MAX as usize)?;
    }
    limit("logprobs", open.logprobs.unwrap_or(0).into(), TOP_LOGPROBS_MAX as usize)?;
    if let Some(next) = &open.next {
        limit("next address", next.address.len(), limits::ADDRESS_MAX)?;
    }
    open.parameters.as_ref().map_or(Ok(()), check_parameters)
}

/// Checks sampling parameters against the limits of the protocol.
///
/// # Errors
/// The first that is too large.
pub fn check_parameters(parameters: &Parameters) -> Result<(), MessageError> {
    limit("temperature", parameters.temperature_q16 as usize, TEMPERATURE_MAX_Q16 as usize)?;
    limit("top_p", parameters.top_p_q16 as usize, lockstep_base::params::ONE_Q16 as usize)?;
    limit("stop_tokens", parameters.stop_tokens.len(), limits::STOP_TOKENS_MAX)?;
    limit("stop", parameters.stop.len(), limits::STOP_TEXTS_MAX)?;
    let longest = parameters.stop.iter().map(String::len).max().unwrap_or(0);
    limit("a stop text", longest, limits::STOP_TEXT_MAX)
}

/// A wire receipt is a byte string inside the message.
mod wire {
    use lockstep_base::receipt::WireReceipt;
    use minicbor::decode::Decoder;
    use minicbor::encode::{Encoder, Write};

    pub(super) fn encode<C, W: Write>(
        receipt: &WireReceipt,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&receipt.to_bytes())?.ok()
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<WireReceipt, minicbor::decode::Error> {
        WireReceipt::from_bytes(d.bytes()?)
            .map_err(|error| minicbor::decode::Error::message(error.to_string()))
    }
}
