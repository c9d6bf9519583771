//! The actor that keeps the links with one peer: dials, hands over, probes, and tells the layer above.
//!
//! It decides by looking: whatever happens to a link only makes it look again at both lanes and do what is missing. Of
//! two nodes only the one with the greater name dials, so that the library never has to elect between two sessions.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::ActorRef;
use ractor_cluster::NodeServerMessage;
use tokio::time::Instant;

use super::AbortOnDrop;
use super::bulk::BulkLane;
use super::gateway::gateway_name;
use super::peers::{Hub, PeerEntry};
use super::session::{Handover, Session};
use super::wire::GatewayMessage;
use crate::behaviour::{ActorError, Behaviour, Context};
use crate::channel::{Channel, HandshakeError, LaneKind};

/// Mailbox bound of a peer's actor: accepted channels only, the rest are its own results.
pub(crate) const PEER_MAILBOX: usize = 16;
/// How long a session may take to become usable.
const SESSION_START: Duration = Duration::from_secs(3);
/// How long the library may take to forget a session that was told to end.
const SESSION_END: Duration = Duration::from_secs(1);
/// How soon to look again for a remote gateway that is not announced yet.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a peer's actor is told.
pub(crate) enum PeerMsg {
    /// The listener has a channel of this peer.
    Accepted(Box<Channel>),
    /// Its own dialling has ended.
    Dialled(LaneKind, Box<Result<Channel, HandshakeError>>),
    /// Something has happened to a link.
    Look,
    /// Look again: this timer is out.
    LookAgain,
    /// Time to probe.
    Heartbeat,
}

/// The actor of one peer.
pub(crate) struct Peer {
    hub: Arc<Hub>,
    entry: Arc<PeerEntry>,
}

/// Lets go of the links when the incarnation ends, however it ends.
struct Ownership(Arc<PeerEntry>);

impl Drop for Ownership {
    fn drop(&mut self) {
        self.0.owned_by(None);
    }
}

/// Dialling of one lane.
#[derive(Default)]
struct Dialling {
    task: Option<AbortOnDrop>,
    failures: u32,
    next: Option<Instant>,
}

/// One incarnation.
pub(crate) struct PeerState {
    control: Dialling,
    bulk: Dialling,
    /// A control channel that waits until the library has forgotten the session before it.
    waiting: Option<(Channel, bool)>,
    looking: bool,
    _ownership: Ownership,
}

impl PeerState {
    fn dialling(&mut self, lane: LaneKind) -> &mut Dialling {
        match lane {
            LaneKind::Control => &mut self.control,
            LaneKind::Bulk => &mut self.bulk,
        }
    }
}

impl Behaviour for Peer {
    type Msg = PeerMsg;
    type State = PeerState;

    async fn start(&self, ctx: &Context<PeerMsg>) -> Result<PeerState, ActorError> {
        self.entry.owned_by(Some(ctx.mouth()));
        ctx.send_self(PeerMsg::Heartbeat);
        Ok(PeerState {
            control: Dialling::default(),
            bulk: Dialling::default(),
            waiting: None,
            looking: false,
            _ownership: Ownership(Arc::clone(&self.entry)),
        })
    }

    async fn handle(&self, ctx: &Context<PeerMsg>, message: PeerMsg, state: &mut PeerState) -> Result<(), ActorError> {
        match message {
            PeerMsg::Accepted(channel) => self.opened(*channel, true, state),
            PeerMsg::Dialled(lane, result) => {
                state.dialling(lane).task = None;
                match *result {
                    Ok(channel) => self.opened(channel, false, state),
                    Err(error) => self.dial_failed(lane, &error, state),
                }
            }
            PeerMsg::Look => self.entry.looked(),
            PeerMsg::LookAgain => state.looking = false,
            PeerMsg::Heartbeat => {
                self.heartbeat()?;
                ctx.send_after(self.hub.settings.links.heartbeat, PeerMsg::Heartbeat);
            }
        }
        self.look(ctx, state);
        Ok(())
    }
}

impl Peer {
    pub(crate) const fn new(hub: Arc<Hub>, entry: Arc<PeerEntry>) -> Self {
        Self { hub, entry }
    }

    fn dials(&self) -> bool {
        self.hub.settings.node > self.entry.name
    }

    fn opened(&self, channel: Channel, accepted: bool, state: &mut PeerState) {
        if self.entry.penalty_left().is_some() {
            return;
        }
        match channel.lane {
            LaneKind::Bulk => {
                let lane = BulkLane::start(&self.entry, channel, &self.hub.settings);
                self.entry.set_bulk(Some(lane));
            }
            LaneKind::Control => {
                // The key has proved who it is, so the newer connection is the one that the peer uses.
                if let Some(session) = self.entry.session() {
                    session.close("replaced by a newer one");
                }
                state.waiting = Some((channel, accepted));
            }
        }
    }

    fn dial_failed(&self, lane: LaneKind, error: &HandshakeError, state: &mut PeerState) {
        metrics::counter!("network_dials_failed_total", "peer" => self.entry.name.clone(), "reason" => error.reason())
            .increment(1);
        self.entry.failed(error.to_string());
        let links = self.hub.settings.links;
        let dialling = state.dialling(lane);
        let wait = links.redial_first.saturating_mul(1 << dialling.failures.min(10)).min(links.redial_max);
        dialling.failures += 1;
        // Half of the wait is random, so that nodes that lost each other at once do not dial at once.
        dialling.next = Some(Instant::now() + wait.mul_f64(0.5 + 0.5 * random_fraction()));
    }

