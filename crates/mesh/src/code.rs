//! Error codes: what a node tells its owner (and a peer) when something cannot be done.

use minicbor::{Decode, Encode};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $id:literal;)*) => {
        /// The kind of an [`crate::message::Fault`]. Numbers are stable; see `docs/spec/protocol.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
        #[cbor(index_only)]
        #[non_exhaustive]
        pub enum Code { $($(#[$doc])* #[n($id)] $name,)* }

        impl Code {
            /// Every code with its number.
            pub const ALL: &'static [(Code, u16)] = &[$((Code::$name, $id),)*];

            /// The number on the wire.
            #[must_use]
            pub fn number(self) -> u16 {
                match self { $(Code::$name => $id,)* }
            }
        }
    };
}

codes! {
    /// No common protocol version.
    Version = 1;
    /// The message or frame could not be read.
    Malformed = 2;
    /// The message is known and has no place here.
    Unexpected = 3;
    /// The task is not open here.
    UnknownTask = 4;
    /// The task is open already.
    DuplicateTask = 5;
    /// Another model is served.
    ModelRoot = 6;
    /// Another opset is served.
    Opset = 7;
    /// Another part is served.
    Part = 8;
    /// Parameters that do not fit: digest, range, missing where the head is.
    Parameters = 9;
    /// All places are taken; try again later.
    Busy = 10;
    /// The sender may not say this about the task.
    NotAllowed = 11;
    /// Only branch 0 is served.
    Branch = 12;
    /// Data do not begin where the last ones ended.
    Position = 13;
    /// Positions beyond what was opened, or beyond the context.
    Context = 14;
    /// Tokens where rows were expected or the other way round, or rows of another width.
    Shape = 15;
    /// A residual value or token out of its range.
    Range = 16;
    /// A truncation behind what was signed.
    Truncate = 17;
    /// More positions in flight than the window allows.
    Window = 18;
    /// The arithmetic ended with a range error.
    Compute = 19;
    /// A neighbour was lost.
    PeerLost = 20;
    /// Nothing was heard for too long.
    Idle = 21;
    /// The leaves asked for are not (or no longer) here.
    NoLeaves = 22;
    /// A fault of this node.
    Internal = 23;
    /// The adapter is not served here.
    Adapter = 24;
    /// There is no proof of this: not made here, not committed to, not kept any more, or not true.
    NoProof = 25;
    /// What left the stage is not kept any more, so that it cannot be sent again.
    NoBackup = 26;
}

impl Code {
    /// Whether a stage that says this may be replaced: it is gone, full, forgot the task or had it before, but nobody sent anything wrong.
    #[must_use]
    pub fn is_loss(self) -> bool {
        use Code::{Busy, DuplicateTask, Idle, Internal, PeerLost, UnknownTask};
        matches!(self, Busy | DuplicateTask | Idle | Internal | PeerLost | UnknownTask)
    }
}
