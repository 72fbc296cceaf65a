//! Which addresses are worth anything to whom.
//!
//! Addresses of peers are claims. A claim is believed as far as the claimant could have been reached by it from where we met:
//! whoever talks to us over the internet and says that it lives at 127.0.0.1 or 192.168.0.1 would have us knock at our own doors.

use super::limits::{ADDRESS_BYTES_MAX, PEER_ADDRESSES_MAX};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use std::net::{Ipv4Addr, Ipv6Addr};

/// How far an address means the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One machine.
    Machine,
    /// One local network.
    Local,
    /// Everywhere.
    Global,
}

/// The scope of `address`; `None` if nothing can be there (any address, multicast), or it is none of the transports.
#[must_use]
pub fn scope(address: &Multiaddr) -> Option<Scope> {
    if address.as_ref().len() > ADDRESS_BYTES_MAX {
        return None;
    }
    let mut parts = address.iter();
    let scope = match parts.next()? {
        Protocol::Ip4(ip) => scope_v4(ip)?,
        Protocol::Ip6(ip) => scope_v6(ip)?,
        _ => return None,
    };
    match (parts.next()?, parts.next()) {
        (Protocol::Tcp(port), None | Some(Protocol::P2p(_))) if port != 0 => Some(scope),
        (Protocol::Udp(port), Some(Protocol::QuicV1)) if port != 0 => Some(scope),
        _ => None,
    }
}

fn scope_v4(ip: Ipv4Addr) -> Option<Scope> {
    if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() {
        return None;
    }
    let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
    Some(match ip {
        ip if ip.is_loopback() => Scope::Machine,
        ip if ip.is_private() || ip.is_link_local() || shared => Scope::Local,
        _ => Scope::Global,
    })
}

fn scope_v6(ip: Ipv6Addr) -> Option<Scope> {
    if let Some(ip) = ip.to_ipv4_mapped() {
        return scope_v4(ip);
    }
    if ip.is_unspecified() || ip.is_multicast() {
        return None;
    }
    Some(match ip {
        ip if ip.is_loopback() => Scope::Machine,
        ip if ip.is_unique_local() || ip.is_unicast_link_local() => Scope::Local,
        _ => Scope::Global,
    })
}

/// Whether an address leads through a relay.
#[must_use]
pub fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// `address` without the peer at its end.
#[must_use]
pub fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

/// The peer at the end of `address`.
#[must_use]
pub fn peer_at_end(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// What of `claimed` is believed of a peer that was met at `met`: nothing of a narrower scope, and
/// [`PEER_ADDRESSES_MAX`] at most.
pub fn believed<'a>(claimed: impl IntoIterator<Item = &'a Multiaddr>, met: &Multiaddr) -> Vec<Multiaddr> {
    let narrowest = scope_of_way(met).unwrap_or(Scope::Global);
    let mut found: Vec<Multiaddr> = Vec::new();
    for address in claimed {
        let address = without_peer(address);
        if scope_of_way(&address).is_some_and(|scope| scope >= narrowest) && !found.contains(&address) {
            found.push(address);
        }
        if found.len() == PEER_ADDRESSES_MAX {
            break;
        }
    }
    found
}

/// As [`scope`], where an address through a relay has the scope of the relay.
#[must_use]
pub fn scope_of_way(address: &Multiaddr) -> Option<Scope> {
    if address.as_ref().len() > ADDRESS_BYTES_MAX {
        return None;
    }
    if is_relayed(address) {
        let relay: Multiaddr = address.iter().take_while(|part| *part != Protocol::P2pCircuit).collect();
        peer_at_end(&relay)?;
        return scope(&without_peer(&relay));
    }
    scope(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    /// Every kind of address has its scope; addresses that lead nowhere have none.
    #[test]
    fn scopes_of_addresses() {
        for (text, expected) in [
            ("/ip4/127.0.0.1/tcp/1", Some(Scope::Machine)),
            ("/ip6/::1/tcp/1", Some(Scope::Machine)),
            ("/ip4/192.168.7.7/udp/9/quic-v1", Some(Scope::Local)),
            ("/ip4/100.64.0.1/tcp/9", Some(Scope::Local)),
            ("/ip6/fe80::1/tcp/9", Some(Scope::Local)),
            ("/ip6/::ffff:127.0.0.1/tcp/9", Some(Scope::Machine)),
            ("/ip4/192.0.2.1/tcp/4001", Some(Scope::Global)),
            ("/ip6/2001:db8::1/udp/4001/quic-v1", Some(Scope::Global)),
            ("/ip4/0.0.0.0/tcp/4001", None),
            ("/ip4/224.0.0.1/tcp/4001", None),
            ("/ip4/192.0.2.1/tcp/0", None),
            ("/ip4/192.0.2.1/udp/4001", None),
            ("/ip4/192.0.2.1", None),
            ("/dns4/example.org/tcp/1", None),
            ("/unix/%2Ftmp%2Fs", None),
        ] {
            assert_eq!(scope(&at(text)), expected, "{text}");
        }
    }

    /// A peer met over the internet is not believed to live on this machine or in this local network.
    #[test]
    fn claims_of_narrower_scope_are_not_believed() {
        let claims = [at("/ip4/127.0.0.1/tcp/1"), at("/ip4/10.0.0.1/tcp/1"), at("/ip4/192.0.2.1/tcp/1")];
        for (met, expected) in
            [("/ip4/198.51.100.1/tcp/5", 1), ("/ip4/10.0.0.9/tcp/5", 2), ("/ip4/127.0.0.1/tcp/5", 3)]
        {
            assert_eq!(believed(&claims, &at(met)).len(), expected, "met at {met}");
        }
        let many: Vec<Multiaddr> = (1..100).map(|port| at(&format!("/ip4/192.0.2.1/tcp/{port}"))).collect();
        assert_eq!(believed(&many, &at("/ip4/198.51.100.1/tcp/5")).len(), PEER_ADDRESSES_MAX);
    }
}
