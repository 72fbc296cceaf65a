//! What a run was, for people and for programs.

use super::Config;
use super::measure::{Balance, Searched};
use std::fmt::Write;

/// Thousandths of the best at which a swarm counts as balanced.
pub const BALANCED_PERMILLE: u64 = 900;

/// What the routes of one request take, nanoseconds for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Stages of the cheapest route as its gateway sees it.
    pub stages: Option<usize>,
    /// What that really takes.
    pub best_ns: Option<u64>,
    /// What a route drawn among those near it takes.
    pub drawn_ns: Option<u64>,
    /// What no route is faster than, for whoever knows everything.
    pub optimum_ns: Option<u64>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What was run.
    pub config: Config,
    /// The swarm every five seconds.
    pub balances: Vec<Balance>,
    /// A small swarm beside the best that a search finds: just before the shock, and at the end.
    pub searched: Vec<Searched>,
    /// Routes just before the shock.
    pub latencies: Vec<Latency>,
    /// Announcements that were made.
    pub announcements: u64,
    /// Announcements that one observer heard.
    pub heard: u64,
    /// Announcements that it refused, though honest.
    pub refused: u64,
    /// Times that a machine went to other layers.
    pub moves: u64,
    /// Whether the observer's directory is what the simulation computes.
    pub observer_agrees: bool,
}

impl Report {
    fn between(&self, from_ms: u64, to_ms: u64) -> impl Iterator<Item = &Balance> {
        self.balances.iter().filter(move |balance| (from_ms..to_ms).contains(&balance.at_ms))
    }

    /// The first measurement from `from_ms` on for which `holds`.
    fn first(&self, from_ms: u64, holds: impl Fn(&Balance) -> bool) -> Option<u64> {
        self.between(from_ms, u64::MAX).find(|balance| holds(balance)).map(|balance| balance.at_ms - from_ms)
    }

    /// Milliseconds from the start until the first complete chain.
    #[must_use]
    pub fn covered_after_ms(&self) -> Option<u64> {
        self.first(0, |balance| balance.complete)
    }

    /// Milliseconds from the last arrival until the weakest layer is balanced with two replicas.
    #[must_use]
    pub fn balanced_after_ms(&self) -> Option<u64> {
        self.first(self.config.arrive_ms, balanced)
    }

    /// Milliseconds from the shock until that is so again.
    #[must_use]
    pub fn recovered_after_ms(&self) -> Option<u64> {
        self.first(self.config.shock_ms, balanced)
    }

    /// The lowest and the median of the weakest layer, thousandths of the best, over the quarter of an hour before `to_ms`, or what of it
    /// comes after `from_ms`.
    #[must_use]
    pub fn settled_permille(&self, from_ms: u64, to_ms: u64) -> Option<(u64, u64)> {
        let from_ms = from_ms.max(to_ms.saturating_sub(900_000));
        let mut all: Vec<u64> = self.between(from_ms, to_ms).map(Balance::permille).collect();
        all.sort_unstable();
        Some((*all.first()?, all[all.len() / 2]))
    }

    /// Thousandths of the time from the last arrival on in which every layer was online.
    #[must_use]
    pub fn covered_permille(&self) -> u64 {
        let after = self.between(self.config.arrive_ms, u64::MAX);
        let (all, complete) = after
            .fold((0u64, 0), |(all, complete), balance| (all + 1, complete + u64::from(balance.complete)));
        complete * 1000 / all.max(1)
    }

    /// Announcements that a node heard in a minute.
    #[must_use]
    pub fn heard_per_minute(&self) -> u64 {
        self.heard * 60_000 / self.config.end_ms.max(1)
    }

    /// Median of what routes take, thousandths of the optimum: the cheapest as seen, and a drawn one; and how many failed.
    #[must_use]
    pub fn latency_permille(&self) -> (Option<u64>, Option<u64>, usize) {
        let median = |ns: fn(&Latency) -> Option<u64>| {
            let share = |latency: &Latency| Some(ns(latency)? * 1000 / latency.optimum_ns?.max(1));
            let mut all: Vec<u64> = self.latencies.iter().filter_map(share).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied()
        };
        let failed = self.latencies.iter().filter(|latency| latency.best_ns.is_none()).count();
        (median(|latency| latency.best_ns), median(|latency| latency.drawn_ns), failed)
    }

    fn searched_permille(&self, at_ms: u64) -> Option<u64> {
        self.searched.iter().find(|searched| searched.at_ms == at_ms).map(|searched| searched.permille)
    }

    /// The report as names and values, in order.
    fn values(&self) -> Vec<(&'static str, Option<u64>)> {
        let config = &self.config;
        let settled = self.settled_permille(config.arrive_ms + 300_000, config.shock_ms);
        let recovered = self.settled_permille(config.shock_ms + 600_000, config.end_ms);
        let (best, drawn, failed) = self.latency_permille();
        let optimum = {
            let mut all: Vec<u64> = self.latencies.iter().filter_map(|l| l.optimum_ns).collect();
            all.sort_unstable();
            all.get(all.len() / 2).map(|ns| ns / 1000)
        };
        let least = |from_ms, to_ms| self.between(from_ms, to_ms).map(|b| u64::from(b.replicas)).min();
        vec![
            ("nodes", Some(config.nodes as u64)),
            ("layers", Some(config.n_layers.into())),
            ("seed", Some(config.seed)),
            ("covered_after_ms", self.covered_after_ms()),
            ("balanced_after_ms", self.balanced_after_ms()),
            ("settled_lowest_permille", settled.map(|(lowest, _)| lowest)),
            ("settled_median_permille", settled.map(|(_, median)| median)),
            ("settled_replicas", least(config.arrive_ms + 300_000, config.shock_ms)),
            ("shock_replicas", least(config.shock_ms, config.end_ms)),
            ("recovered_after_ms", self.recovered_after_ms()),
            ("recovered_lowest_permille", recovered.map(|(lowest, _)| lowest)),
            ("recovered_median_permille", recovered.map(|(_, median)| median)),
            ("settled_permille_of_search", self.searched_permille(config.shock_ms)),
            ("recovered_permille_of_search", self.searched_permille(config.end_ms)),
            ("covered_permille_of_time", Some(self.covered_permille())),
            ("moves", Some(self.moves)),
            ("announcements", Some(self.announcements)),
            ("announcements_heard_per_node_and_minute", Some(self.heard_per_minute())),
            ("refused", Some(self.refused)),
            ("best_possible_latency_us", optimum),
            ("route_latency_permille_of_best_possible", best),
            ("drawn_route_latency_permille_of_best_possible", drawn),
            ("routes_failed", Some(failed as u64)),
        ]
    }

    /// One name and value a line.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.values() {
            let value = value.map_or_else(|| "never".to_owned(), |value| value.to_string());
            writeln!(text, "{:46} {value}", name.replace('_', " ")).expect("writing to a String cannot fail");
        }
        text
    }

    /// One JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        let fields = self.values().into_iter().map(|(name, value)| {
            let value = value.map_or_else(|| "null".to_owned(), |value| value.to_string());
            format!("\"{name}\":{value}")
        });
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    }
}

fn balanced(balance: &Balance) -> bool {
    balance.permille() >= BALANCED_PERMILLE && balance.replicas >= 2
}
