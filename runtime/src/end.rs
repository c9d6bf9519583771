//! How incarnations end: the kinds of end, the text that reaches the log, and the errors that nobody restarts from.

use std::time::Duration;

use crate::behaviour::ActorError;
use crate::supervisor::Budget;

/// How an incarnation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndKind {
    /// In order: only this one counts as normal.
    Stopped,
    /// A handler or `start` returned an error.
    Error,
    /// A handler or `start` panicked.
    Panic,
    /// ractor's kill signal.
    Killed,
    /// Its task was aborted.
    Aborted,
}

impl EndKind {
    /// The label of `application_exceptions_total`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Killed => "killed",
            Self::Aborted => "aborted",
        }
    }

    /// Everything but an ordered stop is abnormal: ractor reports kills and aborts as terminations, they are failures.
    #[must_use]
    pub const fn is_abnormal(self) -> bool {
        !matches!(self, Self::Stopped)
    }
}

/// An error after which a restart is pointless (wrong genesis, a foreign data directory): the supervisor gives up at
/// once and the process ends with this reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(String);

impl Fatal {
    /// A fatal error with this reason.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// Why a supervisor gave up. It fails its parent, which fails its own, up to the root: the process ends and says this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GaveUp {
    /// More restarts than the budget allows.
    #[error(
        "{supervisor} gave up: {actor} ended ({failure}) and the budget of {} restarts within {:?} is used up",
        budget.restarts, budget.window
    )]
    Budget {
        /// The supervisor.
        supervisor: String,
        /// Who failed last.
        actor: String,
        /// Why.
        failure: String,
        /// The budget.
        budget: Budget,
    },
    /// An old incarnation did not end, so that no new one may start: only the end of the process gets rid of it.
    #[error("{supervisor} gave up: {actor} did not end within {after:?} of being told to")]
    Stuck {
        /// The supervisor.
        supervisor: String,
        /// Who does not end.
        actor: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The actor said itself that no restart helps.
    #[error("{supervisor} gave up: {actor} cannot go on ({failure})")]
    Fatal {
        /// The supervisor.
        supervisor: String,
        /// Who failed.
        actor: String,
        /// Why.
        failure: String,
    },
}

/// Marks an error as returned by a behaviour, so that the supervisor can tell errors from panics.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Returned(pub(crate) ActorError);

/// The end of one incarnation, as its supervisor sees it.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) kind: EndKind,
    pub(crate) reason: String,
    /// Set if a supervisor below gave up.
    pub(crate) gave_up: Option<GaveUp>,
    /// True if the behaviour returned [`Fatal`].
    pub(crate) fatal: bool,
}

impl End {
    pub(crate) fn new(kind: EndKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), gave_up: None, fatal: false }
    }

    /// An incarnation that ended without being told to fail.
    pub(crate) fn terminated(reason: Option<String>) -> Self {
        match reason.as_deref() {
            Some("killed") => Self::new(EndKind::Killed, "killed"),
            Some("actor_task_cancelled") => Self::new(EndKind::Aborted, "aborted"),
            Some(reason) => Self::new(EndKind::Stopped, format!("stopped: {reason}")),
            None => Self::new(EndKind::Stopped, "stopped"),
        }
    }

    /// An incarnation that failed: by an error of the behaviour, an error of a supervisor, or a panic.
    pub(crate) fn failed(error: &ActorError) -> Self {
        if let Some(gave_up) = error.downcast_ref::<GaveUp>() {
            return Self { gave_up: Some(gave_up.clone()), ..Self::new(EndKind::Error, format!("error: {gave_up}")) };
        }
        if let Some(Returned(inner)) = error.downcast_ref::<Returned>() {
            let fatal = inner.downcast_ref::<Fatal>().is_some();
            return Self { fatal, ..Self::new(EndKind::Error, format!("error: {}", chain(inner))) };
        }
        Self::new(EndKind::Panic, format!("panic: {error}"))
    }

    /// The same of a library actor, whose errors and panics ractor reports alike: called errors, for want of better.
    pub(crate) fn of_library(mut self) -> Self {
        if self.kind == EndKind::Panic {
            self.kind = EndKind::Error;
            self.reason = self.reason.replacen("panic: ", "failed: ", 1);
        }
        self
    }

    /// A start that came to nothing.
    pub(crate) fn of_spawn(error: ractor::SpawnErr) -> Self {
        match error {
            ractor::SpawnErr::StartupFailed(error) if is_kill(&error) => {
                Self::new(EndKind::Killed, "killed during start")
            }
            ractor::SpawnErr::StartupFailed(error) => {
                let mut end = Self::failed(&error);
                end.reason = format!("start: {}", end.reason);
                end
            }
            other => Self::new(EndKind::Error, format!("start: error: {other}")),
        }
    }
}

/// ractor wraps a kill during `pre_start` in a start-up error with this fixed text.
fn is_kill(error: &ActorError) -> bool {
    error.to_string() == "Actor killed during startup"
}

/// The error and its sources, as far as they say something new.
fn chain(error: &ActorError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_and_aborts_are_abnormal_although_ractor_reports_them_as_terminations() {
        assert_eq!(End::terminated(Some("killed".into())).kind, EndKind::Killed);
        assert_eq!(End::terminated(Some("actor_task_cancelled".into())).kind, EndKind::Aborted);
        assert_eq!(End::terminated(Some("shutdown".into())).kind, EndKind::Stopped);
        assert_eq!(End::terminated(None).kind, EndKind::Stopped);
        assert!(EndKind::Killed.is_abnormal() && EndKind::Aborted.is_abnormal() && !EndKind::Stopped.is_abnormal());
    }

    #[test]
    fn an_error_names_its_sources_once_and_a_panic_is_told_apart() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open the journal")]
        struct Outer(#[source] std::io::Error);

        let returned: ActorError = Box::new(Returned(Box::new(Outer(std::io::Error::other("disk on fire")))));
        assert_eq!(End::failed(&returned).reason, "error: cannot open the journal: disk on fire");
        assert_eq!(End::failed(&returned).kind, EndKind::Error);
        let panic: ActorError = "index out of bounds".into();
        assert_eq!(End::failed(&panic).kind, EndKind::Panic);
    }

    #[test]
    fn a_fatal_error_is_recognised_through_the_shell() {
        let returned: ActorError = Box::new(Returned(Box::new(Fatal::new("wrong genesis"))));
        assert!(End::failed(&returned).fatal);
    }
}
