//! Signature checking: verifier actors over threads, and the dispatcher that queues, shares out and remembers.
//!
//! Nothing here decides what a verdict means; that is the ledger's.

mod dispatcher;
mod messages;

pub use messages::{Check, DispatchError, DispatchMsg, KnownKey, Priority, TransactionCheck, Verdict, VerifierMsg};
