//! One supervisor: the children it holds, what it does when one ends, and its ordered stop.
//!
//! Its handlers never wait: starts, stops and backoffs run in tasks that report back, so a supervisor always hears of
//! the next failure. Reports carry the child's generation; those of an older one are ignored.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorId, ActorRef};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::actor::Order;
use super::child::{Child, Phase};
use super::launch::{self, LaunchArgs, Launched};
use super::restarts::Window;
use super::spec::{ChildKind, Restart, Strategy, SupervisorSpec};
use super::stop::{KILL_GRACE, end_child};
use crate::end::{End, EndKind, GaveUp};
use crate::registry::{ActorEventKind, ActorState, Life, Registry, Until};

/// The state of one supervisor.
pub(crate) struct Group {
    registry: Registry,
    spec: Arc<SupervisorSpec>,
    name: String,
    generation: u64,
    children: Vec<Child>,
    window: Window,
    ready: Option<oneshot::Sender<()>>,
    /// A group restart is on its way and has started nobody yet: further failures join it.
    restart_pending: bool,
    /// Ends of children whose start was not reported yet: supervision events overtake messages.
    early: HashMap<ActorId, End>,
    // The last field: the next incarnation may start when everything above was dropped.
    _life: Life,
}

impl Group {
    pub(super) fn new(
        spec: Arc<SupervisorSpec>,
        registry: Registry,
        name: String,
        generation: u64,
        ready: oneshot::Sender<()>,
        life: Life,
    ) -> Self {
        let children = spec.children.iter().map(|child| Child::new(&registry, child.clone())).collect();
        Self {
            window: Window::new(spec.budget),
            registry,
            spec,
            name,
            generation,
            children,
            ready: Some(ready),
            restart_pending: false,
            early: HashMap::new(),
            _life: life,
        }
    }

    /// Takes in what a task reports.
    pub(super) fn report(&mut self, myself: &ActorRef<Order>, order: Order) -> Result<(), GaveUp> {
        match order {
            Order::Launched { child, generation, result } if self.is_current(child, generation) => {
                self.launched(myself, child, result)
            }
            Order::Ready { child, generation } if self.is_current(child, generation) => {
                self.ready(child);
                Ok(())
            }
            Order::Gone { child, generation, aborted } if self.is_current(child, generation) => {
                self.gone(myself, child, aborted)
            }
            Order::Stopped { child, generation, ended } if self.is_current(child, generation) => {
                self.stopped(child, ended)
            }
            Order::Overdue { child, generation }
                if self.is_current(child, generation)
                    && matches!(self.children[child].phase, Phase::Cancelling { .. }) =>
            {
                Err(self.stuck(child))
            }
            // A report about an older incarnation, or a wake-up: `advance` looks at what is due.
            _ => Ok(()),
        }
    }

    fn is_current(&self, child: usize, generation: u64) -> bool {
        self.children[child].generation == generation
    }

    fn launched(
        &mut self,
        myself: &ActorRef<Order>,
        index: usize,
        result: Result<Launched, Option<End>>,
    ) -> Result<(), GaveUp> {
        let launched = match result {
            Ok(launched) => launched,
            Err(Some(end)) => return self.child_ended(myself, index, end),
            Err(None) => {
                self.put_down(index);
                return Ok(());
            }
        };
        let child = &mut self.children[index];
        let id = launched.cell.get_id();
        child.phase = if launched.ready.is_some() { Phase::Launching(launched.cell) } else { Phase::Up(launched.cell) };
        child.up_since = Some(Instant::now());
        let (generation, target) = (child.generation, myself.clone());
        let task = launched.task;
        tokio::spawn(async move {
            let aborted = task.await.is_err_and(|error| error.is_cancelled());
            // A dead supervisor needs no report.
            let _ = target.send_message(Order::Gone { child: index, generation, aborted });
        });
        if let Some(ready) = launched.ready {
            let target = myself.clone();
            tokio::spawn(async move {
                if ready.await.is_ok() {
                    let _ = target.send_message(Order::Ready { child: index, generation });
                }
            });
        }
        let early = self.early.remove(&id);
        if !self.children.iter().any(|child| matches!(child.phase, Phase::Starting { .. } | Phase::Cancelling { .. })) {
            self.early.clear();
        }
        early.map_or(Ok(()), |end| self.child_ended(myself, index, end))
    }

