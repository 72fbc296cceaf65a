//! A limit on incoming connections from one machine, whatever number of keys it has made.

use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::task::{Context, Poll};

/// Too many connections from one machine.
#[derive(Debug, thiserror::Error)]
#[error("{got} connections from {host}, expected at most {limit}")]
pub(super) struct Crowded {
    host: IpAddr,
    got: usize,
    limit: usize,
}

/// Counts and refuses.
#[derive(Debug)]
pub(super) struct HostLimit {
    limit: usize,
    of: HashMap<ConnectionId, IpAddr>,
    count: HashMap<IpAddr, usize>,
}

impl HostLimit {
    pub(super) fn new(limit: usize) -> HostLimit {
        HostLimit { limit, of: HashMap::new(), count: HashMap::new() }
    }

    fn admit(&mut self, id: ConnectionId, address: &Multiaddr) -> Result<(), Crowded> {
        let Some(host) = host(address) else { return Ok(()) };
        let count = self.count.entry(host).or_default();
        if *count >= self.limit {
            return Err(Crowded { host, got: *count + 1, limit: self.limit });
        }
        *count += 1;
        self.of.insert(id, host);
        Ok(())
    }

    fn forget(&mut self, id: ConnectionId) {
        let Some(host) = self.of.remove(&id) else { return };
        if let Some(count) = self.count.get_mut(&host) {
            *count -= 1;
            if *count == 0 {
                self.count.remove(&host);
            }
        }
    }
}

/// Whose connections are counted together: an IPv4 address, or an IPv6 network of 64 bits. `None` for loopback, and for connections
/// through a relay, which limits them itself.
fn host(address: &Multiaddr) -> Option<IpAddr> {
    if address.iter().any(|part| part == Protocol::P2pCircuit) {
        return None;
    }
    match address.iter().next()? {
        Protocol::Ip4(ip) => (!ip.is_loopback()).then_some(ip.into()),
        Protocol::Ip6(ip) => {
            let network = Ipv6Addr::from(u128::from(ip) >> 64 << 64);
            (!ip.is_loopback()).then_some(network.into())
        }
        _ => None,
    }
}

impl NetworkBehaviour for HostLimit {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(id, remote).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => self.forget(connection_id),
            // Another behaviour may have refused what was admitted here.
            FromSwarm::ListenFailure(failure) => self.forget(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(limit: &mut HostLimit, id: usize, address: &str) -> bool {
        limit.admit(ConnectionId::new_unchecked(id), &address.parse().unwrap()).is_ok()
    }

    /// One machine gets its share, other machines get theirs, and what was closed counts no more.
    #[test]
    fn one_machine_has_so_many_connections() {
        let mut limit = HostLimit::new(2);
        assert!(admitted(&mut limit, 1, "/ip4/192.0.2.1/tcp/1"));
        assert!(admitted(&mut limit, 2, "/ip4/192.0.2.1/udp/2/quic-v1"));
        assert!(!admitted(&mut limit, 3, "/ip4/192.0.2.1/tcp/3"));
        assert!(admitted(&mut limit, 4, "/ip4/192.0.2.2/tcp/1"));
        limit.forget(ConnectionId::new_unchecked(1));
        assert!(admitted(&mut limit, 5, "/ip4/192.0.2.1/tcp/3"));
        for id in [2, 4, 5] {
            limit.forget(ConnectionId::new_unchecked(id));
        }
        assert!(limit.of.is_empty() && limit.count.is_empty());
    }

    /// A machine has a whole IPv6 network of 64 bits; loopback is not limited.
    #[test]
    fn what_is_one_machine() {
        let mut limit = HostLimit::new(1);
        assert!(admitted(&mut limit, 1, "/ip6/2001:db8::1/tcp/1"));
        assert!(!admitted(&mut limit, 2, "/ip6/2001:db8::2/tcp/1"));
        assert!(admitted(&mut limit, 3, "/ip6/2001:db8:0:1::1/tcp/1"));
        assert!(
            admitted(&mut limit, 4, "/ip4/127.0.0.1/tcp/1")
                && admitted(&mut limit, 5, "/ip4/127.0.0.1/tcp/2")
        );
    }
}
