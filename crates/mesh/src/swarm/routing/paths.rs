//! The dynamic programme over (layer, node).
//!
//! ```text
//! enter(l, j) = enter_j + layer_j + to_go(l + 1, j)                      j computes layer l, having been sent to
//! to_go(l, i) = min( layer_i + to_go(l + 1, i),                         i, which computed layer l - 1, goes on
//!                    min over j != i of link(i, j) + enter(l, j) )      or sends to another
//! to_go(L, i) = link(i, end)
//! ```
//!
//! The second minimum goes through the nodes in the order of `enter(l, .)` and ends where that alone is no better.
//!
//! **Coming back.** The cheapest chain may use a node twice, which no task can. Say node i computes layers before b
//! and again from c on, others those between. In any chain that uses each node once, i computes nothing from c on, or
//! nothing before b, or all of b..c. Each case is the same programme with less to choose from, and its optimum is a bound for all chains in it;
//! the case with the smallest bound is split further, until the cheapest chain is a simple one. That is exact. After
//! [`SEARCHES_MAX`] programmes (never seen outside tests) chains have to run to the end of what a node holds, which are always simple.

use super::links::Links;
use lockstep_base::rng::SplitMix64;
use std::collections::BTreeSet;
use std::ops::Range;

/// Programmes for one route at most.
const SEARCHES_MAX: usize = 64;
/// Attempts to draw a simple chain.
const DRAWS_MAX: usize = 8;
/// What cannot be done.
const NEVER: u64 = u64::MAX;

/// A node: layers are counted from the route's first, costs are nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) first: usize,
    pub(super) end: usize,
    /// May compute the route's first layer.
    pub(super) begins: bool,
    /// May compute the route's last layer.
    pub(super) finishes: bool,
    pub(super) layer_ns: u64,
    pub(super) enter_ns: u64,
    /// What the last layer costs more.
    pub(super) last_ns: u64,
}

/// One stage of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stage {
    pub(super) node: usize,
    pub(super) layers: Range<usize>,
    pub(super) network_ns: u64,
    pub(super) enter_ns: u64,
    pub(super) compute_ns: u64,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    pub(super) stages: Vec<Stage>,
    pub(super) cost_ns: u64,
}

/// The layered graph.
#[derive(Debug)]
pub(super) struct Paths {
    n_layers: usize,
    leave_anywhere: bool,
    candidates: Vec<Candidate>,
    links: Links,
    from_ns: Vec<u64>,
    to_ns: Vec<u64>,
}

/// What may be chosen: layers of each node, and the one node that a layer is left to.
#[derive(Clone, Debug)]
struct Case {
    windows: Vec<(usize, usize)>,
    only: Vec<Option<usize>>,
    leave_anywhere: bool,
}

/// A solved programme.
struct Table {
    to_go: Vec<Vec<u64>>,
    /// For each layer: cost of entering each node there, and the nodes in order of it.
    enter: Vec<Vec<u64>>,
    order: Vec<Vec<usize>>,
}

impl Paths {
    pub(super) fn new(
        n_layers: usize,
        cut_anywhere: bool,
        candidates: Vec<Candidate>,
        links: Links,
        from_ns: Vec<u64>,
        to_ns: Vec<u64>,
    ) -> Paths {
        Paths { n_layers, leave_anywhere: cut_anywhere, candidates, links, from_ns, to_ns }
    }

    /// The first layer that nobody holds.
    pub(super) fn uncovered(&self) -> Option<usize> {
        (0..self.n_layers).find(|l| !self.candidates.iter().any(|c| (c.first..c.end).contains(l)))
    }

    fn whole(&self, leave_anywhere: bool) -> Case {
        let windows = self.candidates.iter().map(|candidate| (candidate.first, candidate.end)).collect();
        Case { windows, only: vec![None; self.n_layers], leave_anywhere }
    }

