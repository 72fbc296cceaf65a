//! The shell of a node: the state machine of `lockstep-mesh` between libp2p streams and worker
//! threads.
//!
//! One actor owns the machine. Readers of streams hand it inputs through one bounded queue (a peer
//! that sends faster than we read is slowed by TCP), writers take frames from bounded outboxes (a
//! peer that reads slower than we send is cut off), and jobs run on blocking threads.

use super::identity::PeerAddress;
use super::network::{Accepted, Network};
use super::stream::{FrameReader, FrameWriter, split};
use lockstep_base::keys::NodeId;
use lockstep_mesh::frame::{Channel, Frame};
use lockstep_mesh::inbound::Incoming;
use lockstep_mesh::limits::{QUEUE_FRAMES_MAX, TICK_MS};
use lockstep_mesh::node::{Effect, Input, Node};
use lockstep_mesh::work::{Job, JobDone};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Inputs that wait for the actor.
const INPUTS_MAX: usize = 256;

enum Event {
    Input(Input),
    /// A peer opened a control stream; its outbox.
    Control(NodeId, mpsc::Sender<Frame>),
}

/// Serves `node` on `network` until `stop` becomes true or its sender is gone.
pub async fn serve(node: Node, network: Network, mut stop: watch::Receiver<bool>) {
    let (events, mut queue) = mpsc::channel(INPUTS_MAX);
    for channel in Channel::ALL {
        tokio::spawn(accept(channel, network.accept(channel), events.clone()));
    }
    let mut shell = Shell { node, network, events, outboxes: HashMap::new(), began: Instant::now() };
    let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
    loop {
        tokio::select! {
            event = queue.recv() => match event {
                Some(Event::Input(input)) => shell.handle(input),
                Some(Event::Control(peer, outbox)) => {
                    shell.outboxes.insert((peer, Channel::Control), outbox);
                }
                None => return,
            },
            _ = tick.tick() => shell.handle(Input::Tick),
            changed = stop.changed() => if changed.is_err() || *stop.borrow() { return },
        }
    }
}

/// Takes streams of one channel and reads each on a task of its own.
async fn accept(channel: Channel, mut incoming: mpsc::Receiver<Accepted>, events: mpsc::Sender<Event>) {
    while let Some(Accepted { node, stream, .. }) = incoming.recv().await {
        let (reader, writer) = split(stream, channel);
        if channel == Channel::Control {
            let (outbox, frames) = mpsc::channel(QUEUE_FRAMES_MAX);
            tokio::spawn(write(writer, frames, node, events.clone()));
            if events.send(Event::Control(node, outbox)).await.is_err() {
                return;
            }
        }
        tokio::spawn(read(reader, node, events.clone()));
    }
}

async fn read(mut reader: FrameReader, from: NodeId, events: mpsc::Sender<Event>) {
    // An error and a clean end are the same to the machine: nothing more comes from this peer.
    while let Ok(Some(incoming)) = reader.next().await {
        let input = match incoming {
            Incoming::Message(message) => Input::Message { from, message },
            Incoming::Data(data) => Input::Data { from, data },
        };
        if events.send(Event::Input(input)).await.is_err() {
            return;
        }
    }
    let _ = events.send(Event::Input(Input::PeerLost { peer: from })).await;
}

async fn write(
    mut writer: FrameWriter,
    mut frames: mpsc::Receiver<Frame>,
    peer: NodeId,
    events: mpsc::Sender<Event>,
) {
    while let Some(frame) = frames.recv().await {
        if writer.send(&frame).await.is_err() {
            let _ = events.send(Event::Input(Input::PeerLost { peer })).await;
            return;
        }
    }
    // The last frame may be a goodbye: let it go out. The peer sees the end of the stream.
    let _ = writer.close().await;
}

struct Shell {
    node: Node,
    network: Network,
    events: mpsc::Sender<Event>,
    outboxes: HashMap<(NodeId, Channel), mpsc::Sender<Frame>>,
    began: Instant,
}

impl Shell {
    fn handle(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            if let Input::PeerLost { peer } = &input {
                Channel::ALL.iter().for_each(|channel| drop(self.outboxes.remove(&(*peer, *channel))));
            }
            let now_ms = self.began.elapsed().as_millis() as u64;
            for effect in self.node.handle(now_ms, input) {
                if let Some(lost) = self.perform(effect) {
                    inputs.push(Input::PeerLost { peer: lost });
                }
            }
        }
        while let Some(job) = self.node.take_job() {
            self.run(job);
        }
    }

    /// Performs one effect; the peer that it failed for.
    fn perform(&mut self, effect: Effect) -> Option<NodeId> {
        match effect {
            Effect::Message { to, message } => self.send(to, Channel::Control, message.to_frame()),
            Effect::Data { to, data } => self.send(to, Channel::Stage, data.to_frame()),
            Effect::Connect { node, address } => self.connect(node, &address),
        }
    }

    fn send(&mut self, to: NodeId, channel: Channel, frame: Frame) -> Option<NodeId> {
        let outbox = self.outboxes.get(&(to, channel))?;
        // A full outbox is a peer that does not read: it is cut off.
        outbox.try_send(frame).is_err().then_some(to)
    }

    /// Opens a data stream to the next stage; frames wait in its outbox meanwhile.
    fn connect(&mut self, node: NodeId, address: &str) -> Option<NodeId> {
        let open = self.outboxes.get(&(node, Channel::Stage)).is_some_and(|outbox| !outbox.is_closed());
        if open {
            return None;
        }
        let Some(peer) = address.parse::<PeerAddress>().ok().filter(|peer| peer.node == node) else {
            return Some(node);
        };
        let (outbox, frames) = mpsc::channel(QUEUE_FRAMES_MAX);
        self.outboxes.insert((node, Channel::Stage), outbox);
        let (network, events) = (self.network.clone(), self.events.clone());
        tokio::spawn(async move {
            match network.open(&peer, Channel::Stage).await {
                Ok(stream) => {
                    let (mut reader, writer) = split(stream, Channel::Stage);
                    let watched = events.clone();
                    tokio::spawn(async move {
                        // Nothing comes back on a data stream but its end.
                        let _ = reader.next().await;
                        let _ = watched.send(Event::Input(Input::PeerLost { peer: node })).await;
                    });
                    write(writer, frames, node, events).await;
                }
                Err(_) => {
                    let _ = events.send(Event::Input(Input::PeerLost { peer: node })).await;
                }
            }
        });
        None
    }

    fn run(&self, job: Job) {
        let id = job.id();
        let events = self.events.clone();
        tokio::spawn(async move {
            let done = tokio::task::spawn_blocking(move || job.run()).await;
            let done = done.unwrap_or_else(|_| JobDone::lost(id));
            let _ = events.send(Event::Input(Input::Done(done))).await;
        });
    }
}
