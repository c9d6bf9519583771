//! The cluster library's server and the one actor that other nodes can speak to.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use ractor_cluster::node::{NodeConnectionMode, NodeServerSessionInformation};
use ractor_cluster::{IncomingEncryptionMode, NodeEventSubscription, NodeServer, NodeServerMessage};
use tokio::task::JoinHandle;

use super::guard::FRAME_OVERHEAD;
use super::peers::Hub;
use super::session::Session;
use super::wire::{GatewayMessage, Signal};
use crate::behaviour::KillMode;
use crate::channel::SessionTag;

/// A node's name inside the cluster library. The host part differs per node, because the library takes two nodes of the
/// same host and port for one.
pub(crate) fn full_name(node: &str) -> String {
    format!("{node}@{node}")
}

/// The name under which the gateway of a node is registered.
pub(crate) fn gateway_name(node: &str) -> String {
    format!("{node}/gateway")
}

/// Starts the library's server. Its own listener cannot be switched off: it gets a loopback port and a door that is
/// closed to everybody.
pub(crate) async fn start_node_server(
    hub: Arc<Hub>,
    parent: ActorCell,
) -> Result<(ActorCell, JoinHandle<()>), SpawnErr> {
    hub.forget_sessions("the session server was restarted");
    let door = hub.channels.closed_door().map_err(|error| SpawnErr::StartupFailed(error.into()))?;
    let node = hub.settings.node.clone();
    let frame_limit = hub.settings.links.control_message_bytes + FRAME_OVERHEAD;
    let server = NodeServer::new(
        0,
        hex::encode(hub.settings.cluster_secret),
        node.clone(),
        node,
        Some(IncomingEncryptionMode::Tls(door)),
        Some(NodeConnectionMode::Isolated),
    )
    .with_listen_addr(std::net::Ipv4Addr::LOCALHOST.into())
    .with_max_inbound_frame_size(frame_limit as u64);
    let (server, task) = Actor::spawn_linked(None, server, (), parent).await?;
    let events = NodeServerMessage::SubscribeToEvents {
        id: "sessions".to_owned(),
        subscription: Box::new(Events(Arc::clone(&hub))),
    };
    server.cast(events).map_err(|error| SpawnErr::StartupFailed(error.to_string().into()))?;
    *hub.node_server.write() = Some(server.clone());
    Ok((server.get_cell(), task))
}

/// Joins the library's sessions to ours.
struct Events(Arc<Hub>);

impl Events {
    fn session(&self, info: &NodeServerSessionInformation) -> Option<Arc<Session>> {
        let mut tag = SessionTag::default();
        hex::decode_to_slice(&info.peer_addr, &mut tag).ok()?;
        self.0.session(&tag)
    }

    fn poke(session: &Session) {
        if let Some(peer) = session.peer.upgrade() {
            peer.poke();
        }
    }
}

impl NodeEventSubscription for Events {
    fn node_session_opened(&self, info: NodeServerSessionInformation) {
        match self.session(&info) {
            Some(session) => {
                let _ = session.actor.set(info.actor.clone());
                if session.is_closed() {
                    info.actor.stop(Some("closed before it was opened".to_owned()));
                }
            }
            // Whatever came in through the library's own door, or was given up meanwhile.
            None => info.actor.stop(Some("unknown session".to_owned())),
        }
    }

    fn node_session_disconnected(&self, info: NodeServerSessionInformation) {
        if let Some(session) = self.session(&info) {
            session.close("the session ended");
            session.gone.store(true, Ordering::Release);
            self.0.remove_session(&session.tag);
            Self::poke(&session);
        }
    }

    fn node_session_authenticated(&self, _info: NodeServerSessionInformation) {}

    fn node_session_ready(&self, info: NodeServerSessionInformation) {
        if let Some(session) = self.session(&info) {
            session.ready.store(true, Ordering::Release);
            Self::poke(&session);
        }
    }
}

/// The only actor of a node that other nodes can address. It knows whose a message is by the tag in it.
pub(crate) struct Gateway(Arc<Hub>);

/// Starts the gateway.
pub(crate) async fn start_gateway(hub: Arc<Hub>, parent: ActorCell) -> Result<(ActorCell, JoinHandle<()>), SpawnErr> {
    // Sessions that know the gateway before would speak to nobody.
    for peer in hub.peers.values() {
        peer.close("the gateway was restarted");
    }
    let name = gateway_name(&hub.settings.node);
    let (gateway, task) = Actor::spawn_linked(Some(name), Gateway(Arc::clone(&hub)), (), parent).await?;
    hub.gateway_pid.store(gateway.get_id().pid(), Ordering::Release);
    Ok((gateway.get_cell(), task))
}

/// Makes the gateway fail on purpose in the two ways that need its handler.
pub(crate) fn fail_gateway(cell: &ActorCell, mode: KillMode) -> bool {
    let message = GatewayMessage { tag: SessionTag::default(), signal: Signal::Fail(mode) };
    matches!(mode, KillMode::Panic | KillMode::Error) && cell.send_message(message).is_ok()
}

impl Gateway {
    fn receive(session: &Session, signal: Signal) -> Result<(), &'static str> {
        let Some(peer) = session.peer.upgrade() else { return Ok(()) };
        match signal {
            Signal::Data(bytes) => {
                let length = bytes.len();
                peer.counters.control_in.count(length);
                peer.inbound().control(&peer.name, bytes);
                session.handled(length);
                Ok(())
            }
            Signal::Ping { nonce, processed } => session.pinged(nonce, processed),
            Signal::Pong { nonce, processed } => {
                if let Some(rtt) = session.ponged(nonce, processed)? {
                    let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1);
                    peer.counters.rtt.store(micros, Ordering::Relaxed);
                }
                Ok(())
            }
            Signal::Receipt { processed } => session.acknowledge(processed),
            Signal::Fail(_) => Ok(()),
        }
    }
}

impl Actor for Gateway {
    type Msg = GatewayMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _myself: ActorRef<Self::Msg>, _args: ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        message: GatewayMessage,
        _state: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message.signal {
            #[allow(clippy::panic)]
            Signal::Fail(KillMode::Panic) => panic!("the gateway was told to panic"),
            Signal::Fail(mode) => return Err(format!("the gateway was told to fail ({mode:?})").into()),
            signal => match self.0.session(&message.tag) {
                // What a session still delivers after it was closed may no longer be acted upon.
                Some(session) if !session.is_closed() => {
                    if let Err(rule) = Self::receive(&session, signal)
                        && let Some(peer) = session.peer.upgrade()
                    {
                        peer.charge(rule, "a receipt for more than it was sent");
                    }
                }
                _ => metrics::counter!("network_gateway_dropped_total").increment(1),
            },
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Self::Msg>,
        _event: SupervisionEvent,
        _state: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}
