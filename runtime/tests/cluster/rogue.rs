//! Peers that do not keep to the rules: built from the library's parts, below the cluster's own code.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aurigraph_runtime::channel::{Channel, LaneKind, SessionTag};
use parking_lot::Mutex;
use ractor::message::{BoxedDowncastErr, SerializedMessage};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use ractor_cluster::node::{NodeConnectionMode, NodeServerSessionInformation};
use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream, NodeEventSubscription, NodeServer, NodeServerMessage};

use crate::support::{SECRET, until};

/// A message with any bytes in it.
pub struct Raw(pub Vec<u8>);

impl ractor::Message for Raw {
    fn serializable() -> bool {
        true
    }

    fn serialize(self) -> Result<SerializedMessage, BoxedDowncastErr> {
        Ok(SerializedMessage::Cast { variant: String::new(), args: self.0, metadata: None })
    }

    fn deserialize(message: SerializedMessage) -> Result<Self, BoxedDowncastErr> {
        match message {
            SerializedMessage::Cast { args, .. } => Ok(Self(args)),
            _ => Err(BoxedDowncastErr),
        }
    }
}

/// An actor that takes everything and says nothing.
pub struct Mute(pub Arc<AtomicUsize>);

impl Actor for Mute {
    type Msg = Raw;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _myself: ActorRef<Raw>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _myself: ActorRef<Raw>, _message: Raw, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

struct Stream(Channel);

impl ClusterBidiStream for Stream {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let (read, write) = tokio::io::split(self.0.stream);
        (Box::new(read), Box::new(write))
    }
}

#[derive(Default)]
struct Seen {
    open: Vec<NodeServerSessionInformation>,
    ready: usize,
    ended: usize,
}

struct Events(Arc<Mutex<Seen>>);

impl NodeEventSubscription for Events {
    fn node_session_opened(&self, session: NodeServerSessionInformation) {
        self.0.lock().open.push(session);
    }
    fn node_session_disconnected(&self, _session: NodeServerSessionInformation) {
        self.0.lock().ended += 1;
    }
    fn node_session_authenticated(&self, _session: NodeServerSessionInformation) {}
    fn node_session_ready(&self, _session: NodeServerSessionInformation) {
        self.0.lock().ready += 1;
    }
}

/// The cluster library as it is, under any name.
pub struct Rogue {
    pub server: ActorRef<NodeServerMessage>,
    seen: Arc<Mutex<Seen>>,
}

impl Rogue {
    /// A server that calls itself `claims@claims`.
    pub async fn new(claims: &str) -> Self {
        let cookie = hex::encode(SECRET);
        let server =
            NodeServer::new(0, cookie, claims.to_owned(), claims.to_owned(), None, Some(NodeConnectionMode::Isolated));
        let server = server.with_listen_addr(std::net::Ipv4Addr::LOCALHOST.into());
        let (server, _) = Actor::spawn(None, server, ()).await.expect("starts");
        let seen = Arc::<Mutex<Seen>>::default();
        let subscription = Box::new(Events(Arc::clone(&seen)));
        server.cast(NodeServerMessage::SubscribeToEvents { id: "rogue".into(), subscription }).expect("it runs");
        Self { server, seen }
    }

    pub fn hand_over(&self, channel: Channel, is_server: bool) -> SessionTag {
        let tag = channel.tag;
        let stream = Box::new(Stream(channel));
        self.server.cast(NodeServerMessage::ConnectionOpenedExternal { stream, is_server }).expect("it runs");
        tag
    }

    pub fn ready(&self) -> usize {
        self.seen.lock().ready
    }

    pub fn ended(&self) -> usize {
        self.seen.lock().ended
    }

    pub fn opened(&self) -> usize {
        self.seen.lock().open.len()
    }

    /// The remote actor of this name in the last session.
    pub async fn remote(&self, name: &str) -> ActorRef<Raw> {
        let find = || {
            let session = self.seen.lock().open.last().map(|info| info.actor.clone())?;
            session.get_children().into_iter().find(|child| child.get_name().as_deref() == Some(name))
        };
        let mut found: Option<ActorCell> = None;
        until(&format!("the session knows {name}"), || {
            found = find();
            found.is_some()
        })
        .await;
        found.expect("found").into()
    }

    pub fn stop(&self) {
        self.server.stop(None);
    }
}

/// A gateway message: tag, kind, body.
pub fn gateway_message(tag: SessionTag, kind: u8, body: &[u8]) -> Raw {
    Raw([tag.as_slice(), &[kind], body].concat())
}

/// A bulk frame.
pub fn bulk_frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("short").to_le_bytes();
    [length.as_slice(), &[kind], body].concat()
}

/// Which lane a test is about.
pub const LANES: [LaneKind; 2] = [LaneKind::Control, LaneKind::Bulk];