    fn ready(&mut self, index: usize) {
        let child = &mut self.children[index];
        if let Phase::Launching(cell) = &child.phase {
            child.phase = Phase::Up(cell.clone());
            child.up_since = Some(Instant::now());
        }
    }

    /// The net below the supervision events: an actor that was not linked when it ended is still noticed.
    fn gone(&mut self, myself: &ActorRef<Order>, index: usize, aborted: bool) -> Result<(), GaveUp> {
        if !matches!(self.children[index].phase, Phase::Launching(_) | Phase::Up(_)) {
            return Ok(());
        }
        let end = if aborted {
            End::new(EndKind::Aborted, "aborted")
        } else {
            End::new(EndKind::Killed, "ended without saying why")
        };
        self.child_ended(myself, index, end)
    }

    fn stopped(&mut self, index: usize, ended: bool) -> Result<(), GaveUp> {
        if !ended {
            return Err(self.stuck(index));
        }
        self.put_down(index);
        Ok(())
    }

    /// A child that was stopped for its group's restart is down now.
    fn put_down(&mut self, index: usize) {
        let child = &mut self.children[index];
        child.condemned = false;
        let stays = child.spec.restart == Restart::Temporary;
        child.phase = if stays { Phase::Done } else { Phase::Down };
        let next = if stays { ActorState::Stopped } else { ActorState::BackingOff };
        let end = End::new(EndKind::Stopped, format!("stopped: {} restarts its group", self.name));
        if child.is_supervisor() {
            self.registry.orphaned(&child.name, next);
        }
        self.registry.ended(&child.name, child.generation, next, &end);
    }

    /// A linked actor ended.
    pub(super) fn cell_ended(&mut self, myself: &ActorRef<Order>, id: ActorId, end: End) -> Result<(), GaveUp> {
        let found = self.children.iter().position(|child| child.cell().is_some_and(|cell| cell.get_id() == id));
        match found {
            Some(index) if matches!(self.children[index].phase, Phase::Stopping(_)) && end.gave_up.is_none() => {
                // The stop's own report moves it on; this only knows the better reason.
                let child = &self.children[index];
                self.registry.ended(&child.name, child.generation, ActorState::BackingOff, &end);
                Ok(())
            }
            Some(index) => self.child_ended(myself, index, end),
            None => {
                let starting = |child: &Child| matches!(child.phase, Phase::Starting { .. } | Phase::Cancelling { .. });
                if self.children.iter().any(starting) {
                    self.early.insert(id, end);
                }
                Ok(())
            }
        }
    }

    /// A child ended, or did not even start.
    fn child_ended(&mut self, myself: &ActorRef<Order>, index: usize, end: End) -> Result<(), GaveUp> {
        let child = &mut self.children[index];
        let end = if matches!(child.spec.kind, ChildKind::Library(_)) { end.of_library() } else { end };
        child.phase = Phase::Down;
        if child.is_supervisor() {
            self.registry.orphaned(&child.name, ActorState::BackingOff);
        }
        if let Some(gave_up) = &end.gave_up {
            self.registry.ended(&child.name, child.generation, ActorState::Failed, &end);
            return Err(gave_up.clone());
        }
        if end.fatal {
            let failure = end.reason.clone();
            let gave_up = GaveUp::Fatal { supervisor: self.name.clone(), actor: child.name.clone(), failure };
            return Err(self.give_up(index, &end, gave_up));
        }
        if !child.may_restart(&end) {
            child.phase = Phase::Done;
            child.condemned = false;
            let next = if end.kind.is_abnormal() { ActorState::Failed } else { ActorState::Stopped };
            self.registry.ended(&child.name, child.generation, next, &end);
            return Ok(());
        }
        self.restart(myself, index, &end)
    }

