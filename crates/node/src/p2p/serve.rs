//! The shell of a node: the state machine of `lockstep-mesh` between libp2p streams and worker
//! threads.
//!
//! One actor owns the machine. Readers of streams hand it inputs through one bounded queue (a peer
//! that sends faster than we read is slowed by TCP), writers take frames from bounded outboxes (a
//! peer that reads slower than we send is cut off), and jobs run on blocking threads.
//!
//! A peer has at most one stream of each [`Way`]. The newest counts: it replaces the one before,
//! whose reader is ended and whose last words are not heard. So a peer costs three readers however
//! many streams it opens, and the late end of an old stream says nothing about a peer that is back.

use super::identity::PeerAddress;
use super::network::{Accepted, Listening, Network};
use super::outbox::{Outbox, outbox};
use super::stream::{FrameReader, split};
use libp2p::Stream;
use lockstep_base::keys::NodeId;
use lockstep_mesh::frame::{Channel, Frame};
use lockstep_mesh::inbound::Incoming;
use lockstep_mesh::limits::TICK_MS;
use lockstep_mesh::node::{Effect, Input, Node};
use lockstep_mesh::work::{Job, JobDone};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

/// Inputs that wait for the actor.
const INPUTS_MAX: usize = 256;
/// What was said before a stream was given up may still go out for this long.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    /// Messages both ways; the peer opened it.
    Control,
    /// Data from the stage before; the peer opened it.
    DataIn,
    /// Data to the next stage; we opened it.
    DataOut,
}

/// One stream of a peer among all that there ever were.
#[derive(Clone, Copy, Debug)]
struct StreamId {
    peer: NodeId,
    way: Way,
    serial: u64,
}

enum Event {
    /// A peer opened a stream.
    Opened(NodeId, Channel, Stream),
    /// A stream brought something.
    Heard(StreamId, Incoming),
    /// A stream ended.
    Ended(StreamId),
    /// A job ended.
    Done(JobDone),
}

/// Serves `node` on `network`, to those whose streams are `listening`, until `stop` becomes true or its sender is gone.
pub async fn serve(node: Node, (network, listening): (Network, Listening), mut stop: watch::Receiver<bool>) {
    let (events, mut queue) = mpsc::channel(INPUTS_MAX);
    let mut accepting = JoinSet::new();
    for (channel, streams) in listening {
        accepting.spawn(accept(channel, streams, events.clone()));
    }
    let mut shell =
        Shell { node, network, events, streams: HashMap::new(), serial: 0, began: Instant::now() };
    let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
    loop {
        tokio::select! {
            event = queue.recv() => match event {
                Some(event) => shell.event(event),
                None => return,
            },
            _ = tick.tick() => shell.handle(Input::Tick),
            changed = stop.changed() => if changed.is_err() || *stop.borrow() { return },
        }
    }
}

async fn accept(channel: Channel, mut incoming: mpsc::Receiver<Accepted>, events: mpsc::Sender<Event>) {
    while let Some(Accepted { node, stream, .. }) = incoming.recv().await {
        if events.send(Event::Opened(node, channel, stream)).await.is_err() {
            return;
        }
    }
}

/// Hands on what comes. An error and a clean end are the same to the machine: nothing more comes.
async fn read(mut reader: FrameReader, id: StreamId, events: &mpsc::Sender<Event>) {
    while let Ok(Some(incoming)) = reader.next().await {
        if events.send(Event::Heard(id, incoming)).await.is_err() {
            return;
        }
    }
}

/// Ends a task with the value.
struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The newest stream of its way.
struct Current {
    serial: u64,
    outbox: Option<Outbox>,
    reader: Option<Running>,
    writer: Option<Running>,
}

impl Current {
    /// Hears no more; what was said before may still go out.
    fn give_up(self) {
        drop((self.outbox, self.reader));
        if let Some(writer) = self.writer {
            tokio::spawn(async move {
                tokio::time::sleep(DRAIN_TIME).await;
                drop(writer);
            });
        }
    }
}

struct Shell {
    node: Node,
    network: Network,
    events: mpsc::Sender<Event>,
    streams: HashMap<(NodeId, Way), Current>,
    serial: u64,
    began: Instant,
}

impl Shell {
    fn event(&mut self, event: Event) {
        match event {
            Event::Opened(peer, Channel::Control, stream) => self.accept_control(peer, stream),
            Event::Opened(peer, Channel::Stage, stream) => self.accept_data(peer, stream),
            Event::Heard(id, incoming) if self.is_current(id) => self.handle(match incoming {
                Incoming::Message(message) => Input::Message { from: id.peer, message },
                Incoming::Data(data) => Input::Data { from: id.peer, data },
            }),
            Event::Ended(id) if self.is_current(id) => self.handle(Input::PeerLost { peer: id.peer }),
            Event::Heard(..) | Event::Ended(_) => {}
            Event::Done(done) => self.handle(Input::Done(done)),
        }
    }

