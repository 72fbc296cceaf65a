//! Limits of the swarm's shell, with their units. Those of announcements are in [`lockstep_mesh::swarm::limits`], those of
//! connections in [`crate::p2p::limits`].

use std::time::Duration;

/// Peers that are kept in the file of known peers.
pub const KNOWN_PEERS_MAX: usize = 256;
/// Bytes of that file.
pub const KNOWN_FILE_BYTES_MAX: u64 = 256 << 10;
/// Known peers that are dialled at a time.
pub const KNOWN_DIALS_AT_ONCE: usize = 8;
/// Connected peers below which known ones are dialled.
pub const PEERS_WANTED: usize = 6;
/// First wait after a known peer was not reached; it doubles.
pub const REDIAL_MIN: Duration = Duration::from_secs(2);
/// Longest wait.
pub const REDIAL_MAX: Duration = Duration::from_secs(300);
/// Addresses that a host name stands for.
pub const HOST_ADDRESSES_MAX: usize = 4;

/// How often connections and known peers are looked after.
pub const MAINTAIN_INTERVAL: Duration = Duration::from_secs(2);
/// How often the file of known peers is written, if it changed.
pub const SAVE_INTERVAL: Duration = Duration::from_secs(2);
/// How often those who provide a model are looked up while its chain is not complete, and three times as often as else.
pub const LOOKUP_INTERVAL: Duration = Duration::from_secs(10);
/// How often the members' state machines are asked what to say.
pub const MEMBER_TICK: Duration = Duration::from_millis(500);

/// Bytes of a request of the exchange protocol.
pub const REQUEST_BYTES_MAX: usize = 256;
/// Bytes of an answer.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Announcements in an answer.
pub const ANSWER_ANNOUNCEMENTS_MAX: usize = 2048;
/// Models in an answer.
pub const ANSWER_MODELS_MAX: usize = 1024;
/// Peers in an answer.
pub const ANSWER_PEERS_MAX: usize = 32;
/// An exchange that takes longer has failed, at either end.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Exchanges that are served at a time.
pub const EXCHANGES_MAX: usize = 64;
/// Exchanges of one peer that are served at a time.
pub const EXCHANGES_PER_PEER: usize = 4;
/// Exchanges of one peer in a minute.
pub const EXCHANGES_PER_MINUTE: u32 = 120;
/// Bytes that one peer is sent in a minute to measure throughput.
pub const STREAM_BYTES_PER_MINUTE: u64 = 64 << 20;
/// Bytes of one measurement of throughput.
pub const STREAM_BYTES_MAX: u32 = 8 << 20;
/// Peers whose exchanges are counted.
pub const EXCHANGE_PEERS_MAX: usize = 4096;

/// Peers that are asked for announcements at a time.
pub const PULLS_AT_ONCE: usize = 8;
/// Peers that `net` asks.
pub const SURVEY_PEERS_MAX: usize = 64;
/// How long `net` looks around.
pub const SURVEY_TIME: Duration = Duration::from_secs(8);
/// How long a chain is looked for before a request is given up.
pub const FIND_TIMEOUT: Duration = Duration::from_secs(30);