    /// Decides about the restart of a child and, by strategy, of others.
    fn restart(&mut self, myself: &ActorRef<Order>, index: usize, end: &End) -> Result<(), GaveUp> {
        let now = Instant::now();
        // A group restart that has started nobody yet was counted when it was decided, and starts this child, too.
        if !self.restart_pending && !self.window.allow(now) {
            let (actor, failure) = (self.children[index].name.clone(), end.reason.clone());
            let budget = self.spec.budget;
            let gave_up = GaveUp::Budget { supervisor: self.name.clone(), actor, failure, budget };
            return Err(self.give_up(index, end, gave_up));
        }
        let healthy = self.spec.healthy;
        let child = &mut self.children[index];
        if child.up_since.take().is_some_and(|since| now.duration_since(since) >= healthy) {
            child.failures = 0;
        }
        child.failures = child.failures.saturating_add(1);
        let delay = self.spec.backoff.delay(child.failures);
        self.registry.ended(&child.name, child.generation, ActorState::BackingOff, end);
        self.registry.event(&child.name, ActorEventKind::Restarting { after: delay });
        for other in self.affected(index) {
            let sibling = &mut self.children[other];
            sibling.resume_at = sibling.resume_at.max(Some(now + delay));
            // Never taken back here: a cancelled start may still have succeeded.
            sibling.condemned |= other != index && sibling.is_live();
        }
        self.restart_pending = self.spec.strategy != Strategy::OneForOne;
        wake_after(myself, delay);
        Ok(())
    }

    /// Who is restarted when this child ends.
    fn affected(&self, index: usize) -> Range<usize> {
        match self.spec.strategy {
            Strategy::OneForOne => index..index + 1,
            Strategy::OneForAll => 0..self.children.len(),
            Strategy::RestForOne => index..self.children.len(),
        }
    }

    fn give_up(&self, index: usize, end: &End, gave_up: GaveUp) -> GaveUp {
        let child = &self.children[index];
        self.registry.ended(&child.name, child.generation, ActorState::Failed, end);
        self.registry.event(&self.name, ActorEventKind::GaveUp { reason: gave_up.to_string() });
        metrics::counter!("actor_supervisor_gave_up_total", "actor" => self.name.clone()).increment(1);
        tracing::error!(aurigraph.actor = %self.name, "{gave_up}");
        gave_up
    }

    fn stuck(&self, index: usize) -> GaveUp {
        let actor = self.children[index].name.clone();
        let gave_up = GaveUp::Stuck { supervisor: self.name.clone(), actor, after: KILL_GRACE };
        let end = End::new(EndKind::Killed, "did not end in time");
        self.give_up(index, &end, gave_up)
    }

    /// Does what is due: first stops, in reverse order and one by one, then starts, in order.
    pub(super) fn advance(&mut self, myself: &ActorRef<Order>) {
        let busy = |child: &Child| matches!(child.phase, Phase::Stopping(_) | Phase::Cancelling { .. });
        if self.children.iter().any(busy) {
            return;
        }
        while let Some(index) = self.children.iter().rposition(|child| child.condemned) {
            if self.stop(myself, index) {
                return;
            }
            self.children[index].condemned = false;
        }
        let in_order = self.spec.strategy != Strategy::OneForOne || self.ready.is_some();
        let now = Instant::now();
        for index in 0..self.children.len() {
            let child = &self.children[index];
            match child.phase {
                Phase::Up(_) | Phase::Done => {}
                Phase::Down if child.resume_at.is_none_or(|at| at <= now) => {
                    self.start(myself, index);
                    if in_order {
                        return;
                    }
                }
                // Not due or not finished: a report or a wake-up comes back here.
                _ if in_order => return,
                _ => {}
            }
        }
        self.say_ready();
    }

