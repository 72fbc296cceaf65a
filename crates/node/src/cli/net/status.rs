//! `lockstep net status`.

use super::{LookArgs, ModelView, look, tokens};
use crate::cli::CommandResult;
use crate::output::table;
use crate::swarm::survey::Survey;
use serde_json::{Value, json};
use std::io::{Write as _, stdout};

pub(super) async fn run(args: LookArgs) -> CommandResult {
    let as_json = args.json;
    let (survey, models) = look(args).await?;
    if as_json {
        writeln!(stdout(), "{}", to_json(&survey, &models))?;
        return Ok(());
    }
    let network = &survey.network;
    writeln!(stdout(), "peers    {} connected, {} answered", network.peers.len(), survey.answered)?;
    let mut rows = vec![["peer", "at", "round trip", "program"].map(String::from).to_vec()];
    for peer in &network.peers {
        let name = peer.node.map_or_else(|| peer.peer.to_string(), |node| node.to_string());
        let way = peer.address.as_ref().map_or_else(String::new, ToString::to_string);
        let relayed = if peer.relayed { " (relayed)" } else { "" };
        let rtt = peer.rtt.map_or_else(|| "?".into(), |rtt| format!("{:.1} ms", rtt.as_secs_f64() * 1e3));
        rows.push(vec![name, format!("{way}{relayed}"), rtt, peer.agent.clone()]);
    }
    write!(stdout(), "{}", table(&rows))?;
    writeln!(stdout(), "\nmodels   {}", models.len())?;
    let mut rows = vec![["model", "layers", "nodes", "weakest layer", ""].map(String::from).to_vec()];
    for model in &models {
        rows.push(vec![
            model.root.hex()[..16].into(),
            model.n_layers().to_string(),
            model.nodes.len().to_string(),
            format!("{} tokens/s", tokens(model.coverage.weakest_milli())),
            model.verdict(),
        ]);
    }
    write!(stdout(), "{}", table(&rows))?;
    Ok(())
}

fn to_json(survey: &Survey, models: &[ModelView]) -> Value {
    let peers = survey.network.peers.iter().map(|peer| {
        json!({
            "peer": peer.peer.to_string(),
            "node": peer.node.map(|node| node.to_string()),
            "address": peer.address.as_ref().map(ToString::to_string),
            "listens": peer.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "relayed": peer.relayed,
            "rtt_us": peer.rtt.map(|rtt| rtt.as_micros() as u64),
            "agent": peer.agent,
        })
    });
    let models = models.iter().map(|model| {
        json!({
            "model_root": model.root.hex(),
            "layers": model.n_layers(),
            "nodes": model.nodes.len(),
            "complete": model.missing().is_empty(),
            "missing": model.missing(),
            "replicas": model.coverage.replicas(),
            "weakest_milli_tokens_per_second": model.coverage.weakest_milli(),
        })
    });
    json!({
        "peers": peers.collect::<Vec<_>>(),
        "answered": survey.answered,
        "table": survey.network.table,
        "models": models.collect::<Vec<_>>(),
    })
}
