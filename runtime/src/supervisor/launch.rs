//! Starting one child: wait for its predecessor's end, spawn, link.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::actor::{Supervisor, SupervisorArgs};
use super::spec::{ChildKind, ChildSpec, SupervisorSpec};
use super::stop::KILL_GRACE;
use crate::behaviour::{AbortSlot, Behaviour, KillMode, Shell, ShellArgs, end_natively};
use crate::end::{End, EndKind, GaveUp};
use crate::registry::{Registry, Until};

/// Where and as what a child is started.
pub(crate) struct LaunchArgs {
    pub(crate) registry: Registry,
    pub(crate) name: String,
    pub(crate) generation: u64,
    /// The supervisor's name, for reasons.
    pub(crate) supervisor: String,
    pub(crate) parent: ractor::ActorCell,
}

/// A started child.
pub(crate) struct Launched {
    pub(crate) cell: ractor::ActorCell,
    pub(crate) task: JoinHandle<()>,
    /// Resolves when a behaviour is published and takes messages, or a supervisor's children all run; none for library
    /// actors, which run at once.
    pub(crate) ready: Option<oneshot::Receiver<()>>,
}

pub(crate) type LaunchFuture = Pin<Box<dyn Future<Output = Result<Launched, End>> + Send>>;
pub(crate) type Launcher = Arc<dyn Fn(LaunchArgs) -> LaunchFuture + Send + Sync>;
pub(crate) type Hook = Arc<dyn Fn(&ractor::ActorCell, KillMode) -> bool + Send + Sync>;

/// Starts a child once its predecessor has ended. A panic in the child's own functions is an end like any other.
pub(crate) async fn launch(child: &ChildSpec, args: LaunchArgs) -> Result<Launched, End> {
    if let Some(predecessor) = args.registry.occupant(&args.name)
        && !predecessor.ended(Until::Dropped, KILL_GRACE).await
    {
        return Err(stuck(&args.supervisor, &args.name));
    }
    let starting = async {
        match &child.kind {
            ChildKind::Behaviour(launcher) | ChildKind::Library(launcher) => launcher(args).await,
            ChildKind::Supervisor(spec) => supervisor(Arc::clone(spec), args).await,
        }
    };
    match AssertUnwindSafe(starting).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text");
            Err(End::new(EndKind::Panic, format!("start: panic: {text}")))
        }
    }
}

/// The end of a start that may not happen, because an old incarnation still lives.
pub(crate) fn stuck(supervisor: &str, actor: &str) -> End {
    let gave_up = GaveUp::Stuck { supervisor: supervisor.to_owned(), actor: actor.to_owned(), after: KILL_GRACE };
    End { gave_up: Some(gave_up.clone()), ..End::new(EndKind::Error, format!("start: error: {gave_up}")) }
}

/// How a behaviour is started.
pub(crate) fn behaviour<B, F>(bound: usize, make: F) -> Launcher
where
    B: Behaviour,
    F: Fn() -> B + Send + Sync + 'static,
{
    let make = Arc::new(make);
    Arc::new(move |args| {
        let make = Arc::clone(&make);
        Box::pin(async move {
            let LaunchArgs { registry, name, generation, parent, .. } = args;
            let abort = AbortSlot::default();
            let (ready, is_ready) = oneshot::channel();
            let shell_args =
                ShellArgs { name: name.clone(), generation, bound, registry, abort: Arc::clone(&abort), ready };
            let shell = Shell(make());
            let started = ractor::Actor::spawn_linked(Some(name), shell, shell_args, parent).await;
            let (actor, task) = started.map_err(End::of_spawn)?;
            // Set once per incarnation, here.
            let _ = abort.set(task.abort_handle());
            Ok(Launched { cell: actor.get_cell(), task, ready: Some(is_ready) })
        })
    })
}

/// How a library actor is started.
pub(crate) fn raw<F, R>(start: F, hook: Option<Hook>) -> Launcher
where
    F: Fn(Registry, u64, ractor::ActorCell) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(ractor::ActorCell, JoinHandle<()>), ractor::SpawnErr>> + Send + 'static,
{
    Arc::new(move |args| {
        let LaunchArgs { registry, name, generation, parent, .. } = args;
        let starting = start(registry.clone(), generation, parent.clone());
        let hook = hook.clone();
        Box::pin(async move {
            let (cell, task) = starting.await.map_err(|error| End::of_spawn(error).of_library())?;
            // Linking twice changes nothing, and an actor that nobody linked would die unnoticed.
            cell.link(parent);
            registry.occupy_raw(&name, generation, &cell);
            let abort: AbortSlot = Arc::new(OnceLock::from(task.abort_handle()));
            let target = cell.clone();
            let killer = Arc::new(move |mode| {
                hook.as_ref().is_some_and(|hook| hook(&target, mode)) || end_natively(&target, &abort, mode)
            });
            registry.set_killer(&name, generation, None, killer);
            registry.started(&name, generation);
            Ok(Launched { cell, task, ready: None })
        })
    })
}

/// How a supervisor is started; also the root.
pub(crate) async fn supervisor(spec: Arc<SupervisorSpec>, args: LaunchArgs) -> Result<Launched, End> {
    let LaunchArgs { registry, name, generation, parent, .. } = args;
    let abort = AbortSlot::default();
    let (ready, is_ready) = oneshot::channel();
    let supervisor_args =
        SupervisorArgs { spec, registry, name: name.clone(), generation, ready, abort: Arc::clone(&abort) };
    let started = ractor::Actor::spawn_linked(Some(name), Supervisor, supervisor_args, parent).await;
    let (actor, task) = started.map_err(End::of_spawn)?;
    // Set once per incarnation, here.
    let _ = abort.set(task.abort_handle());
    Ok(Launched { cell: actor.get_cell(), task, ready: Some(is_ready) })
}
