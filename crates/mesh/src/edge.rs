//! Leaves of what enters and leaves a stage.
//!
//! Both neighbours of an edge hash the same bytes under the same secret, so the out root of one
//! stage is the in root of the next. Where tokens enter and leave, the gateway can do it as well.

use crate::data::Values;
use lockstep_base::Digest;
use lockstep_base::leaf;
use lockstep_base::op::{LAYER_EMBED, LAYER_HEAD, Op, Place};
use lockstep_base::part::Part;

/// The leaf of a token that enters the first stage.
#[must_use]
pub fn token_leaf(secret: &Digest, position: u32, token: u32) -> Digest {
    let place = Place { position, layer: LAYER_EMBED, op: Op::Token };
    single(secret, place, &token.to_le_bytes())
}

/// The leaf of the token that the last stage sampled from `position`, or of none.
#[must_use]
pub fn sample_leaf(secret: &Digest, position: u32, token: Option<u32>) -> Digest {
    let place = Place { position, layer: LAYER_HEAD, op: Op::Sample };
    match token {
        Some(token) => single(secret, place, &token.to_le_bytes()),
        None => single(secret, place, &[]),
    }
}

/// The leaves of a residual row that enters layer `layer`, the first of the downstream stage.
#[must_use]
pub fn row_leaves(secret: &Digest, position: u32, layer: u32, row: &[i32]) -> Vec<Digest> {
    let place = Place { position, layer: layer as u16, op: Op::Boundary };
    let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
    leaf::leaves(secret, place, 0, &bytes).map(|(_, _, hash)| hash).collect()
}

/// The leaves that enter a stage with `part`, one list a position.
#[must_use]
pub fn input_leaves(
    secret: &Digest,
    part: &Part,
    start: u32,
    count: usize,
    values: &Values,
) -> Vec<Vec<Digest>> {
    match values {
        Values::Tokens(tokens) => {
            (start..).zip(tokens).map(|(at, token)| vec![token_leaf(secret, at, *token)]).collect()
        }
        Values::Rows(rows) => rows_leaves(secret, part.first_layer, start, count, rows),
    }
}

/// The leaves of `count` rows that enter layer `layer`, one list a position.
#[must_use]
pub fn rows_leaves(secret: &Digest, layer: u32, start: u32, count: usize, rows: &[i32]) -> Vec<Vec<Digest>> {
    let width = (rows.len() / count.max(1)).max(1);
    (start..).zip(rows.chunks(width)).map(|(at, row)| row_leaves(secret, at, layer, row)).collect()
}

fn single(secret: &Digest, place: Place, bytes: &[u8]) -> Digest {
    leaf::leaf_hash(secret, &leaf::LeafIndex { place, chunk: 0 }, bytes)
}
