//! `lockstep net doctor`: whether a node on this machine would be of use, and what keeps it from that.

use super::or_known;
use crate::cli::CommandResult;
use crate::cli::join::JoinArgs;
use crate::output::table;
use crate::p2p::{Network, NetworkConfig, NetworkStatus, PeerStatus, random_key};
use crate::swarm::Swarm;
use crate::swarm::limits::{MAINTAIN_INTERVAL, STREAM_BYTES_MAX};
use crate::swarm::survey::{ClockOffset, clock_offset};
use libp2p::Multiaddr;
use serde_json::{Value, json};
use std::io::{Write as _, stdout};
use std::time::{Duration, Instant};

/// Peers that are measured.
const PEERS_MEASURED_MAX: usize = 4;
/// Milliseconds by which a clock may be off before it is worth a word.
const CLOCK_TOLERANCE_MS: i64 = 2_000;

/// What to examine.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    join: JoinArgs,
    /// Address to listen at while others test it; may be given several times [default: every interface, a free port]
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<Multiaddr>,
    /// Seconds to wait for others to test whether this machine can be reached
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    wait: u64,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// A peer and what was measured with it.
struct Examined {
    peer: PeerStatus,
    clock: Result<ClockOffset, String>,
    bytes_per_second: Result<f64, String>,
}

/// Whether others can reach this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reachable {
    Yes,
    Relayed,
    No,
    Unknown,
}

pub(super) async fn run(args: DoctorArgs) -> CommandResult {
    let key = random_key();
    let joining = or_known(args.join).joining(&key)?;
    let listen = if args.listen.is_empty() { everywhere(joining.private.is_some()) } else { args.listen };
    let config = NetworkConfig { listen, external: Vec::new(), private: joining.private.clone() };
    let (network, _listening) = Network::with(&key, &config).await?;
    let swarm = joining.join(network).await?;
    let status = tested(&swarm, Duration::from_secs(args.wait)).await?;
    let mut examined = Vec::new();
    for peer in status.peers.iter().take(PEERS_MEASURED_MAX) {
        let clock = clock_offset(&swarm, peer.peer).await.map_err(|error| error.to_string());
        let time = swarm.throughput(peer.peer, STREAM_BYTES_MAX).await;
        let rate = |time: Duration| f64::from(STREAM_BYTES_MAX) / time.as_secs_f64().max(1e-9);
        let bytes_per_second = time.map(rate).map_err(|error| error.to_string());
        examined.push(Examined { peer: peer.clone(), clock, bytes_per_second });
    }
    let reachable = reachable(&status);
    let findings = findings(reachable, &examined);
    if args.json {
        writeln!(stdout(), "{}", to_json(&status, reachable, &examined, &findings))?;
    } else {
        print(&status, reachable, &examined, &findings)?;
    }
    // A relayed node serves, if slowly; that nobody has tested says nothing.
    if reachable == Reachable::No {
        Err("a node on this machine cannot be reached by others".into())
    } else {
        Ok(())
    }
}

/// Every interface, by the transports of the swarm.
fn everywhere(private: bool) -> Vec<Multiaddr> {
    let transports: &[&str] = if private { &["tcp/0"] } else { &["tcp/0", "udp/0/quic-v1"] };
    transports.iter().map(|end| format!("/ip4/0.0.0.0/{end}").parse().expect("an address")).collect()
}

/// Waits until addresses of this machine were tested from outside and round trips measured, or for so long.
async fn tested(swarm: &Swarm, at_most: Duration) -> Result<NetworkStatus, Box<dyn std::error::Error>> {
    let began = Instant::now();
    loop {
        let status = swarm.network.status().await?;
        let measured = !status.peers.is_empty() && status.peers.iter().all(|peer| peer.rtt.is_some());
        let found = reachable(&status) == Reachable::Yes;
        if (measured && found) || began.elapsed() >= at_most {
            return Ok(status);
        }
        tokio::time::sleep(MAINTAIN_INTERVAL / 4).await;
    }
}

fn reachable(status: &NetworkStatus) -> Reachable {
    let direct = |address: &&Multiaddr| !crate::p2p::reach::is_relayed(address);
    if status.tested.iter().any(|test| test.result.is_ok()) || status.external.iter().any(|a| direct(&a)) {
        return Reachable::Yes;
    }
    match (status.external.is_empty(), status.tested.is_empty()) {
        (false, _) => Reachable::Relayed,
        (true, false) => Reachable::No,
        (true, true) => Reachable::Unknown,
    }
}