    fn is_current(&self, id: StreamId) -> bool {
        self.streams.get(&(id.peer, id.way)).is_some_and(|current| current.serial == id.serial)
    }

    fn next_id(&mut self, peer: NodeId, way: Way) -> StreamId {
        self.serial += 1;
        StreamId { peer, way, serial: self.serial }
    }

    /// Whoever opens a control stream begins anew: what it had asked for before is forgotten.
    fn accept_control(&mut self, peer: NodeId, stream: Stream) {
        if self.streams.contains_key(&(peer, Way::Control)) {
            self.handle(Input::PeerLost { peer });
        }
        let id = self.next_id(peer, Way::Control);
        let (reader, writer) = split(stream, Channel::Control);
        let (outbox, outgoing) = outbox(Channel::Control);
        let (events, ended) = (self.events.clone(), self.events.clone());
        let reader = tokio::spawn(async move {
            read(reader, id, &events).await;
            let _ = events.send(Event::Ended(id)).await;
        });
        let writer = tokio::spawn(async move {
            outgoing.write(writer).await;
            let _ = ended.send(Event::Ended(id)).await;
        });
        let current = Current {
            serial: id.serial,
            outbox: Some(outbox),
            reader: Some(Running(reader.abort_handle())),
            writer: Some(Running(writer.abort_handle())),
        };
        self.streams.insert((peer, Way::Control), current);
    }

    fn accept_data(&mut self, peer: NodeId, stream: Stream) {
        let id = self.next_id(peer, Way::DataIn);
        let (reader, _) = split(stream, Channel::Stage);
        let events = self.events.clone();
        let reader = tokio::spawn(async move {
            read(reader, id, &events).await;
            let _ = events.send(Event::Ended(id)).await;
        });
        let reader = Some(Running(reader.abort_handle()));
        let current = Current { serial: id.serial, outbox: None, reader, writer: None };
        self.streams.insert((peer, Way::DataIn), current);
    }

    fn handle(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            if let Input::PeerLost { peer } = &input {
                for way in [Way::Control, Way::DataIn, Way::DataOut] {
                    self.streams.remove(&(*peer, way)).into_iter().for_each(Current::give_up);
                }
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
            Effect::Message { to, message } => self.send(to, Way::Control, message.to_frame()),
            Effect::Data { to, data } => self.send(to, Way::DataOut, data.to_frame()),
            Effect::Connect { node, address } => self.connect(node, &address),
        }
    }

    fn send(&mut self, to: NodeId, way: Way, frame: Frame) -> Option<NodeId> {
        let outbox = self.streams.get(&(to, way))?.outbox.as_ref()?;
        // A full outbox is a peer that does not read: it is cut off.
        (!outbox.send(frame)).then_some(to)
    }

    /// Opens a data stream to the next stage; frames wait in its outbox meanwhile.
    fn connect(&mut self, node: NodeId, address: &str) -> Option<NodeId> {
        let current = self.streams.get(&(node, Way::DataOut));
        if current.and_then(|current| current.outbox.as_ref()).is_some_and(Outbox::is_open) {
            return None;
        }
        let Some(peer) = address.parse::<PeerAddress>().ok().filter(|peer| peer.node == node) else {
            return Some(node);
        };
        let id = self.next_id(node, Way::DataOut);
        let (outbox, outgoing) = outbox(Channel::Stage);
        let (network, events) = (self.network.clone(), self.events.clone());
        let writer = tokio::spawn(async move {
            if let Ok(stream) = network.open(&peer, Channel::Stage).await {
                let (mut reader, writer) = split(stream, Channel::Stage);
                // Nothing comes back on a data stream but its end.
                tokio::select! {
                    _ = reader.next() => {}
                    () = outgoing.write(writer) => {}
                }
            }
            let _ = events.send(Event::Ended(id)).await;
        });
        let writer = Some(Running(writer.abort_handle()));
        let current = Current { serial: id.serial, outbox: Some(outbox), reader: None, writer };
        self.streams.insert((node, Way::DataOut), current);
        None
    }

    fn run(&self, job: Job) {
        let id = job.id();
        let events = self.events.clone();
        tokio::spawn(async move {
            let done = tokio::task::spawn_blocking(move || job.run()).await;
            let done = done.unwrap_or_else(|_| JobDone::lost(id));
            let _ = events.send(Event::Done(done)).await;
        });
    }
}
