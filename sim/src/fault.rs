//! What can go wrong in a run, on purpose.

use lockstep_mesh::data::{Data, Values};
use lockstep_mesh::frame::{Channel, Frame, Kind};
use lockstep_mesh::limits::RESIDUAL_LIMIT;
use lockstep_mesh::message::Message;

/// A fault of one run. `event` counts everything that happens in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The node of a stage dies.
    Kill {
        /// Which stage.
        stage: u16,
        /// When.
        event: u64,
    },
    /// The network keeps two nodes apart for a while.
    Sever {
        /// One.
        a: u16,
        /// The other.
        b: u16,
        /// When.
        event: u64,
        /// For so many milliseconds.
        for_ms: u64,
    },
    /// The node of a stage goes on talking, but no job of it ever ends again.
    Hang {
        /// Which stage.
        stage: u16,
        /// When.
        event: u64,
    },
    /// The gateway of a request dies.
    KillGateway {
        /// Which request.
        request: usize,
        /// When.
        event: u64,
    },
    /// The user of a request wants no more tokens.
    Stop {
        /// Which request.
        request: usize,
        /// When.
        event: u64,
    },
    /// The user of a request goes away.
    Cancel {
        /// Which request.
        request: usize,
        /// When.
        event: u64,
    },
    /// The node of a stage signs with another key than it is known under.
    WrongKey {
        /// Which stage.
        stage: u16,
    },
    /// The node of a stage changes what it sends.
    Lie {
        /// Which stage.
        stage: u16,
        /// How.
        lie: Lie,
        /// The how-manieth message that fits, from 0.
        nth: u64,
    },
    /// A peer without part in the route sends what it likes to every node, at this event.
    Stranger {
        /// When.
        event: u64,
    },
}

/// How a node lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Another out root in a receipt.
    OutRoot,
    /// Another state root in a receipt.
    StateRoot,
    /// A flipped bit in the signature.
    Signature,
    /// A receipt of the next span.
    Span,
    /// A receipt of another stage.
    Stage,
    /// Other flags in a receipt.
    Flags,
    /// A receipt is not sent.
    SkipReceipt,
    /// A receipt is sent twice.
    RepeatReceipt,
    /// `Closed` without the closing receipt.
    SkipClosing,
    /// Another token than the one that was sampled.
    Token,
    /// A token outside the vocabulary.
    ForeignToken,
    /// One flipped bit in a residual row.
    Row,
    /// A residual value outside its range.
    RowRange,
    /// A row too many values wide.
    RowWidth,
    /// Data at another position.
    Position,
    /// Data of another branch.
    Branch,
    /// Data are sent twice.
    RepeatData,
    /// Data are not sent.
    SkipData,
    /// Another length of padding.
    Padding,
    /// Bytes that are no frame, on the control stream.
    ControlGarbage,
    /// Bytes that are no frame, on the stage stream.
    StageGarbage,
    /// A frame that is cut short, and then silence on that stream.
    HalfFrame,
}

impl Lie {
    /// Every lie.
    pub const ALL: [Lie; 22] = [
        Lie::OutRoot,
        Lie::StateRoot,
        Lie::Signature,
        Lie::Span,
        Lie::Stage,
        Lie::Flags,
        Lie::SkipReceipt,
        Lie::RepeatReceipt,
        Lie::SkipClosing,
        Lie::Token,
        Lie::ForeignToken,
        Lie::Row,
        Lie::RowRange,
        Lie::RowWidth,
        Lie::Position,
        Lie::Branch,
        Lie::RepeatData,
        Lie::SkipData,
        Lie::Padding,
        Lie::ControlGarbage,
        Lie::StageGarbage,
        Lie::HalfFrame,
    ];

