//! What an actor of this system is: a [`Behaviour`] run by a small shell around a ractor actor.
//!
//! The shell gives every actor the same things: a bounded mailbox, the depth gauge, the log span with its name,
//! the five ways of being killed on purpose, and a supervision handler that never stops a parent by accident.
//! Behaviours stay thin: they receive, call pure code or a thread, and execute effects.

use std::any::Any;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::Instrument;

use crate::end::Returned;
use crate::mailbox::{Address, MailboxStats};
use crate::registry::{Killer, Life, Registry};

/// Why an actor failed; the text reaches the log, the live tree and the audit log.
pub type ActorError = Box<dyn std::error::Error + Send + Sync>;

/// One actor: what it does when it starts, for each message, and when it is stopped in order.
///
/// `Err` and a panic mean the same: this incarnation ends and its supervisor decides. State must be rebuilt in
/// [`Behaviour::start`] from what is durable, never from an earlier incarnation's memory.
pub trait Behaviour: Send + Sync + Sized + 'static {
    /// What may be sent to it.
    type Msg: Send + 'static;
    /// What lives as long as one incarnation.
    type State: Send + 'static;

    /// Builds the state. A failure counts as a failed start with the supervisor.
    fn start(&self, ctx: &Context<Self::Msg>) -> impl Future<Output = Result<Self::State, ActorError>> + Send;

    /// Handles one message.
    fn handle(
        &self,
        ctx: &Context<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> impl Future<Output = Result<(), ActorError>> + Send;

    /// Runs after an ordered stop only: never after a kill, a panic or an error. Nothing may depend on it.
    fn stopped(&self, ctx: &Context<Self::Msg>, state: &mut Self::State) -> impl Future<Output = ()> + Send {
        let _ = (ctx, state);
        async {}
    }
}

/// What an incarnation knows of itself.
pub struct Context<M: Send + 'static> {
    /// `node/role[/index]`: log span, metric label and chaos target.
    pub name: String,
    /// Counts the incarnations of this name in this process, from 1.
    pub generation: u64,
    /// Addresses of the other actors of the node.
    pub registry: Registry,
    pub(crate) cell: ractor::ActorRef<Envelope<M>>,
}

impl<M: Send + 'static> Context<M> {
    /// The actor's own address, valid across restarts.
    #[must_use]
    pub fn address(&self) -> Address<M> {
        self.registry.address(&self.name)
    }

    /// Sends a message to this incarnation after a delay, outside the mailbox bound: for timers, of which each actor
    /// holds a fixed number. Aborting the handle does not recall a message that is already queued, so timers carry a
    /// generation of their own.
    pub fn send_after(&self, delay: Duration, message: M) -> tokio::task::JoinHandle<()> {
        let cell = self.cell.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            // A dead incarnation needs no timer.
            let _ = cell.send_message(Envelope::unbounded(message));
        })
    }

    /// Sends a message to this very incarnation now, outside the mailbox bound: for results of threads and tasks that
    /// this incarnation started (their number is bounded where they are started). False if it has ended.
    pub fn send_self(&self, message: M) -> bool {
        self.cell.send_message(Envelope::unbounded(message)).is_ok()
    }

    /// A handle for threads and tasks that report back to this incarnation; later incarnations never see their results.
    #[must_use]
    pub fn mouth(&self) -> Mouth<M> {
        Mouth { cell: self.cell.clone() }
    }

    /// Ends this incarnation in order; the supervisor sees a normal stop.
    pub fn stop(&self, reason: &str) {
        self.cell.stop(Some(reason.to_owned()));
    }
}

/// Speaks to one incarnation of an actor, from the threads and tasks that it owns.
pub struct Mouth<M: Send + 'static> {
    cell: ractor::ActorRef<Envelope<M>>,
}

impl<M: Send + 'static> Clone for Mouth<M> {
    fn clone(&self) -> Self {
        Self { cell: self.cell.clone() }
    }
}

impl<M: Send + 'static> Mouth<M> {
    /// Sends to the incarnation, outside the mailbox bound. False if it has ended.
    pub fn send(&self, message: M) -> bool {
        self.cell.send_message(Envelope::unbounded(message)).is_ok()
    }
}

/// How an actor can be ended on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KillMode {
    /// ractor's kill signal: at the next await point, without `stopped`.
    Kill,
    /// A panic inside the handler.
    Panic,
    /// The handler returns an error.
    Error,
    /// An ordered stop.
    Stop,
    /// The actor's task is aborted.
    Abort,
}

impl KillMode {
    /// Every mode.
    pub const ALL: [Self; 5] = [Self::Kill, Self::Panic, Self::Error, Self::Stop, Self::Abort];
}

impl std::fmt::Display for KillMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Panic => "panic",
            Self::Error => "error",
            Self::Stop => "stop",
            Self::Abort => "abort",
        })
    }
}

impl std::str::FromStr for KillMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "kill" => Ok(Self::Kill),
            "panic" => Ok(Self::Panic),
            "error" => Ok(Self::Error),
            "stop" => Ok(Self::Stop),
            "abort" => Ok(Self::Abort),
            other => Err(format!("unknown kill mode {other:?}: kill, panic, error, stop or abort")),
        }
    }
}

/// What travels in a mailbox: a message with its place in the bound, or an order to fail.
pub enum Envelope<M: Send + 'static> {
    /// A message of the behaviour.
    Message {
        /// The message.
        message: M,
        /// Its place in the mailbox bound, free again once it was handled or dropped. None for timers and own results.
        place: Option<OwnedSemaphorePermit>,
    },
    /// Fail now, in one of the two ways that need the handler.
    Fail(KillMode),
}

