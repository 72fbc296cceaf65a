//! How a command joins a swarm: the flags of `node`, `gateway`, `ask` and `net`.

use crate::config::data_directory;
use crate::p2p::private::{Invite, Membership};
use crate::p2p::reach::{Scope, scope, without_peer};
use crate::p2p::{Network, NetworkConfig};
use crate::swarm::{JoinAddress, Swarm, SwarmConfig};
use lockstep_base::keys::NodeKey;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

/// Digits of a private swarm's id in names of files.
const SWARM_DIGITS: usize = 16;

/// Where to join.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct JoinArgs {
    /// Join the swarm of the peer at this address: as `lockstep node` prints it, HOST:PORT, or "known" for the peers of before;
    /// may be given several times
    #[arg(long = "join", value_name = "ADDRESS")]
    pub addresses: Vec<JoinAddress>,
    /// Take part in a private swarm by this invite (`lockstep net invite`)
    #[arg(long, value_name = "FILE")]
    pub invite: Option<PathBuf>,
    /// File of known peers, through which a swarm is found again [default: peers.txt in the data folder]
    #[arg(long, value_name = "FILE")]
    pub peers: Option<PathBuf>,
}

/// A swarm that a command is to take part in.
#[derive(Debug)]
pub struct Joining {
    config: SwarmConfig,
    /// The place in it, if it is private.
    pub private: Option<Arc<Membership>>,
}

impl JoinArgs {
    /// Whether a swarm is to be joined.
    #[must_use]
    pub fn joins(&self) -> bool {
        !self.addresses.is_empty() || self.invite.is_some()
    }

    /// Whether everything to join is on this machine.
    #[must_use]
    pub fn only_this_machine(&self) -> bool {
        !self.addresses.is_empty()
            && self.addresses.iter().all(|address| match address {
                JoinAddress::Peer(address) => scope(&without_peer(address)) == Some(Scope::Machine),
                JoinAddress::Host(host, _) => ["localhost", "127.0.0.1", "::1"].contains(&host.as_str()),
                JoinAddress::Known => false,
            })
    }

    /// How the node with `key` is to be in the swarm. A private one keeps its own file of known peers.
    ///
    /// # Errors
    /// If the invite is none.
    pub fn joining(&self, key: &NodeKey) -> Result<Joining, Box<dyn Error>> {
        let kept = |name: &str| data_directory().map(|folder| folder.join(name));
        let Some(path) = &self.invite else {
            let known = self.peers.clone().or_else(|| kept("peers.txt"));
            let config = SwarmConfig { join: self.addresses.clone(), known };
            return Ok(Joining { config, private: None });
        };
        let invite = Invite::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = invite.swarm().to_string();
        let name = &name[2..][..SWARM_DIGITS];
        let join = if self.addresses.is_empty() { invite.join().to_vec() } else { self.addresses.clone() };
        let known = self.peers.clone().or_else(|| kept(&format!("peers-{name}.txt")));
        let membership = Membership::new(&invite, key, kept(&format!("revoked-{name}")));
        Ok(Joining { config: SwarmConfig { join, known }, private: Some(membership) })
    }
}

impl Joining {
    /// How to be in the swarm.
    #[must_use]
    pub fn config(&self) -> SwarmConfig {
        self.config.clone()
    }

    /// Joins over a network that is there.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn join(&self, network: Network) -> Result<Arc<Swarm>, Box<dyn Error>> {
        let (swarm, joined) = Swarm::start(network, self.config()).await?;
        joined?;
        Ok(swarm)
    }

    /// Joins as a peer that only dials.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn visit(&self, key: &NodeKey) -> Result<Arc<Swarm>, Box<dyn Error>> {
        let config = NetworkConfig { private: self.private.clone(), ..NetworkConfig::default() };
        let (network, _) = Network::with(key, &config).await?;
        self.join(network).await
    }
}
