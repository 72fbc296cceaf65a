//! Topics, what is heard in them, and who judges it.

use libp2p::PeerId;
use libp2p::gossipsub::{IdentTopic, MessageAcceptance};
use lockstep_base::Digest;
use lockstep_base::keys::NodeId;

/// What a topic is about. Its name is all that peers see of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Announcements of those who serve the model with this root.
    Model(Digest),
    /// What concerns everybody: keeps the swarm connected across models, and carries revocations.
    Swarm,
}

impl Topic {
    pub(super) fn ident(self) -> IdentTopic {
        IdentTopic::new(self.name())
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Topic::Model(root) => format!("/lockstep/model/1/{}", root.hex()),
            Topic::Swarm => "/lockstep/swarm/1".into(),
        }
    }
}

/// What a message is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New and true: passed on.
    Accept,
    /// Neither new nor wrong: not passed on, and nobody is blamed.
    Ignore,
    /// Wrong: not passed on, and whoever sent it loses score.
    Reject,
}

impl From<Verdict> for MessageAcceptance {
    fn from(verdict: Verdict) -> MessageAcceptance {
        match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        }
    }
}

/// Judges messages of a topic before they are passed on. It runs where all connections are served, so it must be quick.
pub type Judge = Box<dyn FnMut(&Heard) -> Verdict + Send>;

/// A message of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who signed the envelope.
    pub author: Option<NodeId>,
    /// The neighbour that passed it on.
    pub from: PeerId,
    /// What it says.
    pub bytes: Vec<u8>,
}
