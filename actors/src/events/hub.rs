//! The event hub as an actor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aurigraph_runtime::{ActorError, ActorRow, ActorState, Behaviour, Context, Registry};

use super::messages::{ActorEvent, EventBody, EventHubMsg, ValidatorEvent};
use super::ring::Ring;
use crate::bounds::events as bounds;
use crate::query::Sources;
use crate::query::values::Timestamp;

/// Keeps the ring of recent events. A new incarnation starts with an empty ring: subscribers reconnect, and those who
/// resume are told of the gap.
pub struct EventHub {
    sources: Arc<Sources>,
}

impl EventHub {
    /// A hub that tells of this node's tree and validators.
    #[must_use]
    pub const fn new(sources: Arc<Sources>) -> Self {
        Self { sources }
    }

    fn look_at_validators(&self, ring: &mut Ring) {
        let Some(status) = self.sources.status() else { return };
        let own = self.sources.members().own;
        let changed = self.sources.validators.lock().look(&status, own, Timestamp::now());
        for (validator, active) in changed {
            ring.push(EventBody::Validator(Arc::new(ValidatorEvent {
                id: self.sources.validator_name(status.epoch.epoch, validator).unwrap_or_default(),
                status: if active { "active" } else { "inactive" }.to_owned(),
            })));
        }
    }
}

/// What one incarnation holds.
pub struct HubState {
    ring: Ring,
    seen: BTreeMap<String, (ActorState, u64)>,
}

/// Microseconds since 1970: later incarnations start above every id of earlier ones, as long as fewer than a million
/// events a second arise.
fn first_id() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX / 2)
}

fn tree_of(registry: &Registry) -> BTreeMap<String, (ActorState, u64)> {
    registry.tree().into_iter().map(|row| (row.name, (row.state, row.restarts))).collect()
}

impl HubState {
    /// Turns differences of the live tree into events.
    fn look(&mut self, rows: Vec<ActorRow>) {
        for row in rows {
            let now = (row.state, row.restarts);
            if self.seen.get(&row.name) == Some(&now) {
                continue;
            }
            self.seen.insert(row.name.clone(), now);
            self.ring.push(EventBody::Actor(Arc::new(ActorEvent {
                name: row.name,
                state: row.state,
                restarts: row.restarts,
                last_failure: row.last_failure.map(|failure| failure.reason),
            })));
        }
    }
}

impl Behaviour for EventHub {
    type Msg = EventHubMsg;
    type State = HubState;

    async fn start(&self, ctx: &Context<EventHubMsg>) -> Result<HubState, ActorError> {
        ctx.send_after(bounds::LOOK_EVERY, EventHubMsg::Look);
        Ok(HubState { ring: Ring::new(first_id()), seen: tree_of(&ctx.registry) })
    }

    async fn handle(
        &self,
        ctx: &Context<EventHubMsg>,
        message: EventHubMsg,
        state: &mut HubState,
    ) -> Result<(), ActorError> {
        match message {
            EventHubMsg::Block(block) => state.ring.block(&block),
            EventHubMsg::Validator(event) => state.ring.push(EventBody::Validator(event)),
            EventHubMsg::Subscribe { after, kinds, reply } => reply.send(state.ring.subscribe(after, kinds)),
            EventHubMsg::AwaitTransaction { hash, reply } => state.ring.wait_for(hash, reply),
            EventHubMsg::RecentlyDropped { hash, reply } => reply.send(state.ring.recently_dropped(&hash)),
            EventHubMsg::Look => {
                state.look(ctx.registry.tree());
                self.look_at_validators(&mut state.ring);
                state.ring.forget_closed();
                let (subscribers, waiting) = state.ring.counts();
                #[allow(clippy::cast_precision_loss)]
                {
                    metrics::gauge!("event_subscribers").set(subscribers as f64);
                    metrics::gauge!("event_waiting_clients").set(waiting as f64);
                }
                ctx.send_after(bounds::LOOK_EVERY, EventHubMsg::Look);
            }
        }
        Ok(())
    }
}
