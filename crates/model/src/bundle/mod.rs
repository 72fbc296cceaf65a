//! A bundle: a quantised, committed model in one memory-mappable file.
//!
//! Whoever serves or checks a model opens a bundle and trusts nothing in it: every entry that is
//! read is compared with the model root, and every number that the runtime relies on (shapes,
//! shifts, table ids, the accumulator's range) is checked first, so that a hostile bundle yields an
//! error with a name and never a panic. What is large is hashed in the background if the caller likes
//! ([`Bundle::load_unverified`]), behind one gate: [`Verification`]. **A node or a verifier needs only this module**: it uses
//! nothing of `source`, `float` or `quantise`, only `base` and (for [`Bundle::tokenizer`]) the
//! tokenizer's parser.
//!
//! # File
//! ```text
//! 0   8   magic "lockstep"           16  8   bytes of the manifest, u64
//! 8   4   version, u32 = 1           24  8   bytes of the file, u64
//! 12  4   kind, u32: 0 model, 1 adapter    32  32  model root
//! 64      manifest: deterministic CBOR, array of [entry, offset], sorted by name
//! then    the entries' bytes in the same order, each at the next multiple of 64, zeros between
//! ```
//! Integers are little-endian. The model root is `base::manifest::model_root` over the entries; the
//! offsets are not hashed, but there is exactly one layout, and any other is refused.
//!
//! | entry | bytes |
//! |---|---|
//! | `config` | CBOR of `base::config::ModelConfig` |
//! | `tables/exp2`, `tables/exp2_sample`, `tables/activation`, `tables/rope`, `tables/int4`, `tables/score_cap`, `tables/logit_cap` | the table, little-endian |
//! | `tables/alibi` | u16 and u8 a head |
//! | `embed`, `positions` | i16 codes, row after row |
//! | `layers.0003.q` (k, v, o, gate, up, down, router), `head` | packed codes, packed table ids, m of each row, s of each row, biases |
//! | `layers.0003.expert_gate` (expert_up, expert_down) | those of all experts, one below the other, as one layer |
//! | `layers.0003.q_norm` (k_norm, attn_post, ffn_post), `embed_norm` | epsilon u64, fractional bits i8, 1 if the mean is subtracted; mantissas i16, shifts i8, offsets i32 |
//! | `layers.0003.k_center` | i32 |
//! | `tokenizer` | CBOR array of kind and the file's bytes |
//! | `chat_template` | UTF-8 |

mod adapter;
mod entries;
mod error;
mod layout;
mod load;
mod magnitudes;
mod open;
pub mod structure;
mod text;
mod verify;
mod write;

pub use adapter::{open_adapter, read_adapter, write_adapter, write_adapter_file};
pub(crate) use entries::bits_of;
pub use entries::names;
pub use error::BundleError;
pub use layout::{HEADER_BYTES, KIND_ADAPTER, KIND_MODEL, MAGIC, Placed, SECTION_ALIGN, VERSION};
pub use open::Bundle;
pub use text::TokenizerSection;
pub use verify::{Loading, Verification, VerifyError};
pub use write::{Contents, write, write_file};