    /// Whether it is told about messages of this kind.
    #[must_use]
    pub fn fits(self, frame: &Frame) -> bool {
        let message = || Message::from_bytes(&frame.payload).ok();
        match self {
            Lie::OutRoot
            | Lie::StateRoot
            | Lie::Signature
            | Lie::Span
            | Lie::Stage
            | Lie::Flags
            | Lie::SkipReceipt
            | Lie::RepeatReceipt => matches!(message(), Some(Message::Receipt { .. })),
            Lie::SkipClosing => {
                matches!(message(), Some(Message::Receipt { receipt, .. }) if receipt.flags & 1 == 1)
            }
            Lie::Token | Lie::ForeignToken => matches!(message(), Some(Message::Token(_))),
            Lie::Row | Lie::RowRange | Lie::RowWidth => frame.kind == Kind::Activations,
            Lie::Position | Lie::Branch | Lie::RepeatData | Lie::SkipData | Lie::StageGarbage => {
                frame.kind.channel() == Channel::Stage
            }
            Lie::Padding | Lie::ControlGarbage | Lie::HalfFrame => frame.kind == Kind::Control,
        }
    }

    /// What is sent instead. `bit` chooses among equal lies.
    #[must_use]
    pub fn tell(self, frame: &Frame, bit: usize) -> Vec<u8> {
        let honest = frame.to_bytes();
        match self {
            Lie::SkipReceipt | Lie::SkipData | Lie::SkipClosing => Vec::new(),
            Lie::RepeatReceipt | Lie::RepeatData => [honest.clone(), honest].concat(),
            Lie::ControlGarbage | Lie::StageGarbage => vec![0xff; 2000],
            Lie::HalfFrame => honest[..honest.len() / 2].to_vec(),
            Lie::Padding => {
                let mut bytes = honest;
                *bytes.last_mut().expect("frames are not empty") = 1;
                bytes
            }
            _ => match frame.kind {
                Kind::Control => self.message(frame, bit).to_frame().to_bytes(),
                _ => self.data(frame, bit).to_frame().to_bytes(),
            },
        }
    }

    fn message(self, frame: &Frame, bit: usize) -> Message {
        let mut message = Message::from_bytes(&frame.payload).expect("our own message");
        match (self, &mut message) {
            (Lie::OutRoot, Message::Receipt { receipt, .. }) => {
                receipt.out_root.0[bit % 32] ^= 1 << (bit % 8);
            }
            (Lie::StateRoot, Message::Receipt { receipt, .. }) => {
                receipt.state_root.0[bit % 32] ^= 1 << (bit % 8);
            }
            (Lie::Signature, Message::Receipt { receipt, .. }) => {
                receipt.signature.0[bit % 64] ^= 1 << (bit % 8);
            }
            (Lie::Span, Message::Receipt { receipt, .. }) => receipt.span += 1,
            (Lie::Stage, Message::Receipt { receipt, .. }) => receipt.stage += 1,
            (Lie::Flags, Message::Receipt { receipt, .. }) => receipt.flags ^= 1 << (bit % 8),
            (Lie::Token, Message::Token(token)) => token.token ^= 1,
            (Lie::ForeignToken, Message::Token(token)) => token.token = u32::MAX,
            _ => unreachable!("{self:?} does not fit {message:?}"),
        }
        message
    }

    fn data(self, frame: &Frame, bit: usize) -> Data {
        let mut data = Data::from_frame(frame).expect("our own data");
        let Data::Batch(batch) = &mut data else { unreachable!("nobody truncates") };
        match (self, &mut batch.values) {
            (Lie::Row, Values::Rows(rows)) => {
                let at = bit % rows.len();
                rows[at] ^= 1 << (bit % 8);
            }
            (Lie::RowRange, Values::Rows(rows)) => {
                let at = bit % rows.len();
                rows[at] = [RESIDUAL_LIMIT, -RESIDUAL_LIMIT - 1, i32::MAX, i32::MIN][bit % 4];
            }
            (Lie::RowWidth, Values::Rows(rows)) => rows.extend(vec![0; batch.count as usize]),
            (Lie::Position, _) => {
                batch.position += 1;
                batch.sample_from += 1;
            }
            (Lie::Branch, _) => batch.branch = 7,
            _ => unreachable!("{self:?} does not fit these data"),
        }
        data
    }
}
