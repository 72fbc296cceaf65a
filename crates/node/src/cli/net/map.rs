//! `lockstep net map`: layers from left to right, nodes from top to bottom.
//!
//! ```text
//! model 3f2a61c0d4e5b6a7  4 layers, 3 nodes: complete, 1 on the rarest layer
//! 0x9ab1...  ##..  online     61.3 tokens/s a layer
//! 0x17cd...  ..#.  online     60.8 tokens/s a layer
//! 0x5e20...  ...#  draining   59.9 tokens/s a layer
//! held       1110
//! ```

use super::{LookArgs, ModelView, look, tokens};
use crate::cli::CommandResult;
use crate::output::table;
use lockstep_mesh::swarm::{Claims, State};
use serde_json::{Value, json};
use std::io::{Write as _, stdout};

/// Columns of a map. In a model with more layers a column is several of them.
const COLUMNS_MAX: usize = 96;

pub(super) async fn run(args: LookArgs) -> CommandResult {
    let as_json = args.json;
    let (_, models) = look(args).await?;
    if as_json {
        let models: Vec<Value> = models.iter().map(to_json).collect();
        writeln!(stdout(), "{}", json!({ "models": models }))?;
        return Ok(());
    }
    if models.is_empty() {
        writeln!(stdout(), "nobody announces a model")?;
    }
    for model in &models {
        write!(stdout(), "{}", draw(model))?;
    }
    Ok(())
}

fn state(state: State) -> &'static str {
    match state {
        State::Joining => "joining",
        State::Online => "online",
        State::Draining => "draining",
    }
}

/// The map as text.
fn draw(model: &ModelView) -> String {
    let n_layers = model.n_layers();
    let per_column = n_layers.div_ceil(COLUMNS_MAX).max(1);
    let columns: Vec<_> =
        (0..n_layers).step_by(per_column).map(|first| first..(first + per_column).min(n_layers)).collect();
    let holds = |claims: &Claims| -> String {
        let part = claims.part.first_layer as usize..claims.part.end_layer as usize;
        let whole = |column: &std::ops::Range<usize>| part.start <= column.start && column.end <= part.end;
        let some = |column: &std::ops::Range<usize>| part.start < column.end && column.start < part.end;
        columns
            .iter()
            .map(|column| {
                if whole(column) {
                    '#'
                } else if some(column) {
                    '+'
                } else {
                    '.'
                }
            })
            .collect()
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for claims in &model.nodes {
        let relayed = if claims.relayed { ", relayed" } else { "" };
        rows.push(vec![
            claims.node.to_string(),
            holds(claims),
            state(claims.state).into(),
            format!("{} tokens/s a layer{relayed}", tokens(claims.decode_milli)),
            claims.addresses.first().cloned().unwrap_or_default(),
        ]);
    }
    let held = columns.iter().map(|column| {
        let replicas =
            model.coverage.blocks[column.clone()].iter().map(|block| block.online).min().unwrap_or(0);
        char::from_digit(replicas, 10).unwrap_or('*')
    });
    rows.push(vec!["online".into(), held.collect()]);
    let scale = if per_column > 1 { format!(", {per_column} layers a column") } else { String::new() };
    let head = format!(
        "model {}  {n_layers} layers{scale}, {} nodes: {}\n",
        model.root.hex(),
        model.nodes.len(),
        model.verdict()
    );
    head + &table(&rows)
}

fn to_json(model: &ModelView) -> Value {
    let nodes = model.nodes.iter().map(|claims| {
        json!({
            "node": claims.node.to_string(),
            "part": claims.part.to_string(),
            "first_layer": claims.part.first_layer,
            "end_layer": claims.part.end_layer,
            "state": state(claims.state),
            "decode_milli_tokens_per_second": claims.decode_milli,
            "prefill_milli_tokens_per_second": claims.prefill_milli,
            "free_positions": claims.free_positions,
            "queue_depth": claims.queue_depth,
            "price_micro": claims.price_micro,
            "relayed": claims.relayed,
            "proves": claims.proves,
            "addresses": claims.addresses,
        })
    });
    let replicas: Vec<u32> = model.coverage.blocks.iter().map(|block| block.online).collect();
    json!({
        "model_root": model.root.hex(),
        "layers": model.n_layers(),
        "missing": model.missing(),
        "replicas": replicas,
        "nodes": nodes.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::p2p::random_key;
    use lockstep_base::Digest;
    use lockstep_base::part::Part;
    use std::ops::Range;

    /// A model with nodes of these layers.
    pub(in crate::cli::net) fn view(nodes: &[(Range<u32>, u32)]) -> ModelView {
        let claims = |(range, n_layers): &(Range<u32>, u32)| Claims {
            version: 1,
            node: random_key().id(),
            model_root: Digest([7; 32]),
            part: Part::layers(range.clone(), *n_layers),
            state: State::Online,
            start: 1,
            sequence: 1,
            lease_ms: 60_000,
            decode_milli: 1500,
            prefill_milli: 1500,
            free_positions: 1,
            queue_depth: 0,
            adapters: Vec::new(),
            price_micro: 0,
            addresses: Vec::new(),
            relayed: false,
            neighbours: Vec::new(),
            proves: false,
            coordinate: None,
        };
        ModelView::new(Digest([7; 32]), nodes.iter().map(claims).collect())
    }

    fn columns(model: &ModelView) -> Vec<String> {
        let cell = |line: &str| line.split_whitespace().nth(1).unwrap().to_owned();
        draw(model).lines().skip(1).map(cell).collect()
    }

    /// One column a layer; what is held and how often stands below each other.
    #[test]
    fn a_map_shows_who_holds_what() {
        let map = columns(&view(&[(0..2, 4), (0..3, 4), (3..4, 4)]));
        assert_eq!(map, ["##..", "###.", "...#", "2211"]);
    }

    /// A model with many layers fits the page.
    #[test]
    fn long_models_are_scaled() {
        let map = columns(&view(&[(0..200, 400), (200..401, 401)]));
        assert!(map.iter().all(|line| line.len() <= COLUMNS_MAX), "{map:?}");
        assert_eq!(map[2].matches('1').count(), map[2].len());
        assert!(draw(&view(&[(0..400, 400)])).contains("5 layers a column"));
    }
}
