//! The ractor actor of every supervisor: it hands what it hears to its [`Group`].

use std::sync::Arc;

use ractor::{ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use super::group::Group;
use super::launch::Launched;
use super::spec::SupervisorSpec;
use super::stop::KILL_GRACE;
use crate::behaviour::{AbortSlot, KillMode, end_natively};
use crate::end::{End, GaveUp, Returned};
use crate::registry::{Registry, Until};

/// The ractor actor of every supervisor.
pub(crate) struct Supervisor;

/// What a supervisor's incarnation is started with.
pub(crate) struct SupervisorArgs {
    pub(crate) spec: Arc<SupervisorSpec>,
    pub(crate) registry: Registry,
    pub(crate) name: String,
    pub(crate) generation: u64,
    pub(crate) ready: oneshot::Sender<()>,
    pub(crate) abort: AbortSlot,
}

/// What the tasks of a supervisor report to it, and the order to fail.
pub(crate) enum Order {
    /// A start ended: a running child, an end, or nothing if it was cancelled.
    Launched { child: usize, generation: u64, result: Result<Launched, Option<End>> },
    /// All children of a supervisor below run.
    Ready { child: usize, generation: u64 },
    /// A child's task is over. Its end was reported before, unless nobody could.
    Gone { child: usize, generation: u64, aborted: bool },
    /// A stop is over; false if the child lives on.
    Stopped { child: usize, generation: u64, ended: bool },
    /// A cancelled start should have ended by now.
    Overdue { child: usize, generation: u64 },
    /// A backoff is over.
    Wake,
    /// Fail now.
    Fail(KillMode),
}

impl ractor::Message for Order {}

impl ractor::Actor for Supervisor {
    type Msg = Order;
    type State = Group;
    type Arguments = SupervisorArgs;

    async fn pre_start(&self, myself: ActorRef<Order>, args: SupervisorArgs) -> Result<Group, ActorProcessingErr> {
        let SupervisorArgs { spec, registry, name, generation, ready, abort } = args;
        let life = registry.occupy(&name, generation, &myself.get_cell());
        // A supervisor that dies takes its children along, but nobody waits for them there.
        if let Err(actor) = registry.end_descendants(&name, Until::Dropped, KILL_GRACE).await {
            return Err(Box::new(GaveUp::Stuck { supervisor: name, actor, after: KILL_GRACE }));
        }
        registry.coming_back(&name);
        let target = myself.clone();
        let killer = Arc::new(move |mode| match mode {
            KillMode::Panic | KillMode::Error => target.send_message(Order::Fail(mode)).is_ok(),
            other => end_natively(&target.get_cell(), &abort, other),
        });
        registry.set_killer(&name, generation, None, killer);
        Ok(Group::new(spec, registry, name, generation, ready, life))
    }

    async fn post_start(&self, myself: ActorRef<Order>, group: &mut Group) -> Result<(), ActorProcessingErr> {
        group.advance(&myself);
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Order>, order: Order, group: &mut Group) -> Result<(), ActorProcessingErr> {
        match order {
            #[allow(clippy::panic)]
            Order::Fail(KillMode::Panic) => panic!("told to panic"),
            Order::Fail(_) => return Err(Returned("told to fail".into()).into()),
            report => group.report(&myself, report)?,
        }
        group.advance(&myself);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Order>,
        event: SupervisionEvent,
        group: &mut Group,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, end) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, End::failed(&error)),
            SupervisionEvent::ActorTerminated(cell, state, reason) => {
                // A dead actor's state may be torn: nothing resumes from it, and its successor waits for its drop,
                // which may take long and so happens elsewhere.
                drop(tokio::task::spawn_blocking(move || drop(state)));
                (cell, End::terminated(reason))
            }
            _ => return Ok(()),
        };
        group.cell_ended(&myself, cell.get_id(), end)?;
        group.advance(&myself);
        Ok(())
    }

    async fn post_stop(&self, _myself: ActorRef<Order>, group: &mut Group) -> Result<(), ActorProcessingErr> {
        Ok(group.shut_down().await?)
    }
}