    /// The first time that all children run.
    fn say_ready(&mut self) {
        let complete = self.children.iter().all(|child| matches!(child.phase, Phase::Up(_) | Phase::Done));
        if let Some(ready) = self.ready.take_if(|_| complete) {
            self.registry.started(&self.name, self.generation);
            // The parent may have died meanwhile.
            let _ = ready.send(());
        }
    }

    /// Begins to start a child.
    fn start(&mut self, myself: &ActorRef<Order>, index: usize) {
        self.restart_pending = false;
        let child = &mut self.children[index];
        let generation = self.registry.starting(&child.name, Some(&self.name), child.is_supervisor());
        let args = LaunchArgs {
            registry: self.registry.clone(),
            name: child.name.clone(),
            generation,
            supervisor: self.name.clone(),
            parent: myself.get_cell(),
        };
        let (cancel, cancelled) = oneshot::channel::<()>();
        let (spec, target) = (child.spec.clone(), myself.clone());
        let task = tokio::spawn(async move {
            let result = tokio::select! {
                biased;
                _ = cancelled => Err(None),
                result = launch::launch(&spec, args) => result.map_err(Some),
            };
            // A dead supervisor needs no report: ractor refused the link, or killed the child with it.
            let _ = target.send_message(Order::Launched { child: index, generation, result });
        });
        child.generation = generation;
        child.resume_at = None;
        child.up_since = None;
        child.phase = Phase::Starting { cancel, task };
    }

    /// Begins to stop a child. False if nothing of it runs.
    fn stop(&mut self, myself: &ActorRef<Order>, index: usize) -> bool {
        let child = &mut self.children[index];
        let generation = child.generation;
        match std::mem::replace(&mut child.phase, Phase::Done) {
            Phase::Starting { cancel, task } => {
                drop(cancel);
                child.phase = Phase::Cancelling { task };
                let target = myself.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(KILL_GRACE).await;
                    let _ = target.send_message(Order::Overdue { child: index, generation });
                });
                true
            }
            Phase::Launching(cell) | Phase::Up(cell) => {
                child.phase = Phase::Stopping(cell);
                let (registry, name, deadline) = (self.registry.clone(), child.name.clone(), child.spec.shutdown);
                let target = myself.clone();
                tokio::spawn(async move {
                    let ended = end_child(&registry, &name, Until::Dropped, deadline).await;
                    let _ = target.send_message(Order::Stopped { child: index, generation, ended });
                });
                true
            }
            other => {
                child.phase = other;
                false
            }
        }
    }

    /// The ordered stop: children in reverse order, each with its deadline. Messages are no longer handled here.
    pub(super) async fn shut_down(&mut self) -> Result<(), GaveUp> {
        for index in (0..self.children.len()).rev() {
            let child = &mut self.children[index];
            let starting = match std::mem::replace(&mut child.phase, Phase::Done) {
                Phase::Starting { cancel, task } => {
                    drop(cancel);
                    Some(task)
                }
                Phase::Cancelling { task } => Some(task),
                _ => None,
            };
            let cancelled = match starting {
                Some(task) => tokio::time::timeout(KILL_GRACE, task).await.is_ok(),
                None => true,
            };
            let (name, deadline) = (child.name.clone(), child.spec.shutdown);
            if !cancelled || !end_child(&self.registry, &name, Until::Over, deadline).await {
                return Err(self.stuck(index));
            }
            let child = &self.children[index];
            if child.is_supervisor() {
                self.registry.orphaned(&child.name, ActorState::Stopped);
            }
            let end = End::new(EndKind::Stopped, format!("stopped: {} stops", self.name));
            self.registry.ended(&child.name, child.generation, ActorState::Stopped, &end);
        }
        Ok(())
    }
}

fn wake_after(myself: &ActorRef<Order>, delay: Duration) {
    let target = myself.clone();
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        let _ = target.send_message(Order::Wake);
    });
}
