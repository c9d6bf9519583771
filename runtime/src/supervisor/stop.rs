//! Ending one child: ask, wait, kill, wait, and say so if even that was in vain.

use std::time::Duration;

use crate::registry::{Registry, Until};

/// How long a killed actor may take to end. A kill takes effect at the next await, so only synchronous code can take
/// longer, and nothing but the end of the process gets rid of that.
pub const KILL_GRACE: Duration = Duration::from_secs(5);

/// Stops the current incarnation of a name within `deadline`, else kills it and, if it is a supervisor, all below it.
/// False if not everything ended even then.
pub(crate) async fn end_child(registry: &Registry, name: &str, until: Until, deadline: Duration) -> bool {
    let Some(occupant) = registry.occupant(name) else { return true };
    occupant.cell.stop(Some("shutdown".to_owned()));
    if !occupant.ended(until, deadline).await {
        tracing::warn!(aurigraph.actor = name, "did not stop within {deadline:?}: killing it");
        occupant.cell.kill();
        if !occupant.ended(until, KILL_GRACE).await {
            return false;
        }
    }
    registry.end_descendants(name, until, KILL_GRACE).await.is_ok()
}
