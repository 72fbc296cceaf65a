//! Limits on what one client may ask for, with their units.

use std::time::Duration;

/// Bytes of a request body.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a client may take to send its body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests that are answered at once, over all models.
pub const REQUESTS_MAX: usize = 16;
/// Choices to one prompt.
pub const N_MAX: i64 = 8;
/// Prompts of one completion request.
pub const PROMPTS_MAX: usize = 8;
/// Answers of one request: prompts times choices.
pub const ANSWERS_MAX: usize = 16;
/// Messages of a chat.
pub const MESSAGES_MAX: usize = 1024;
/// Parts of one message's content.
pub const CONTENT_PARTS_MAX: usize = 1024;
/// Stop strings.
pub const STOP_STRINGS_MAX: usize = 4;
/// Bytes of one stop string.
pub const STOP_BYTES_MAX: usize = 256;
/// Largest temperature of OpenAI's API.
pub const TEMPERATURE_MAX: f64 = 2.0;
/// Tokens of an answer; the context is the real limit.
pub const MAX_TOKENS_MAX: i64 = i32::MAX as i64;
/// Tokens of an answer of `/v1/completions` where the client names no number (as OpenAI's).
pub const DEFAULT_COMPLETION_TOKENS: i64 = 16;
/// Alternatives that `logprobs` of `/v1/completions` may ask for (as OpenAI's).
pub const COMPLETION_LOGPROBS_MAX: i64 = 5;
/// Pause after which a stream sends a comment, so that nobody between takes it for dead.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Tokens of prompt and answer whose proof may be asked for: its time and memory are the server's.
pub const PROOF_TOKENS_MAX: usize = 128;
