//! Limits of the swarm, with their units.

/// Version of announcements.
pub const SWARM_VERSION: u8 = 1;
/// Bytes of an announcement, signature included: more than the fullest one.
pub const ANNOUNCEMENT_BYTES_MAX: usize = 8192;
/// Addresses of an announcement.
pub const ADDRESSES_MAX: usize = 8;
/// Bytes of one of them.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Adapters that an announcement names; a node with more names those that were asked for last.
pub const ADAPTERS_MAX: usize = 64;
/// Neighbours whose round trips an announcement tells.
pub const NEIGHBOURS_MAX: usize = 16;
/// Microseconds of the longest round trip that is told.
pub const RTT_MAX_US: u32 = 60_000_000;
/// Milli-tokens per second through one layer: the fastest that is believed.
pub const RATE_MAX_MILLI: u64 = 1_000_000_000_000;

/// Milliseconds of the shortest lease.
pub const LEASE_MIN_MS: u32 = 1_000;
/// Milliseconds of the longest lease: a ghost haunts no longer.
pub const LEASE_MAX_MS: u32 = 600_000;
/// Milliseconds of the lease in a small swarm.
pub const LEASE_DEFAULT_MS: u32 = 90_000;
/// Milliseconds of lease for each member: in a large swarm leases grow with it, so that each node
/// hears at most 3 * 60,000 / 30 = 6,000 announcements a minute.
pub const LEASE_MS_PER_MEMBER: u32 = 30;
/// Announcements within a lease, so that two may be lost.
pub const ANNOUNCEMENTS_PER_LEASE: u64 = 3;
/// Milliseconds between two announcements of one node at least, whatever changes.
pub const ANNOUNCE_GAP_MS: u64 = 2_000;

/// Announcements of all nodes and models that a directory keeps.
pub const ENTRIES_MAX: usize = 65_536;
/// Announcements of one model.
pub const MODEL_ENTRIES_MAX: usize = 32_768;
/// Bytes of all announcements.
pub const DIRECTORY_BYTES_MAX: usize = 64 << 20;
/// Models of one node.
pub const NODE_MODELS_MAX: usize = 8;
/// Announcements of one node in a minute.
pub const NODE_ANNOUNCEMENTS_PER_MINUTE: u32 = 40;
/// Announcements whose lease ended that are remembered, so that they cannot be said again.
pub const ENDED_MAX: usize = 65_536;
