//! `lockstep net create`, `invite`, `revoke`: private swarms.

use crate::cli::CommandResult;
use crate::p2p::private::{Invite, Membership, Revocations, SwarmKey, seconds_now};
use crate::p2p::{Network, NetworkConfig, Topic, random_key};
use crate::swarm::exchange::{Answer, Request};
use crate::swarm::{JoinAddress, Swarm, SwarmConfig};
use lockstep_base::digest::unhex;
use lockstep_base::keys::NodeId;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Seconds of a day.
const DAY: u64 = 24 * 60 * 60;
/// How long to wait until connected peers have a new list.
const SPREAD_TIME: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// Where the key of a new swarm goes.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// File of the swarm's key: who has it invites and revokes
    #[arg(value_name = "FILE")]
    key: PathBuf,
}

/// Whom to invite.
#[derive(Debug, clap::Args)]
pub struct InviteArgs {
    /// File of the swarm's key
    #[arg(value_name = "FILE")]
    key: PathBuf,
    /// The invite: who has it may take part
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Days until it ends
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    days: u64,
    /// Address of a member, to join at; may be given several times
    #[arg(long = "join", value_name = "ADDRESS")]
    join: Vec<JoinAddress>,
}

/// Whom to revoke.
#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// File of the swarm's key
    #[arg(value_name = "FILE")]
    key: PathBuf,
    /// Id of an invite, as it was printed when it was made, or of a node
    #[arg(value_name = "ID", value_parser = parse_id)]
    id: NodeId,
    /// Address of a member, who tells the others; may be given several times
    #[arg(long = "join", value_name = "ADDRESS", required = true)]
    join: Vec<JoinAddress>,
}

fn parse_id(text: &str) -> Result<NodeId, String> {
    let digits = text.strip_prefix("0x").and_then(unhex);
    let id = digits.and_then(|bytes| bytes.try_into().ok()).map(NodeId);
    id.ok_or_else(|| format!("got {text:?}, expected 0x and 40 hexadecimal digits"))
}

pub(super) fn create(args: &CreateArgs) -> CommandResult {
    let swarm = SwarmKey::random();
    write_secret(&args.key, &swarm.to_text(), true)?;
    writeln!(stdout(), "swarm  {}", swarm.id())?;
    Ok(())
}

pub(super) fn invite(args: &InviteArgs) -> CommandResult {
    let swarm = read_key(&args.key)?;
    let end = seconds_now().saturating_add(args.days.saturating_mul(DAY));
    let invite = swarm.invite(end, args.join.clone());
    write_secret(&args.out, &invite.to_text(), true)?;
    writeln!(stdout(), "invite  {}", invite.id())?;
    Ok(())
}

/// Revokes, and waits until all members that are connected know.
pub(super) async fn revoke(args: RevokeArgs) -> CommandResult {
    let mut swarm = read_key(&args.key)?;
    if swarm.is_full() {
        return Err("the list of the revoked is full: create a new swarm and invite the others".into());
    }
    swarm.revoke(args.id);
    write_secret(&args.key, &swarm.to_text(), false)?;
    let list = swarm.revocations();
    let version = Revocations::parse(&list, swarm.id())?.version();

    let own: Invite = swarm.invite(seconds_now() + DAY, Vec::new());
    let key = random_key();
    let private = Membership::new(&own, &key, None);
    private.hear(&list)?;
    let config = NetworkConfig { private: Some(private), ..NetworkConfig::default() };
    let (network, _) = Network::with(&key, &config).await?;
    let (member, joined) = Swarm::start(network, SwarmConfig { join: args.join, known: None }).await?;
    joined?;
    let began = Instant::now();
    loop {
        member.network.publish(Topic::Swarm, list.clone()).await?;
        let (told, of) = told(&member, version, swarm.id()).await?;
        if told == of && of > 0 {
            writeln!(stdout(), "revoked  {}: {told} members know, they tell the others", args.id)?;
            return Ok(());
        }
        if began.elapsed() >= SPREAD_TIME {
            return Err(
                format!("revoked, but only {told} of {of} connected members answer that they know").into()
            );
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// How many connected members know the list, of how many.
async fn told(
    member: &Swarm,
    version: u64,
    swarm: NodeId,
) -> Result<(usize, usize), Box<dyn std::error::Error>> {
    let peers = member.network.status().await?.peers;
    let mut told = 0;
    for peer in &peers {
        if let Ok(Answer::Revocations(list)) = member.ask(peer.peer, Request::Revocations).await
            && Revocations::parse(&list, swarm).is_ok_and(|list| list.version() >= version)
        {
            told += 1;
        }
    }
    Ok((told, peers.len()))
}

fn read_key(path: &Path) -> Result<SwarmKey, String> {
    SwarmKey::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes a file that its owner alone can read; a `new` one replaces nothing.
fn write_secret(path: &Path, text: &str, new: bool) -> CommandResult {
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    if !new {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(named)?;
        file.write_all(text.as_bytes()).map_err(named)?;
        file.persist(path).map_err(|error| named(error.error))?;
        return Ok(());
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(named)?;
    Ok(())
}
