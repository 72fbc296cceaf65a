//! Where to join: an address of any peer of the swarm, or the peers that are known from before.

use super::limits::HOST_ADDRESSES_MAX;
use crate::p2p::reach::{peer_at_end, scope_of_way, without_peer};
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use std::fmt;
use std::str::FromStr;

/// An address to join at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinAddress {
    /// A multiaddr. With a peer at its end nobody else can answer; without one, whoever answers is believed to be in the swarm.
    Peer(Multiaddr),
    /// A host name or IP address, and a TCP port.
    Host(String, u16),
    /// The peers of the file of known peers.
    Known,
}

/// Why a text is no address to join at.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error(
    "{text:?} is no address to join at, expected /ip4/HOST/tcp/PORT/p2p/PEER as `lockstep node` prints it, HOST:PORT, or \"known\" for the peers of before"
)]
pub struct JoinAddressError {
    /// What was given.
    text: String,
}

impl FromStr for JoinAddress {
    type Err = JoinAddressError;

    fn from_str(text: &str) -> Result<JoinAddress, JoinAddressError> {
        let refused = || JoinAddressError { text: text.into() };
        if text == "known" {
            return Ok(JoinAddress::Known);
        }
        if text.starts_with('/') {
            let address = Multiaddr::from_str(text).map_err(|_| refused())?;
            let whole = peer_at_end(&address).is_none() || node_at_end(&address);
            if !whole || scope_of_way(&without_peer(&address)).is_none() {
                return Err(refused());
            }
            return Ok(JoinAddress::Peer(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(refused)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let fits = !host.is_empty()
            && host.len() <= 253
            && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._:".contains(c));
        if fits { Ok(JoinAddress::Host(host.into(), port)) } else { Err(refused()) }
    }
}

fn node_at_end(address: &Multiaddr) -> bool {
    peer_at_end(address).is_some_and(|peer| crate::p2p::node_of_peer(&peer).is_some())
}

impl fmt::Display for JoinAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinAddress::Peer(address) => write!(f, "{address}"),
            JoinAddress::Host(host, port) => write!(f, "{host}:{port}"),
            JoinAddress::Known => f.write_str("known"),
        }
    }
}

impl JoinAddress {
    /// The multiaddrs that it stands for; none for [`JoinAddress::Known`].
    ///
    /// # Errors
    /// What the resolver says.
    pub async fn resolve(&self) -> std::io::Result<Vec<Multiaddr>> {
        match self {
            JoinAddress::Peer(address) => Ok(vec![address.clone()]),
            JoinAddress::Known => Ok(Vec::new()),
            JoinAddress::Host(host, port) => {
                let found = tokio::net::lookup_host((host.as_str(), *port)).await?;
                let address = |found: std::net::SocketAddr| {
                    Multiaddr::from(found.ip()).with(Protocol::Tcp(found.port()))
                };
                Ok(found.map(address).take(HOST_ADDRESSES_MAX).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p2p::{peer_of_key, random_key};

    /// What can be joined at is taken and printed again; everything else is refused with what was expected.
    #[test]
    fn addresses_to_join_at() {
        let peer = peer_of_key(&random_key());
        for text in [
            format!("/ip4/192.0.2.1/tcp/4001/p2p/{peer}"),
            format!("/ip4/192.0.2.1/udp/4001/quic-v1/p2p/{peer}"),
            "/ip4/127.0.0.1/tcp/4001".into(),
            "example.org:4001".into(),
            "known".into(),
        ] {
            assert_eq!(text.parse::<JoinAddress>().unwrap().to_string(), text);
        }
        let v6: JoinAddress = "[::1]:4001".parse().unwrap();
        assert_eq!(v6, JoinAddress::Host("::1".into(), 4001));
        for text in
            ["", "example.org", ":1", "a:0", "a:99999", "/ip4/1.2.3.4", "/ip4/0.0.0.0/tcp/1", "a b:1", "/x"]
        {
            let error = text.parse::<JoinAddress>().unwrap_err().to_string();
            assert!(error.contains("expected"), "{text}: {error}");
        }
    }

    /// A host name becomes addresses of the transport.
    #[tokio::test]
    async fn hosts_are_resolved() {
        let found = "127.0.0.1:4001".parse::<JoinAddress>().unwrap().resolve().await.unwrap();
        assert_eq!(found, ["/ip4/127.0.0.1/tcp/4001".parse().unwrap()]);
    }
}