/// The offset of this clock against most of the peers: the median of theirs.
fn clock_ahead_ms(examined: &[Examined]) -> Option<i64> {
    let mut offsets: Vec<i64> =
        examined.iter().filter_map(|peer| Some(peer.clock.as_ref().ok()?.ahead_ms)).collect();
    offsets.sort_unstable();
    offsets.get(offsets.len() / 2).map(|ahead| ahead.saturating_neg())
}

/// What should be looked after, in words.
fn findings(reachable: Reachable, examined: &[Examined]) -> Vec<String> {
    let mut findings: Vec<String> = Vec::new();
    findings.extend(match reachable {
        Reachable::Yes => None,
        Reachable::Relayed => {
            Some("others reach this machine through a relay only: forward a port and give it with --external".into())
        }
        Reachable::No => Some(
            "others cannot reach this machine: open the port of --listen in the firewall, or forward one and give it with --external"
                .into(),
        ),
        Reachable::Unknown => Some("nobody has tested whether this machine can be reached".into()),
    });
    if let Some(ahead) = clock_ahead_ms(examined).filter(|ahead| ahead.saturating_abs() > CLOCK_TOLERANCE_MS)
    {
        findings.push(format!("this clock is {ahead} ms ahead of most peers: set it"));
    }
    if examined.is_empty() {
        findings.push("no peer is connected".into());
    }
    findings
}

fn print(
    status: &NetworkStatus,
    reachable: Reachable,
    examined: &[Examined],
    findings: &[String],
) -> CommandResult {
    writeln!(stdout(), "reachable  {}", format!("{reachable:?}").to_lowercase())?;
    for address in &status.listening {
        writeln!(stdout(), "listening  {address}")?;
    }
    for address in &status.external {
        writeln!(stdout(), "external   {address}")?;
    }
    for test in &status.tested {
        let result =
            test.result.as_ref().map_or_else(|why| format!("not reached: {why}"), |()| "reached".into());
        writeln!(stdout(), "tested     {}  {result}", test.address)?;
    }
    let mut rows = vec![["peer", "round trip", "its clock", "from it"].map(String::from).to_vec()];
    for one in examined {
        let rtt = one.peer.rtt.map_or_else(|| "?".into(), |rtt| format!("{:.1} ms", rtt.as_secs_f64() * 1e3));
        let clock = match &one.clock {
            Ok(clock) => format!("{:+} ms (+-{})", clock.ahead_ms, clock.uncertain_ms),
            Err(error) => error.clone(),
        };
        let rate = one.bytes_per_second.as_ref();
        let rate = rate.map_or_else(Clone::clone, |rate| format!("{:.1} MB/s", rate / 1e6));
        rows.push(vec![one.peer.peer.to_string(), rtt, clock, rate]);
    }
    write!(stdout(), "{}", table(&rows))?;
    for finding in findings {
        writeln!(stdout(), "! {finding}")?;
    }
    Ok(())
}

fn to_json(
    status: &NetworkStatus,
    reachable: Reachable,
    examined: &[Examined],
    findings: &[String],
) -> Value {
    let texts = |addresses: &[Multiaddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    let tested = status.tested.iter().map(|test| {
        json!({ "address": test.address.to_string(), "reached": test.result.is_ok(), "why": test.result.as_ref().err() })
    });
    let peers = examined.iter().map(|one| {
        json!({
            "peer": one.peer.peer.to_string(),
            "relayed": one.peer.relayed,
            "rtt_us": one.peer.rtt.map(|rtt| rtt.as_micros() as u64),
            "clock_ahead_ms": one.clock.as_ref().ok().map(|clock| clock.ahead_ms),
            "clock_uncertain_ms": one.clock.as_ref().ok().map(|clock| clock.uncertain_ms),
            "bytes_per_second": one.bytes_per_second.as_ref().ok().map(|rate| *rate as u64),
        })
    });
    json!({
        "reachable": format!("{reachable:?}").to_lowercase(),
        "listening": texts(&status.listening),
        "external": texts(&status.external),
        "tested": tested.collect::<Vec<_>>(),
        "relays": status.relays.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "clock_ahead_ms": clock_ahead_ms(examined),
        "peers": peers.collect::<Vec<_>>(),
        "findings": findings,
    })
}