    /// Looks at both lanes and does what is missing.
    fn look(&self, ctx: &Context<PeerMsg>, state: &mut PeerState) {
        let usable = self.look_at_session(ctx, state);
        let bulk = self.look_at_bulk();
        self.entry.tell(usable && bulk);
        if usable && bulk {
            (state.control.failures, state.bulk.failures) = (0, 0);
        }
        if self.dials() {
            if self.entry.session().is_none() && state.waiting.is_none() {
                self.dial(ctx, LaneKind::Control, state);
            }
            if !bulk {
                self.dial(ctx, LaneKind::Bulk, state);
            }
        }
    }

    fn look_at_bulk(&self) -> bool {
        let Some(lane) = self.entry.bulk() else { return false };
        let Some(reason) = lane.closed() else { return true };
        self.entry.failed(format!("bulk lane: {reason}"));
        self.entry.set_bulk(None);
        false
    }

    /// True if the control session can be used.
    fn look_at_session(&self, ctx: &Context<PeerMsg>, state: &mut PeerState) -> bool {
        if let Some(session) = self.entry.session() {
            self.bury(&session);
        }
        match self.entry.session() {
            None => {
                if let Some((channel, accepted)) = state.waiting.take() {
                    self.hand_over(channel, accepted);
                }
                false
            }
            Some(session) if session.is_closed() => {
                self.look_again(ctx, state);
                false
            }
            Some(session) if session.has_gateway() => true,
            Some(session) if session.ready.load(Ordering::Acquire) && self.find_gateway(&session) => {
                self.entry.counters.sessions.fetch_add(1, Ordering::Relaxed);
                session.ping(random_number());
                true
            }
            Some(session) => {
                if session.began.elapsed() > SESSION_START {
                    session.close("it did not become usable in time");
                }
                self.look_again(ctx, state);
                false
            }
        }
    }

    /// Forgets a session that has ended, or that does not end although it was told to.
    fn bury(&self, session: &Arc<Session>) {
        let Some((ago, reason)) = session.closed() else { return };
        if !session.gone.load(Ordering::Acquire) {
            if ago < SESSION_END {
                return;
            }
            if let Some(actor) = session.actor.get() {
                actor.kill();
            }
        }
        self.hub.remove_session(&session.tag);
        self.entry.failed(format!("control lane: {reason}"));
        self.entry.set_session(None);
    }

    fn hand_over(&self, channel: Channel, accepted: bool) {
        let Some(server) = self.hub.node_server.read().clone() else { return };
        let session = Session::new(&self.entry, channel.tag, self.hub.settings.links);
        self.hub.add_session(&session);
        self.entry.set_session(Some(Arc::clone(&session)));
        let gateway_pid = self.hub.gateway_pid.load(Ordering::Acquire);
        let stream = Box::new(Handover { channel, session: Arc::clone(&session), accepted, gateway_pid });
        if server.cast(NodeServerMessage::ConnectionOpenedExternal { stream, is_server: accepted }).is_err() {
            session.close("the session server is gone");
            session.gone.store(true, Ordering::Release);
        }
    }

    /// Finds the peer's gateway among what its session has announced. Other actors are of no interest: in one process
    /// with several nodes they include everybody's gateways.
    fn find_gateway(&self, session: &Session) -> bool {
        let Some(actor) = session.actor.get() else { return false };
        let wanted = gateway_name(&self.entry.name);
        let children = actor.get_children();
        let found = children
            .into_iter()
            .find(|child| !child.get_id().is_local() && child.get_name().as_deref() == Some(wanted.as_str()));
        found.is_some_and(|gateway| session.set_gateway(ActorRef::<GatewayMessage>::from(gateway)))
    }

    fn look_again(&self, ctx: &Context<PeerMsg>, state: &mut PeerState) {
        if !state.looking {
            state.looking = true;
            ctx.send_after(LOOK_AGAIN, PeerMsg::LookAgain);
        }
    }

    fn dial(&self, ctx: &Context<PeerMsg>, lane: LaneKind, state: &mut PeerState) {
        let penalty = self.entry.penalty_left();
        let dialling = state.dialling(lane);
        if dialling.task.is_some() {
            return;
        }
        let due = dialling.next.map(|next| next.saturating_duration_since(Instant::now())).max(penalty);
        if let Some(due) = due.filter(|due| !due.is_zero()) {
            // The heartbeat looks again in any case; sooner if that would be late.
            if due < self.hub.settings.links.heartbeat {
                self.look_after(ctx, due, state);
            }
            return;
        }
        let (channels, mouth) = (self.hub.channels.clone(), ctx.mouth());
        let (peer, address) = (self.entry.name.clone(), self.entry.address.clone());
        dialling.task = Some(AbortOnDrop(tokio::spawn(async move {
            let result = channels.dial(&peer, &address, lane).await;
            mouth.send(PeerMsg::Dialled(lane, Box::new(result)));
        })));
    }

    fn look_after(&self, ctx: &Context<PeerMsg>, due: Duration, state: &mut PeerState) {
        if !state.looking {
            state.looking = true;
            ctx.send_after(due.max(Duration::from_millis(1)), PeerMsg::LookAgain);
        }
    }

    /// Probes a usable session, and ends both lanes if the peer has been silent for too long.
    fn heartbeat(&self) -> Result<(), ActorError> {
        self.entry.publish();
        let Some(session) = self.entry.session().filter(|session| session.has_gateway() && !session.is_closed()) else {
            return Ok(());
        };
        if session.silence() > self.hub.settings.links.dead_after {
            self.entry.close("it does not answer");
        } else {
            session.ping(random_number());
        }
        Ok(())
    }
}

fn random_number() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness a nonce can be guessed, which only lets a peer look alive: no reason to fail.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[allow(clippy::cast_precision_loss)]
fn random_fraction() -> f64 {
    (random_number() >> 11) as f64 / (1_u64 << 53) as f64
}
