//! Leaves and proofs, which gateways ask for behind the end of a request.

use super::World;
use lockstep_mesh::message::{Leaves, ProofPage};

impl World {
    pub(super) fn request_leaves(&mut self, request: usize) {
        if let Some((stage, fetch)) = self.gateways[request].fetch.last() {
            let (stage, frame) = (*stage, fetch.request().to_frame());
            let sent = self.tell_stage(self.nodes.len() + request, stage, &frame);
            assert!(sent, "seed {}: stage {stage} is there", self.seed);
        }
    }

    pub(super) fn request_proof(&mut self, request: usize, stage: u16) {
        if let Some(fetch) = self.gateways[request].proving.get(&stage) {
            let frame = fetch.request().to_frame();
            let sent = self.tell_stage(self.nodes.len() + request, stage, &frame);
            assert!(sent, "seed {}: stage {stage} is there", self.seed);
        }
    }

    pub(super) fn proof(&mut self, request: usize, stage: u16, page: ProofPage) {
        let seed = self.seed;
        let gateway = &mut self.gateways[request];
        let fetch = gateway.proving.get_mut(&stage).expect("proofs come when they are asked for");
        if let Some(proof) = fetch.accept(page).unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
            gateway.proving.remove(&stage);
            gateway.proofs.push((stage, proof));
        }
        self.request_proof(request, stage);
    }

    pub(super) fn leaves(&mut self, request: usize, stage: u16, page: Leaves) {
        let seed = self.seed;
        let gateway = &mut self.gateways[request];
        let (asked, fetch) = gateway.fetch.last_mut().expect("leaves come when they are asked for");
        assert_eq!(*asked, stage, "seed {seed}: the stage that was asked");
        if let Some(span) = fetch.accept(page).unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
            gateway.fetch.pop();
            gateway.leaves.push((stage, span));
        }
        self.request_leaves(request);
    }
}
