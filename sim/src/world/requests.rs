//! Gateways: what their machines ask for is done, and what they say is written down.

use super::{End, World};
use crate::net::Peer;
use lockstep_base::keys::NodeId;
use lockstep_mesh::frame::Frame;
use lockstep_mesh::leaves::LeavesFetch;
use lockstep_mesh::message::Prove;
use lockstep_mesh::proofs::ProofFetch;
use lockstep_mesh::route::{self, Event, RouteStage};
use std::collections::VecDeque;

impl World {
    pub(super) fn gateway(&mut self, request: usize, input: route::Input) {
        let at = self.nodes.len() + request;
        // What follows from an effect comes after all effects of one step: they are about the nodes of that step.
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for effect in self.gateways[request].route.handle(self.net.now_ms(), input) {
                let (stage, frame) = match effect {
                    route::Effect::Message { stage, message } => (stage, message.to_frame()),
                    route::Effect::Data(data) => (0, data.to_frame()),
                    route::Effect::Replace { stage, tried } => {
                        inputs.push_back(self.replace(request, stage, &tried));
                        continue;
                    }
                    route::Effect::Event(event) => {
                        self.event(request, event);
                        continue;
                    }
                };
                if !self.tell_stage(at, stage, &frame) {
                    inputs.push_back(route::Input::PeerLost { stage, text: "connection closed".into() });
                }
            }
        }
    }

    /// The stage that a node serves for a request.
    pub(super) fn stage_at(&self, request: usize, peer: Peer) -> Option<u16> {
        self.gateways[request].at.iter().position(|at| *at == peer).map(|stage| stage as u16)
    }

    /// Another node that serves the same part and can be reached.
    fn replace(&mut self, request: usize, stage: u16, tried: &[NodeId]) -> route::Input {
        let at = self.nodes.len() + request;
        let taken = &self.gateways[request].at;
        let stages = taken.len();
        let same = |peer: &Peer| peer % stages == usize::from(stage) && self.net.connected(at, *peer);
        let free = |peer: &Peer| !tried.contains(&self.ids[*peer]) && !taken.contains(peer);
        let with = (0..self.nodes.len()).filter(same).find(free).map(|peer| {
            self.gateways[request].at[usize::from(stage)] = peer;
            self.gateways[request].replaced += 1;
            let node = self.ids[peer];
            let part = self.nodes[peer].node.info().part;
            RouteStage { node, address: format!("sim/{node}"), part }
        });
        route::Input::Replacement { stage, with }
    }

    /// Sends a frame to the node of a stage; whether there is a connection.
    pub(super) fn tell_stage(&mut self, at: Peer, stage: u16, frame: &Frame) -> bool {
        let peer = self.gateways[at - self.nodes.len()].at[usize::from(stage)];
        let connected = self.net.connected(at, peer);
        if connected {
            self.send(at, peer, frame);
        }
        connected
    }

    fn event(&mut self, request: usize, event: Event) {
        let gateway = &mut self.gateways[request];
        assert!(gateway.end.is_none(), "seed {}: nothing comes after the end, got {event:?}", self.seed);
        match event {
            Event::Token { token, .. } => gateway.shown.push(token),
            Event::Failed(failure) => gateway.end = Some(End::Failed(failure)),
            Event::Finished(outcome) => {
                if gateway.fetch_leaves {
                    let task = outcome.file.task;
                    for (stage, record) in (0..).zip(&outcome.file.stages) {
                        let spans = record.receipts.iter().map(|signed| signed.receipt.first_token);
                        gateway.fetch.extend(spans.map(|first| (stage, LeavesFetch::new(task, first))));
                    }
                    gateway.fetch.reverse();
                }
                if gateway.fetch_proofs {
                    let file = &outcome.file;
                    let prove = Prove {
                        task: file.task,
                        tokens: file.tokens.clone(),
                        generated: file.tokens.len() as u32 - file.prompt_tokens,
                        parameters: file.parameters.clone(),
                        weights: None,
                    };
                    let fetch = |stage| (stage, ProofFetch::new(prove.clone()));
                    gateway.proving = (0..file.stages.len() as u16).map(fetch).collect();
                }
                gateway.end = Some(End::Finished(outcome));
                self.request_leaves(request);
                let stages: Vec<u16> = self.gateways[request].proving.keys().copied().collect();
                stages.into_iter().for_each(|stage| self.request_proof(request, stage));
            }
            Event::Opened | Event::Progress { .. } | Event::Replaced { .. } => {}
        }
    }
}
