//! Limits of the protocol, with their units. Those of formats are in [`lockstep_base::limits`].

/// Bytes: a frame's total length is a multiple of this, so that lengths tell little.
pub const FRAME_GRID: usize = 1024;
/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 8;
/// Bytes of a control message.
pub const CONTROL_PAYLOAD_MAX: usize = 2 << 20;
/// Width of the widest residual row (`ModelConfig::validate` refuses more).
pub const ROW_WIDTH_MAX: usize = 16_384;
/// Positions of one data frame, and so of one chunk of prefill.
pub const PREFILL_CHUNK_TOKENS: usize = 128;
/// Bytes of a data frame's own header: task 32, branch, position, count, sample from 4 each.
pub const DATA_HEADER_BYTES: usize = 48;
/// Bytes of a data frame's payload: header, the widest rows.
pub const DATA_PAYLOAD_MAX: usize = DATA_HEADER_BYTES + PREFILL_CHUNK_TOKENS * ROW_WIDTH_MAX * 4;
/// A residual value is at least the negative of this, and below it (arithmetic.md, 5).
pub const RESIDUAL_LIMIT: i32 = 1 << 28;

/// Positions of one task that were sent and that the slowest stage has not signed yet. The
/// gateway keeps to it, a stage refuses more.
pub const WINDOW_POSITIONS: u32 = 512;
/// Data frames of one task that wait in a stage. Frames of few positions fill it first.
pub const QUEUE_FRAMES_MAX: usize = 512;
/// Tasks that one node serves at a time.
pub const TASKS_MAX: usize = 64;
/// Positions that the open tasks of one node may come to together: what bounds its KV caches.
pub const TASK_POSITIONS_MAX: u64 = 1 << 18;
/// Adapters that one node serves: it names them all when it is asked what it serves.
pub const ADAPTERS_MAX: usize = 1024;
/// Task ids that a node remembers after their end: signing twice under one id would be
/// equivocation, so a known id is refused.
pub const TASKS_REMEMBERED: usize = 4096;
/// Milliseconds without a message after which a node forgets a task.
pub const TASK_IDLE_MS: u64 = 120_000;

/// Bytes of leaves in one `Leaves` page (at least one leaf is sent).
pub const LEAVES_PAGE_BYTES: usize = 1 << 20;
/// Bytes of leaves that a gateway takes for one span.
pub const SPAN_LEAVES_BYTES_MAX: usize = 512 << 20;
/// Pages that a gateway fetches for one span: a node that fills its pages needs no more, and one
/// that sends empty ones comes to an end.
pub const SPAN_LEAVES_PAGES_MAX: u32 = 2 * (SPAN_LEAVES_BYTES_MAX / LEAVES_PAGE_BYTES) as u32;
/// Bytes of leaves that a node keeps for requests, over all tasks.
pub const LEAF_STORE_BYTES: usize = 256 << 20;
/// Milliseconds for which a node serves the leaves of a task that was closed.
pub const LEAVES_KEEP_MS: u64 = 600_000;

/// Bytes of rows that a node keeps of what left its stage, over all open tasks: what a lost neighbour is replaced from.
pub const BACKUP_BYTES: usize = 1 << 30;
/// Stages of one request that a gateway replaces before it gives up.
pub const REPLACEMENTS_MAX: u32 = 16;
/// How often a gateway joins neighbours of one request again that lost each other, before it replaces one of them.
pub const MENDS_MAX: u32 = 8;
/// Positions between two orders of a gateway while a stage is computed again.
pub const RESEND_STEP: u32 = PREFILL_CHUNK_TOKENS as u32;

/// Positions of a task that stages commit to and may prove.
pub const PROVABLE_POSITIONS_MAX: u32 = 1023;
/// Positions of all open tasks of one node that it commits to.
pub const PROVABLE_TASKS_POSITIONS_MAX: u64 = 8 * PROVABLE_POSITIONS_MAX as u64;
/// Bytes of rows and proofs that a node keeps for requests, over all closed tasks.
pub const PROOF_STORE_BYTES: usize = 256 << 20;
/// Milliseconds for which a node keeps the rows and the proof of a task that was closed.
pub const PROOFS_KEEP_MS: u64 = 600_000;
/// Proofs that wait at a node while one is made.
pub const PROOF_QUEUE_MAX: usize = 4;
/// Bytes of one page of a proof.
pub const PROOF_PAGE_BYTES: usize = 1 << 20;
/// Bytes of a proof that a gateway takes for one stage.
pub const STAGE_PROOF_BYTES_MAX: usize = 64 << 20;

/// Milliseconds in which every stage must have opened a task.
pub const OPEN_TIMEOUT_MS: u64 = 30_000;
/// Milliseconds without progress after which a gateway asks every stage where it is.
pub const STALL_PROBE_MS: u64 = 5_000;
/// Milliseconds without progress after which a gateway gives up.
pub const PROGRESS_TIMEOUT_MS: u64 = 60_000;
/// Milliseconds in which every stage must have closed a task.
pub const CLOSE_TIMEOUT_MS: u64 = 30_000;
/// Milliseconds between two `Tick`s that a shell gives a state machine; timeouts are this exact.
pub const TICK_MS: u64 = 1_000;

/// Bytes of the text of an error message; longer texts are cut by who sends them.
pub const ERROR_TEXT_MAX: usize = 1024;
/// Bytes of a peer's address.
pub const ADDRESS_MAX: usize = 512;
/// Bytes of the name and version of a program, and of a model's name.
pub const NAME_MAX: usize = 128;
/// Bytes of an opset's name.
pub const OPSET_MAX: usize = 32;
/// Protocol versions that a peer may list.
pub const VERSIONS_MAX: usize = 16;
/// Stop tokens of a request.
pub const STOP_TOKENS_MAX: usize = 64;
/// Stop texts of a request.
pub const STOP_TEXTS_MAX: usize = 16;
/// Bytes of one stop text.
pub const STOP_TEXT_MAX: usize = 1024;
