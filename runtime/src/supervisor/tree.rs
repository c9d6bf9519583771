//! The root of a node's tree and what holds it: the guardian, which learns how the root ended.

use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::launch::{self, LaunchArgs};
use super::spec::SupervisorSpec;
use super::stop::KILL_GRACE;
use crate::end::End;
use crate::registry::{ActorState, Registry, Until};

/// A running tree. Dropping it stops nothing: `shutdown` does.
pub struct Tree {
    registry: Registry,
    name: String,
    root: ractor::ActorCell,
    ended: watch::Receiver<Option<TreeEnd>>,
}

/// How a tree ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEnd {
    /// What the process says when it exits: who failed last, how, and which budget was used up.
    pub reason: String,
    /// True after an ordered stop.
    pub orderly: bool,
}

impl std::fmt::Display for TreeEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Why a tree did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Two actors of one name: a mistake in the wiring.
    #[error("two actors are called {0}")]
    DuplicateRole(String),
    /// The root ended before all actors ran.
    #[error("the tree did not start: {0}")]
    Ended(TreeEnd),
}

/// Why a tree did not stop in order.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    /// It took too long and was killed.
    #[error("the tree did not stop within {after:?} and was killed; then still running: {running:?}")]
    Killed {
        /// The deadline.
        after: Duration,
        /// Who was running at the deadline.
        running: Vec<String>,
    },
    /// It ended before or during the stop, but not in order.
    #[error("the tree ended while it was being stopped: {0}")]
    Failed(TreeEnd),
}

impl Tree {
    /// Starts all actors, in order, and returns when all of them run. A child that does not start is tried again like
    /// one that failed later, so this ends with an error when a budget is used up or an error is fatal.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(registry: Registry, spec: SupervisorSpec) -> Result<Self, StartError> {
        if let Some(role) = spec.duplicate() {
            return Err(StartError::DuplicateRole(registry.name_of(&role)));
        }
        let name = registry.name_of(&spec.role);
        let (sender, mut ended) = watch::channel(None);
        let args = (registry.clone(), name.clone(), sender);
        let guardian = ractor::Actor::spawn(None, Guardian, args).await;
        let (guardian, _task): (ActorRef<Never>, JoinHandle<()>) =
            guardian.map_err(|error| StartError::Ended(end_of_start(End::of_spawn(error))))?;
        let generation = registry.starting(&name, None, true);
        let args = LaunchArgs {
            registry: registry.clone(),
            name: name.clone(),
            generation,
            supervisor: name.clone(),
            parent: guardian.get_cell(),
        };
        let launched = launch::supervisor(Arc::new(spec), args).await;
        let launched = launched.map_err(|end| StartError::Ended(end_of_start(end)))?;
        let ready = async {
            match launched.ready {
                Some(ready) => ready.await.is_ok(),
                None => true,
            }
        };
        if ready.await {
            return Ok(Self { registry, name, root: launched.cell, ended });
        }
        Err(StartError::Ended(wait_for_end(&mut ended).await))
    }

    /// The live tree's records.
    #[must_use]
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The root's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits for the end of the root and of everything below it, and says how it came.
    pub async fn ended(&self) -> TreeEnd {
        wait_for_end(&mut self.ended.clone()).await
    }

    /// Stops everything in reverse order; kills what has not stopped by the deadline.
    ///
    /// # Errors
    /// [`ShutdownError`] if it did not end in order.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), ShutdownError> {
        self.root.stop(Some("shutdown".to_owned()));
        if let Ok(end) = tokio::time::timeout(deadline, self.ended()).await {
            return if end.orderly { Ok(()) } else { Err(ShutdownError::Failed(end)) };
        }
        let rows = self.registry.tree().into_iter();
        let running = rows.filter(|row| matches!(row.state, ActorState::Running | ActorState::Starting));
        let running = running.map(|row| row.name).collect();
        self.root.kill();
        self.ended().await;
        Err(ShutdownError::Killed { after: deadline, running })
    }
}

async fn wait_for_end(ended: &mut watch::Receiver<Option<TreeEnd>>) -> TreeEnd {
    let end = ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
    // Only a runtime that is being dropped ends the guardian first.
    end.unwrap_or_else(|| TreeEnd { reason: "the runtime was shut down".to_owned(), orderly: false })
}

fn end_of_start(end: End) -> TreeEnd {
    TreeEnd { reason: end.reason, orderly: false }
}

/// The root's parent in ractor's sense: it records the root's end and restarts nothing.
struct Guardian;

/// Nobody speaks to a guardian.
enum Never {}

impl ractor::Message for Never {}

impl ractor::Actor for Guardian {
    type Msg = Never;
    type State = (Registry, String, watch::Sender<Option<TreeEnd>>);
    type Arguments = Self::State;

    async fn pre_start(
        &self,
        _myself: ActorRef<Never>,
        args: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(args)
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Never>,
        event: SupervisionEvent,
        (registry, name, ended): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let end = match event {
            SupervisionEvent::ActorFailed(_, error) => End::failed(&error),
            SupervisionEvent::ActorTerminated(_, state, reason) => {
                drop(state);
                End::terminated(reason)
            }
            _ => return Ok(()),
        };
        let orderly = !end.kind.is_abnormal();
        let next = if orderly { ActorState::Stopped } else { ActorState::Failed };
        registry.orphaned(name, next);
        let generation = registry.row(name).map_or(0, |row| row.generation);
        registry.ended(name, generation, next, &end);
        let reason = end.gave_up.map_or_else(|| format!("{name} ended: {}", end.reason), |gave_up| gave_up.to_string());
        let straggler = registry.end_descendants(name, Until::Dropped, KILL_GRACE).await.err();
        let reason = straggler.map_or_else(|| reason.clone(), |actor| format!("{reason}; {actor} did not end"));
        ended.send_replace(Some(TreeEnd { reason, orderly }));
        myself.stop(None);
        Ok(())
    }
}
