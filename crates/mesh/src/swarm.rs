//! The swarm: who serves what, who should serve what, and the way of a request through it.
//!
//! Nobody is in charge. Each node says of itself what it serves ([`announcement`], sent by [`member`]), everybody keeps
//! what is said as long as its lease lasts ([`directory`]), and each decides for itself with the same integer
//! rules: a node where it helps most ([`placement`], [`rebalance`], [`mover`]), a gateway which nodes a request goes
//! through ([`routing`], [`scores`]), with round trips from [`coordinate`]s.
//! The rules are those of Petals (Borzunov et al., NeurIPS 2023), in integers and with what its users missed:
//! two replicas of every layer before throughput, leases, and exact routes. Formats and rules: docs/spec/swarm.md.
//!
//! State machines and functions: time, random words and bytes are arguments, what is to be sent is returned.

pub mod announcement;
pub mod coordinate;
pub mod coverage;
pub mod directory;
pub mod limits;
pub mod member;
pub mod mover;
pub mod placement;
pub mod plan;
pub mod rebalance;
pub mod routing;
pub mod scores;

pub use announcement::{Announcement, AnnouncementError, Claims, Neighbour, State};
pub use coordinate::Coordinate;
pub use coverage::{Coverage, Holding};
pub use directory::{Directory, HearError};
pub use member::Member;
