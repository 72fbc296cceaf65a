//! How a command joins a swarm: the flags of `node`, `gateway`, `ask` and `net`.

use crate::config::data_directory;
use crate::p2p::Network;
use crate::p2p::reach::{Scope, scope, without_peer};
use crate::swarm::{JoinAddress, Swarm, SwarmConfig};
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

/// Where to join.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct JoinArgs {
    /// Join the swarm of the peer at this address: as `lockstep node` prints it, HOST:PORT, or "known" for the peers of before;
    /// may be given several times
    #[arg(long = "join", value_name = "ADDRESS")]
    pub addresses: Vec<JoinAddress>,
    /// File of known peers, through which a swarm is found again [default: peers.txt in the data folder]
    #[arg(long, value_name = "FILE")]
    pub peers: Option<PathBuf>,
}

impl JoinArgs {
    /// Whether a swarm is to be joined.
    #[must_use]
    pub fn joins(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Whether everything to join is on this machine.
    #[must_use]
    pub fn only_this_machine(&self) -> bool {
        self.addresses.iter().all(|address| match address {
            JoinAddress::Peer(address) => scope(&without_peer(address)) == Some(Scope::Machine),
            JoinAddress::Host(host, _) => ["localhost", "127.0.0.1", "::1"].contains(&host.as_str()),
            JoinAddress::Known => false,
        })
    }

    /// How to be in the swarm.
    #[must_use]
    pub fn config(&self) -> SwarmConfig {
        let known = self.peers.clone().or_else(|| Some(data_directory()?.join("peers.txt")));
        SwarmConfig { join: self.addresses.clone(), known }
    }

    /// Joins over a network that is there, or says why that is not possible.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn join(&self, network: Network) -> Result<Arc<Swarm>, Box<dyn Error>> {
        let (swarm, joined) = Swarm::start(network, self.config()).await?;
        joined?;
        Ok(swarm)
    }
}
