//! The gateway's connection to one node: a control stream, a data stream where the node is the
//! first stage, and the requests that listen to it.

use crate::p2p::{Network, NetworkError, PeerAddress, split};
use lockstep_base::Digest;
use lockstep_mesh::data::Data;
use lockstep_mesh::frame::{Channel, FRAME_VERSIONS, Frame};
use lockstep_mesh::inbound::Incoming;
use lockstep_mesh::limits::QUEUE_FRAMES_MAX;
use lockstep_mesh::message::{Hello, Info, Message};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Messages that wait for one request.
pub(super) const MESSAGES_MAX: usize = 1024;
/// A node that has not said what it serves after this long is no node.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// What a request hears of one of its stages.
#[derive(Debug)]
pub enum Heard {
    /// A message about the request's task.
    Message(u16, Message),
    /// The node is gone.
    Lost(u16, String),
}

#[derive(Debug)]
struct Listener {
    task: Digest,
    stage: u16,
    topic: Topic,
    to: mpsc::Sender<Heard>,
    /// Room for the last word, whatever came before it.
    last: mpsc::OwnedPermit<Heard>,
}

/// What a listener wants to hear of its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Pages of leaves, which are long.
    Leaves,
    /// Pages of a proof.
    Proof,
    /// Everything else.
    Answer,
}

/// The requests that listen to a link; `Err` says why the link ended.
#[derive(Debug)]
struct Listeners(Mutex<Result<HashMap<u64, Listener>, String>>);

/// Stops listening when it is dropped.
#[derive(Debug)]
pub struct Listening {
    listeners: Arc<Listeners>,
    id: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Ok(map) = &mut *self.listeners.lock() {
            map.remove(&self.id);
        }
    }
}

impl Listeners {
    fn lock(&self) -> std::sync::MutexGuard<'_, Result<HashMap<u64, Listener>, String>> {
        self.0.lock().expect("no thread panics while it holds the listeners")
    }

    fn dispatch(&self, message: &Message) {
        let Some(task) = message.task() else { return };
        let topic = match message {
            Message::Leaves(_) => Topic::Leaves,
            Message::Proof(_) => Topic::Proof,
            _ => Topic::Answer,
        };
        let is_error = matches!(message, Message::Error(_));
        let Ok(map) = &mut *self.lock() else { return };
        let flooded: Vec<u64> = map
            .iter()
            .filter(|(_, listener)| listener.task == task)
            .filter(|(_, listener)| is_error || topic == listener.topic)
            .filter(|(_, listener)| {
                listener.to.try_send(Heard::Message(listener.stage, message.clone())).is_err()
            })
            .map(|(id, _)| *id)
            .collect();
        for id in flooded {
            if let Some(listener) = map.remove(&id) {
                let why = "it sends more messages than a request can take".into();
                listener.last.send(Heard::Lost(listener.stage, why));
            }
        }
    }

    /// The link is over: every listener hears why, and so does whoever listens from now on.
    fn lose(&self, why: &str) {
        let lost = std::mem::replace(&mut *self.lock(), Err(why.to_owned()));
        for listener in lost.into_iter().flat_map(HashMap::into_values) {
            listener.last.send(Heard::Lost(listener.stage, why.to_owned()));
        }
    }
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// No connection.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The peer did not introduce itself.
    #[error("{peer} did not say what it serves: {why}")]
    Silent {
        /// Whom.
        peer: String,
        /// What happened instead.
        why: String,
    },
    /// It introduced itself as somebody else.
    #[error("{peer} says that it is node {got}, expected {expected}")]
    WrongNode {
        /// Whom.
        peer: String,
        /// Who it says it is.
        got: String,
        /// Who it should be.
        expected: String,
    },
}

/// An open link.
#[derive(Debug)]
pub struct Link {
    /// The node.
    pub peer: PeerAddress,
    /// What it serves.
    pub info: Info,
    control: mpsc::Sender<Frame>,
    data: tokio::sync::Mutex<Option<mpsc::Sender<Frame>>>,
    network: Network,
    listeners: Arc<Listeners>,
    next_listener: AtomicU64,
    reader: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        // The writer ends by itself once all is sent; a node may keep the other half open for ever.
        self.reader.abort();
    }
}

