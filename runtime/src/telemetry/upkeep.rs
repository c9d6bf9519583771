//! The actor that keeps the recorder small and samples the tree.

use std::time::Duration;

use super::metrics::Metrics;
use crate::behaviour::{ActorError, Behaviour, Context};

/// How often: below the scrape interval of 5 s, so that every scrape sees fresh figures.
const EVERY: Duration = Duration::from_secs(1);

/// Places in its mailbox: its own timer is its only sender.
pub const UPKEEP_MAILBOX: usize = 4;

/// The behaviour.
pub struct Upkeep {
    metrics: Metrics,
}

impl Upkeep {
    /// Keeps these metrics.
    #[must_use]
    pub const fn new(metrics: Metrics) -> Self {
        Self { metrics }
    }
}

/// Its own timer.
pub struct Tick;

impl Behaviour for Upkeep {
    type Msg = Tick;
    type State = ();

    async fn start(&self, ctx: &Context<Tick>) -> Result<(), ActorError> {
        ctx.send_self(Tick);
        Ok(())
    }

    async fn handle(&self, ctx: &Context<Tick>, Tick: Tick, (): &mut ()) -> Result<(), ActorError> {
        ctx.registry.sample();
        self.metrics.run_upkeep();
        // The handle is not needed: a tick to a dead incarnation goes nowhere.
        drop(ctx.send_after(EVERY, Tick));
        Ok(())
    }
}
