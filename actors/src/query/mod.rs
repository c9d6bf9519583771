//! Reads: query actors that answer from the last published state, and the facade through which the HTTP edge asks.
//!
//! Nothing here writes, and nothing here knows HTTP. Submissions pass through the facade to the mempool; transfers of
//! accounts that the node holds pass through the signer.

mod actor;
mod archive;
mod chain_reads;
mod checkpoint_reads;
pub mod codes;
mod messages;
mod node_reads;
mod port;
mod process;
mod signer;
mod sources;
#[cfg(test)]
mod tests;
mod validator_reads;
mod validator_watch;
pub mod values;
pub mod views;

pub use actor::{QueryActor, QueryState};
pub use messages::{Answer, KillOutcome, QueryError, QueryMsg};
pub use port::{Action, Fate, NodePort, Order, PortError, Submitted};
pub use process::ProcessFigures;
pub use signer::{Attempt, Signer, SignerError, SignerMsg, SignerState};
pub use sources::{Archive, ArchivedBlock, ArchivedParties, ArchivedTransaction, EpochWork, LinkFacts, Links, Sources};
pub(crate) use validator_reads::fault_name;
pub use validator_watch::{Seen, ValidatorWatch};
