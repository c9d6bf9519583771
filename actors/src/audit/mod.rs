//! The audit log: append-only, hash-chained entries about what people and the node's own parts did.
//!
//! An entry is made by the audit actor alone, in order, and stored in a tree of the store. Each carries the hash of the
//! one before, so that a changed, missing or inserted entry shows. It never decides anything.

mod actor;
mod entry;
mod reader;

#[cfg(test)]
mod tests;

pub use actor::{AuditActor, AuditMsg};
pub use entry::{AuditEntry, AuditLevel, AuditRecord, AuditStatus};
pub use reader::{AuditFilter, AuditPage, AuditReader, AuditSummary};