    /// The cheapest chain.
    pub(super) fn best(&self) -> Option<Walk> {
        let mut open: Vec<(Walk, Case)> = Vec::new();
        let first = self.whole(self.leave_anywhere);
        let walk = self.cheapest(&first, &self.solve(&first))?;
        open.push((walk, first));
        let mut searches = 1;
        while let Some(at) = (0..open.len()).min_by_key(|i| open[*i].0.cost_ns) {
            let (walk, case) = open.swap_remove(at);
            let Some((node, before, after)) = comes_back(&walk) else { return Some(walk) };
            if searches + 3 > SEARCHES_MAX {
                break;
            }
            for case in split(&case, node, before, after) {
                searches += 1;
                open.extend(self.cheapest(&case, &self.solve(&case)).map(|walk| (walk, case)));
            }
        }
        let to_the_end = self.whole(false);
        // Entering anywhere and leaving at the end only.
        self.cheapest(&to_the_end, &self.solve_with(&to_the_end, self.leave_anywhere))
    }

    /// A random simple chain that costs at most `limit_ns`: at each layer any way on that keeps to it.
    pub(super) fn draw(&self, limit_ns: u64, rng: &mut SplitMix64) -> Option<Walk> {
        let case = self.whole(self.leave_anywhere);
        let table = self.solve(&case);
        (0..DRAWS_MAX).find_map(|_| self.draw_once(&case, &table, limit_ns, rng))
    }

    fn solve(&self, case: &Case) -> Table {
        self.solve_with(case, self.leave_anywhere)
    }

    fn solve_with(&self, case: &Case, enter_anywhere: bool) -> Table {
        let (layers, nodes) = (self.n_layers, self.candidates.len());
        let mut table = Table {
            to_go: vec![vec![NEVER; nodes]; layers + 1],
            enter: vec![vec![NEVER; nodes]; layers],
            order: vec![Vec::new(); layers],
        };
        for i in 0..nodes {
            if self.candidates[i].finishes {
                table.to_go[layers][i] = self.to_ns[i];
            }
        }
        for l in (0..layers).rev() {
            for j in 0..nodes {
                let may_enter = enter_anywhere || self.candidates[j].first == l;
                if may_enter && case.computes(j, l) {
                    let cost = self.layer_ns(j, l).saturating_add(table.to_go[l + 1][j]);
                    table.enter[l][j] = cost.saturating_add(self.candidates[j].enter_ns);
                }
            }
            let mut order: Vec<usize> = (0..nodes).filter(|j| table.enter[l][*j] != NEVER).collect();
            order.sort_unstable_by_key(|j| (table.enter[l][*j], *j));
            table.order[l] = order;
            for i in 0..nodes {
                if l > 0 && case.computes(i, l - 1) {
                    table.to_go[l][i] = self.next(case, &table, l, i).map_or(NEVER, |(cost, _)| cost);
                }
            }
        }
        table
    }

    /// What node `i`, which computed layer `l - 1`, does best: cost, and whom it sends to (`None`: it goes on itself).
    fn next(&self, case: &Case, table: &Table, l: usize, i: usize) -> Option<(u64, Option<usize>)> {
        let mut best = (NEVER, None);
        if case.computes(i, l) {
            best = (self.layer_ns(i, l).saturating_add(table.to_go[l + 1][i]), None);
        }
        if self.may_leave(case, i, l) {
            for j in &table.order[l] {
                let enter_ns = table.enter[l][*j];
                if enter_ns > best.0 {
                    break;
                }
                let cost = enter_ns.saturating_add(self.links.ns(i, *j));
                let lower = cost == best.0 && best.1.is_some_and(|other| *j < other);
                if *j != i && (cost < best.0 || lower) {
                    best = (cost, Some(*j));
                }
            }
        }
        (best.0 != NEVER).then_some(best)
    }

    fn cheapest(&self, case: &Case, table: &Table) -> Option<Walk> {
        let entries = table.order[0].iter().filter(|j| self.candidates[**j].begins);
        let first = *entries.min_by_key(|j| (table.enter[0][**j].saturating_add(self.from_ns[**j]), **j))?;
        self.walk(first, |l, i| self.next(case, table, l, i).map(|(_, to)| to))
    }

