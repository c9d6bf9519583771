//! The pipeline of committed payload: Order, Verify, Execute, Persist, Publish; each stage one actor.
//!
//! The stages stand and fall together (one-for-all): what is under way between two stages dies with either of them, and
//! a stream with a hole is worse than a new stream.
//!
//! Execute pulls: whenever it starts, it takes up the newest checkpoint and asks Order to stream the commits after it from
//! the journal. Everything that flows carries the number of that stream, so what a dead incarnation still has under
//! way is recognised and dropped. The rules of execution live in `aurigraph-ledger`; none stand here.

#[cfg(debug_assertions)]
mod corrupt;
mod execute;
mod mark;
mod messages;
mod order;
mod persist;
mod publish;
mod verify;

#[cfg(test)]
mod tests;

pub use execute::Execute;
pub(crate) use execute::Resumed;
pub use mark::Mark;
pub use messages::{
    ExecuteMsg, ExecutedCommit, Loaded, OrderMsg, OrderedCommit, PersistMsg, PublishMsg, VerifiedCommit, VerifyMsg,
};
pub use order::Order;
pub use persist::Persist;
pub use publish::Publish;
pub use verify::{Verify, faults_of};

use std::time::Duration;

use aurigraph_runtime::{ActorError, Address};

/// How long a stage waits for a neighbour that is starting.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Sends when the receiver runs and has room.
async fn deliver<M: Send + 'static>(to: &Address<M>, message: M) -> Result<(), ActorError> {
    crate::consensus::wait_until_running(to, START_TIMEOUT).await?;
    to.send_wait(message).await.map_err(|error| format!("cannot hand on: {error}").into())
}