impl Link {
    /// Connects to `peer` and asks what it serves.
    ///
    /// # Errors
    /// [`LinkError`] naming the peer.
    pub async fn connect(network: &Network, peer: PeerAddress) -> Result<Arc<Link>, LinkError> {
        let stream = network.open(&peer, Channel::Control).await?;
        let (mut reader, mut writer) = split(stream, Channel::Control);
        let silent = |why: String| LinkError::Silent { peer: peer.to_string(), why };
        let hello = Hello {
            versions: FRAME_VERSIONS.to_vec(),
            agent: concat!("lockstep/", env!("CARGO_PKG_VERSION")).into(),
        };
        writer.send(&Message::Hello(hello).to_frame()).await.map_err(|error| silent(error.to_string()))?;
        let answer = tokio::time::timeout(HELLO_TIMEOUT, reader.next()).await;
        let info = match answer {
            Ok(Ok(Some(Incoming::Message(Message::Info(info))))) => *info,
            Ok(Ok(Some(Incoming::Message(Message::Error(fault))))) => return Err(silent(fault.text)),
            Ok(Ok(Some(Incoming::Message(other)))) => {
                return Err(silent(format!("it sent {}", other.name())));
            }
            Ok(Ok(Some(Incoming::Data(_)))) => return Err(silent("it sent data".into())),
            Ok(Ok(None)) => return Err(silent("it hung up".into())),
            Ok(Err(error)) => return Err(silent(error.to_string())),
            Err(_) => return Err(silent("no answer within 10 s".into())),
        };
        if info.node() != Some(peer.node) {
            let got = info.node().map_or("nobody".into(), |node| node.to_string());
            return Err(LinkError::WrongNode {
                peer: peer.to_string(),
                got,
                expected: peer.node.to_string(),
            });
        }

        let (control, mut frames) = mpsc::channel::<Frame>(QUEUE_FRAMES_MAX);
        let listeners = Arc::new(Listeners(Mutex::new(Ok(HashMap::new()))));
        let (told, cut) = (listeners.clone(), listeners.clone());
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                if let Err(error) = writer.send(&frame).await {
                    return cut.lose(&error.to_string());
                }
            }
            let _ = writer.close().await;
        });
        let reader = tokio::spawn(async move {
            let end = loop {
                match reader.next().await {
                    Ok(Some(Incoming::Message(message))) => told.dispatch(&message),
                    Ok(Some(Incoming::Data(_))) => break "data on a control stream".to_owned(),
                    Ok(None) => break "the node closed the connection".to_owned(),
                    Err(error) => break error.to_string(),
                }
            };
            told.lose(&end);
        });
        Ok(Arc::new(Link {
            peer,
            info,
            control,
            data: tokio::sync::Mutex::default(),
            network: network.clone(),
            listeners,
            next_listener: AtomicU64::new(0),
            reader: reader.abort_handle(),
        }))
    }

    /// Whether messages still go out and come in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.listeners.lock().is_ok()
    }

    /// Hears messages about `task` as those of `stage`, until the value is dropped. On a link that
    /// is over already, `Heard::Lost` is all that comes. `None` if `to` has no room.
    #[must_use]
    pub fn listen(
        &self,
        task: Digest,
        stage: u16,
        topic: Topic,
        to: mpsc::Sender<Heard>,
    ) -> Option<Listening> {
        let last = to.clone().try_reserve_owned().ok()?;
        let id = self.next_listener.fetch_add(1, Ordering::Relaxed);
        match &mut *self.listeners.lock() {
            Ok(map) => drop(map.insert(id, Listener { task, stage, topic, to, last })),
            Err(why) => drop(last.send(Heard::Lost(stage, why.clone()))),
        }
        Some(Listening { listeners: self.listeners.clone(), id })
    }

    /// Sends a control message; `false` if the node does not read any more.
    #[must_use]
    pub fn send(&self, message: &Message) -> bool {
        self.control.try_send(message.to_frame()).is_ok()
    }

    /// Sends a data frame, opening the data stream first where there is none.
    ///
    /// # Errors
    /// [`NetworkError`] if there is no stream to be had.
    pub async fn send_data(&self, data: &Data) -> Result<(), NetworkError> {
        let mut stream = self.data.lock().await;
        if stream.as_ref().is_none_or(mpsc::Sender::is_closed) {
            let opened = self.network.open(&self.peer, Channel::Stage).await?;
            let (_, mut writer) = split(opened, Channel::Stage);
            let (outbox, mut frames) = mpsc::channel::<Frame>(QUEUE_FRAMES_MAX);
            let cut = self.listeners.clone();
            tokio::spawn(async move {
                while let Some(frame) = frames.recv().await {
                    if let Err(error) = writer.send(&frame).await {
                        return cut.lose(&error.to_string());
                    }
                }
                let _ = writer.close().await;
            });
            *stream = Some(outbox);
        }
        let outbox = stream.as_ref().expect("it was opened just now");
        outbox.send(data.to_frame()).await.map_err(|_| NetworkError::Closed)
    }
}
