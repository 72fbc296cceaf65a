//! Node processes of the demonstration.

use crate::p2p::PeerAddress;
use lockstep_base::part::Part;
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A node that has not said where it listens after this long has failed.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running node; dropping it ends the process.
#[derive(Debug)]
pub(super) struct NodeProcess {
    pub(super) address: PeerAddress,
    _child: Child,
}

impl NodeProcess {
    /// Starts a node for `part` of the embedded model; with `drill` it lies once and notes where; with `prove` it proves what it computed.
    pub(super) async fn start(
        part: &Part,
        drill: Option<&Path>,
        prove: bool,
    ) -> Result<NodeProcess, super::Error> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("node").arg("--json").arg("--until-eof").arg("--threads").arg("1");
        command.arg("--layers").arg(format!("{}..{}", part.first_layer, part.end_layer));
        if prove {
            command.arg("--prove");
        }
        if let Some(path) = drill {
            command.arg("--drill").arg(path);
        }
        // The pipe on standard input ends with this process, however it ends, and with it the node.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or("the node has no output")?;
        let mut lines = BufReader::new(output).lines();
        let line = tokio::time::timeout(START_TIMEOUT, lines.next_line())
            .await
            .map_err(|_| "a node did not start within 60 s")??
            .ok_or("a node ended before it listened")?;
        let told: Value = serde_json::from_str(&line)?;
        let address = told["address"].as_str().ok_or("a node told no address")?.parse()?;
        Ok(NodeProcess { address, _child: child })
    }
}
