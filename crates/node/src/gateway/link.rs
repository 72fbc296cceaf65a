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
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages that wait for one request.
pub const MESSAGES_MAX: usize = 1024;
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

type Listeners = Arc<Mutex<HashMap<Digest, (u16, mpsc::Sender<Heard>)>>>;

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
    listeners: Listeners,
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
            Ok(Ok(Some(Incoming::Message(Message::Info(info))))) => info,
            Ok(Ok(Some(Incoming::Message(Message::Error(fault))))) => return Err(silent(fault.text)),
            Ok(Ok(Some(other))) => return Err(silent(format!("it sent {other:?}"))),
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
        let listeners = Listeners::default();
        let (told, cut) = (listeners.clone(), listeners.clone());
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                if let Err(error) = writer.send(&frame).await {
                    lose(&cut, &error.to_string());
                    return;
                }
            }
            let _ = writer.close().await;
        });
        tokio::spawn(async move {
            let end = loop {
                match reader.next().await {
                    Ok(Some(Incoming::Message(message))) => dispatch(&told, message),
                    Ok(Some(Incoming::Data(_))) => break "data on a control stream".to_owned(),
                    Ok(None) => break "the node closed the connection".to_owned(),
                    Err(error) => break error.to_string(),
                }
            };
            lose(&told, &end);
        });
        Ok(Arc::new(Link {
            peer,
            info,
            control,
            data: tokio::sync::Mutex::default(),
            network: network.clone(),
            listeners,
        }))
    }

    /// Whether messages still go out.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.control.is_closed()
    }

    /// Hears messages about `task` as those of `stage`.
    pub fn listen(&self, task: Digest, stage: u16, to: mpsc::Sender<Heard>) {
        self.listeners
            .lock()
            .expect("no thread panics while it holds the listeners")
            .insert(task, (stage, to));
    }

    /// Stops hearing about `task`.
    pub fn forget(&self, task: &Digest) {
        self.listeners.lock().expect("no thread panics while it holds the listeners").remove(task);
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
                        return lose(&cut, &error.to_string());
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

fn dispatch(listeners: &Listeners, message: Message) {
    let Some(task) = message.task() else { return };
    let mut map = listeners.lock().expect("no thread panics while it holds the listeners");
    if let Some((stage, to)) = map.get(&task) {
        // A request that does not keep up with a node that floods it gives up on it.
        if to.try_send(Heard::Message(*stage, message)).is_err() {
            map.remove(&task);
        }
    }
}

fn lose(listeners: &Listeners, why: &str) {
    let all: Vec<_> = {
        let mut map = listeners.lock().expect("no thread panics while it holds the listeners");
        map.drain().collect()
    };
    for (_, (stage, to)) in all {
        let _ = to.try_send(Heard::Lost(stage, why.into()));
    }
}