impl<M: Send + 'static> Envelope<M> {
    pub(crate) const fn unbounded(message: M) -> Self {
        Self::Message { message, place: None }
    }
}

// Local only: no behaviour is addressable from another node. The gateway alone is a remotable actor.
impl<M: Any + Send> ractor::Message for Envelope<M> {}

/// The abort handle of an actor's task, known only once the task runs.
pub(crate) type AbortSlot = Arc<OnceLock<tokio::task::AbortHandle>>;

/// What an incarnation is started with.
pub(crate) struct ShellArgs {
    pub(crate) name: String,
    pub(crate) generation: u64,
    pub(crate) bound: usize,
    pub(crate) registry: Registry,
    pub(crate) abort: AbortSlot,
    /// Told once the incarnation is published.
    pub(crate) ready: oneshot::Sender<()>,
}

/// The ractor actor that runs a behaviour.
pub(crate) struct Shell<B>(pub(crate) B);

pub(crate) struct ShellState<B: Behaviour> {
    context: Context<B::Msg>,
    /// Taken by an ordered stop, so that it is dropped before the stop is over: ractor hands a dead actor's state to the
    /// supervisor, where it would wait in a queue.
    state: Option<B::State>,
    stats: MailboxStats,
    span: tracing::Span,
    bound: usize,
    abort: AbortSlot,
    ready: Option<oneshot::Sender<()>>,
    // The last field: the next incarnation may start when everything above was dropped.
    life: Life,
}

impl<B: Behaviour> ractor::Actor for Shell<B> {
    type Msg = Envelope<B::Msg>;
    type State = ShellState<B>;
    type Arguments = ShellArgs;

    async fn pre_start(
        &self,
        myself: ractor::ActorRef<Self::Msg>,
        args: ShellArgs,
    ) -> Result<Self::State, ractor::ActorProcessingErr> {
        let ShellArgs { name, generation, bound, registry, abort, ready } = args;
        let life = registry.occupy(&name, generation, &myself.get_cell());
        let stats = registry.stats(&name);
        let span = tracing::info_span!("actor", aurigraph.actor = %name, aurigraph.generation = generation);
        let context = Context { name, generation, registry, cell: myself };
        let state = self.0.start(&context).instrument(span.clone()).await.map_err(Returned)?;
        Ok(ShellState { context, state: Some(state), stats, span, bound, abort, ready: Some(ready), life })
    }

    /// Publishes the incarnation from inside its own task, so that it can never be published after its end.
    async fn post_start(
        &self,
        myself: ractor::ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ractor::ActorProcessingErr> {
        let ShellState { context, bound, abort, ready, life, .. } = state;
        let killer = killer(myself.clone(), Arc::clone(abort));
        context.registry.running(&context.name, context.generation, *bound, &myself, life, killer);
        if let Some(ready) = ready.take() {
            // A supervisor that died meanwhile needs no report.
            let _ = ready.send(());
        }
        Ok(())
    }

    async fn handle(
        &self,
        _myself: ractor::ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ractor::ActorProcessingErr> {
        match message {
            Envelope::Message { message, place } => {
                // Taken by `post_stop` alone, after which nothing is handled.
                let Some(inner) = &mut state.state else { return Ok(()) };
                let began = std::time::Instant::now();
                let handling = self.0.handle(&state.context, message, inner);
                let result = handling.instrument(state.span.clone()).await;
                drop(place);
                state.stats.handled(began.elapsed());
                Ok(result.map_err(Returned)?)
            }
            #[allow(clippy::panic)]
            Envelope::Fail(KillMode::Panic) => panic!("told to panic"),
            Envelope::Fail(_) => Err(Returned("told to fail".into()).into()),
        }
    }

    async fn post_stop(
        &self,
        _myself: ractor::ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ractor::ActorProcessingErr> {
        if let Some(mut inner) = state.state.take() {
            self.0.stopped(&state.context, &mut inner).instrument(state.span.clone()).await;
        }
        state.life.withdraw();
        Ok(())
    }

    /// A behaviour owns threads and tasks, not actors: only supervisors have children. ractor's default would stop this
    /// actor for any event, so the events are dropped here.
    async fn handle_supervisor_evt(
        &self,
        _myself: ractor::ActorRef<Self::Msg>,
        _event: ractor::SupervisionEvent,
        _state: &mut Self::State,
    ) -> Result<(), ractor::ActorProcessingErr> {
        Ok(())
    }
}

/// How to end a behaviour's incarnation in each mode.
fn killer<M: Send + 'static>(cell: ractor::ActorRef<Envelope<M>>, abort: AbortSlot) -> Killer {
    Arc::new(move |mode| match mode {
        KillMode::Panic | KillMode::Error => cell.send_message(Envelope::Fail(mode)).is_ok(),
        other => end_natively(&cell.get_cell(), &abort, other),
    })
}

/// The modes that ractor and tokio know themselves; panic and error need the actor's help and kill it here.
pub(crate) fn end_natively(cell: &ractor::ActorCell, abort: &AbortSlot, mode: KillMode) -> bool {
    match mode {
        KillMode::Stop => cell.stop(Some("on purpose".to_owned())),
        KillMode::Abort => match abort.get() {
            Some(task) => task.abort(),
            // Its task is being spawned this very moment.
            None => return false,
        },
        KillMode::Kill | KillMode::Panic | KillMode::Error => cell.kill(),
    }
    true
}
