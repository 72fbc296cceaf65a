//! Who is no part of any route.

use super::{Stream, World};
use lockstep_base::Digest;
use lockstep_base::params::Parameters;
use lockstep_mesh::code::Code;
use lockstep_mesh::data::{Batch, Data, Values};
use lockstep_mesh::frame::Channel;
use lockstep_mesh::message::{Fault as WireFault, Message, Open, Prove};

impl World {
    /// A stranger who somehow knows every task id tries everything that a frame can say.
    pub(super) fn intrude(&mut self) {
        let stranger = self.stranger();
        for stage in 0..self.nodes.len() {
            for request in 0..self.gateways.len() {
                let mut open = self.gateways[request].route.config().open_message(stage as u16);
                let task = open.task;
                open.model_root = Digest::ZERO;
                let other = Open { task: Digest::tagged("sim/stranger", &[&task.0]), ..open.clone() };
                let prove = Prove {
                    task,
                    tokens: vec![1, 2],
                    generated: 1,
                    parameters: Parameters::greedy(1),
                    weights: None,
                };
                let batch = Batch {
                    task,
                    branch: 0,
                    position: 0,
                    count: 1,
                    sample_from: 0,
                    values: Values::Tokens(vec![0]),
                };
                let messages = [
                    Message::Open(Box::new(open)),
                    Message::Open(Box::new(other)),
                    Message::Prove(Box::new(prove)),
                    Message::ProofRequest { task, page: 0 },
                    Message::Close { task, end: 1 },
                    Message::Cancel { task },
                    Message::Probe { task },
                    Message::LeavesRequest { task, first_token: 0, page: 0 },
                    Message::Error(WireFault::new(Some(task), Code::Internal, Some(0), "")),
                    Message::Closed { task },
                ];
                for message in messages {
                    self.send(stranger, stage, &message.to_frame());
                }
                self.send(stranger, stage, &Data::Batch(batch).to_frame());
                self.send(stranger, stage, &Data::Truncate { task, branch: 0, position: 0 }.to_frame());
            }
            if self.net.below(2) == 0 {
                let mut garbage = vec![0; 1 + self.net.below(5000) as usize];
                garbage.iter_mut().for_each(|byte| *byte = self.net.below(256) as u8);
                let channel = Channel::ALL[self.net.below(2) as usize];
                self.net.send(Stream { from: stranger, to: stage, channel }, &garbage);
            }
        }
    }
}