    fn draw_once(&self, case: &Case, table: &Table, limit_ns: u64, rng: &mut SplitMix64) -> Option<Walk> {
        let mut seen = BTreeSet::new();
        let fits = |spent: u64, more: u64| {
            more != NEVER && spent.checked_add(more).is_some_and(|sum| sum <= limit_ns)
        };
        let entries = table.order[0]
            .iter()
            .copied()
            .filter(|j| self.candidates[*j].begins && fits(self.from_ns[*j], table.enter[0][*j]));
        let first = any(entries, rng)?;
        seen.insert(first);
        // What fits is at most the limit, so these sums do not overflow.
        let mut spent = self.from_ns[first] + self.candidates[first].enter_ns + self.layer_ns(first, 0);
        self.walk(first, |l, i| {
            let stay =
                case.computes(i, l) && fits(spent, self.layer_ns(i, l).saturating_add(table.to_go[l + 1][i]));
            let leave = self.may_leave(case, i, l);
            let others = table.order[l].iter().copied().filter(|j| {
                let link_ns = self.links.ns(i, *j);
                leave && !seen.contains(j) && fits(spent, table.enter[l][*j].saturating_add(link_ns))
            });
            let to = any(stay.then_some(i).into_iter().chain(others), rng)?;
            spent += self.layer_ns(to, l);
            if to == i {
                return Some(None);
            }
            seen.insert(to);
            spent += self.links.ns(i, to) + self.candidates[to].enter_ns;
            Some(Some(to))
        })
    }

    /// The chain that begins at `first` and goes on as `step(layer, node)` says.
    fn walk(
        &self,
        first: usize,
        mut step: impl FnMut(usize, usize) -> Option<Option<usize>>,
    ) -> Option<Walk> {
        let stage = |node: usize, l: usize, network_ns: u64| Stage {
            node,
            layers: l..l + 1,
            network_ns,
            enter_ns: self.candidates[node].enter_ns,
            compute_ns: self.layer_ns(node, l),
        };
        let mut stages = vec![stage(first, 0, self.from_ns[first])];
        for l in 1..self.n_layers {
            let last = stages.last_mut()?;
            match step(l, last.node)? {
                None => {
                    last.layers.end = l + 1;
                    last.compute_ns = last.compute_ns.saturating_add(self.layer_ns(last.node, l));
                }
                Some(to) => {
                    let link_ns = self.links.ns(last.node, to);
                    stages.push(stage(to, l, link_ns));
                }
            }
        }
        let last = stages.last()?.node;
        let ways = stages.iter().flat_map(|stage| [stage.network_ns, stage.enter_ns, stage.compute_ns]);
        let cost_ns = ways.chain([self.to_ns[last]]).fold(0, u64::saturating_add);
        self.candidates[last].finishes.then_some(Walk { stages, cost_ns })
    }

    fn may_leave(&self, case: &Case, i: usize, l: usize) -> bool {
        case.leave_anywhere || self.candidates[i].end == l
    }

    fn layer_ns(&self, node: usize, l: usize) -> u64 {
        let candidate = &self.candidates[node];
        let more = if l + 1 == self.n_layers { candidate.last_ns } else { 0 };
        candidate.layer_ns.saturating_add(more)
    }
}

impl Case {
    fn computes(&self, node: usize, l: usize) -> bool {
        let (first, end) = self.windows[node];
        (first..end).contains(&l) && self.only[l].is_none_or(|only| only == node)
    }
}

/// A node that a chain comes back to: the end of its first visit and the beginning of the next one.
fn comes_back(walk: &Walk) -> Option<(usize, usize, usize)> {
    walk.stages.iter().enumerate().find_map(|(at, stage)| {
        let again = walk.stages[at + 1..].iter().find(|later| later.node == stage.node)?;
        Some((stage.node, stage.layers.end, again.layers.start))
    })
}

/// The three cases of a chain that leaves `node` at layer `b` and comes back at layer `c`.
fn split(case: &Case, node: usize, b: usize, c: usize) -> [Case; 3] {
    let (mut early, mut late, mut through) = (case.clone(), case.clone(), case.clone());
    early.windows[node].1 = early.windows[node].1.min(c);
    late.windows[node].0 = late.windows[node].0.max(b);
    // The layers before and behind are its own as well: it computed them in the chain that comes back.
    let layers = &mut through.only[b - 1..=c];
    if layers.iter().any(|only| only.is_some_and(|only| only != node)) {
        // Another one's already: nothing is left of this case.
        through.windows[node] = (0, 0);
    }
    layers.fill(Some(node));
    [early, late, through]
}

/// One of `items`, each as likely as the others.
fn any(items: impl Iterator<Item = usize>, rng: &mut SplitMix64) -> Option<usize> {
    (1..)
        .zip(items)
        .fold(None, |chosen, (count, item)| if rng.below(count) == 0 { Some(item) } else { chosen })
}
