//! `lockstep net`: what is known of a swarm, and how this machine is connected to it.

mod doctor;
mod map;
mod private;
mod status;

use super::CommandResult;
use super::join::JoinArgs;
use crate::p2p::random_key;
use crate::swarm::survey::{Survey, survey};
use crate::swarm::{JoinAddress, Swarm};
use lockstep_base::Digest;
use lockstep_mesh::swarm::coverage::Holding;
use lockstep_mesh::swarm::{Claims, Coverage};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

/// Look at a swarm: who serves which layers of which models, and how this machine is connected.
#[derive(Debug, clap::Subcommand)]
pub enum NetCommand {
    /// Peers, models and how completely they are served
    ///
    /// Examples:
    ///   lockstep net status --join /ip4/192.0.2.1/tcp/4001/p2p/16Uiu2...
    ///   lockstep net status --json
    #[command(verbatim_doc_comment)]
    Status(LookArgs),
    /// Every node with its layers, and how many hold each layer
    ///
    /// Examples:
    ///   lockstep net map --join example.org:4001
    ///   lockstep net map --model 3f2a
    #[command(verbatim_doc_comment)]
    Map(LookArgs),
    /// Whether others can reach this machine, and its clock, distance and throughput to peers
    ///
    /// Exit status 1 if something would keep a node on this machine from serving.
    ///
    /// Examples:
    ///   lockstep net doctor --join example.org:4001
    ///   lockstep net doctor --join example.org:4001 --listen /ip4/0.0.0.0/tcp/4001
    #[command(verbatim_doc_comment)]
    Doctor(doctor::DoctorArgs),
    /// Make the key of a new private swarm
    ///
    /// Example:
    ///   lockstep net create family.key
    #[command(verbatim_doc_comment)]
    Create(private::CreateArgs),
    /// Make an invite to a private swarm: a file for `node --invite`, to be kept like a key
    ///
    /// Prints the id by which it can be revoked.
    ///
    /// Example:
    ///   lockstep net invite family.key --out bob.invite --join example.org:4001
    #[command(verbatim_doc_comment)]
    Invite(private::InviteArgs),
    /// Take back an invite, or exclude a node: members close their connections with it within seconds
    ///
    /// Example:
    ///   lockstep net revoke family.key 0x5e20... --join example.org:4001
    #[command(verbatim_doc_comment)]
    Revoke(private::RevokeArgs),
}

/// Where to look, and what to show.
#[derive(Debug, clap::Args)]
pub struct LookArgs {
    #[command(flatten)]
    join: JoinArgs,
    /// Only the model whose root begins with these hexadecimal digits
    #[arg(long, value_name = "DIGITS")]
    model: Option<String>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(command: NetCommand) -> CommandResult {
    let runtime = super::runtime()?;
    let result = match command {
        NetCommand::Status(args) => runtime.block_on(status::run(args)),
        NetCommand::Map(args) => runtime.block_on(map::run(args)),
        NetCommand::Doctor(args) => runtime.block_on(doctor::run(args)),
        NetCommand::Create(args) => private::create(&args),
        NetCommand::Invite(args) => private::invite(&args),
        NetCommand::Revoke(args) => runtime.block_on(private::revoke(args)),
    };
    runtime.shutdown_background();
    result
}

/// Where to join where nothing is said: at the peers of before.
fn or_known(mut join: JoinArgs) -> JoinArgs {
    if !join.joins() {
        join.addresses.push(JoinAddress::Known);
    }
    join
}

/// Joins under a fresh key, looks around, and gives the models that are meant.
async fn look(args: LookArgs) -> Result<(Survey, Vec<ModelView>), Box<dyn Error>> {
    let key = random_key();
    let swarm: Arc<Swarm> = or_known(args.join).joining(&key)?.visit(&key).await?;
    let survey = survey(&swarm, None).await?;
    let mut models: BTreeMap<Digest, Vec<Claims>> = BTreeMap::new();
    for announcement in &survey.announcements {
        let claims = announcement.claims();
        models.entry(claims.model_root).or_default().push(claims.clone());
    }
    let wanted = args.model.unwrap_or_default().to_ascii_lowercase();
    let views = models.into_iter().filter(|(root, _)| root.hex().starts_with(&wanted));
    let views: Vec<ModelView> = views.map(|(root, nodes)| ModelView::new(root, nodes)).collect();
    if views.is_empty() && !wanted.is_empty() {
        return Err(format!("nobody announces a model whose root begins with {wanted:?}").into());
    }
    Ok((survey, views))
}

/// One model as it is announced.
struct ModelView {
    root: Digest,
    nodes: Vec<Claims>,
    coverage: Coverage,
}

impl ModelView {
    fn new(root: Digest, mut nodes: Vec<Claims>) -> ModelView {
        nodes.sort_by_key(|claims| (claims.part.first_layer, claims.part.end_layer, claims.node));
        // Nobody announces how many layers a model has. Who has the head ends at the last one.
        let ends = |head: bool| {
            nodes.iter().filter(move |node| node.part.head || !head).map(|node| node.part.end_layer).max()
        };
        let n_layers = ends(true).or_else(|| ends(false)).unwrap_or(0);
        let coverage = Coverage::of(n_layers, nodes.iter().filter_map(Holding::of));
        ModelView { root, nodes, coverage }
    }

    fn n_layers(&self) -> usize {
        self.coverage.blocks.len()
    }

    /// What keeps the model from being served; empty if nothing does.
    fn missing(&self) -> Vec<String> {
        let holes = self.coverage.holes().into_iter();
        let mut missing: Vec<String> =
            holes.map(|hole| format!("layers {}..{}", hole.start, hole.end)).collect();
        missing.extend((self.coverage.embeds == 0).then(|| "embedding".into()));
        missing.extend((self.coverage.heads == 0).then(|| "head".into()));
        missing
    }

    /// In words: complete, or what is missing.
    fn verdict(&self) -> String {
        match self.missing() {
            missing if missing.is_empty() => {
                format!("complete, {} on the rarest layer", self.coverage.replicas())
            }
            missing => format!("missing {}", missing.join(", ")),
        }
    }
}

/// Milli-tokens per second in tokens per second.
fn tokens(milli: u64) -> String {
    format!("{:.1}", milli as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is missing of a model is named, and a whole one says how often.
    #[test]
    fn a_model_says_what_is_missing() {
        let view = map::tests::view(&[(0..2, 4), (3..4, 4)]);
        assert_eq!((view.n_layers(), view.verdict()), (4, "missing layers 2..3".into()));
        let view = map::tests::view(&[(0..2, 4), (2..4, 4), (0..4, 4)]);
        assert_eq!(view.verdict(), "complete, 2 on the rarest layer");
        let view = map::tests::view(&[(1..2, 4)]);
        assert_eq!(view.verdict(), "missing layers 0..1, embedding, head");
    }
}
