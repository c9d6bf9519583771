//! The verify-dispatcher: bounded queues by class, fair between senders, over all verifiers.

/// What the dispatcher tells itself.
#[derive(Debug)]
pub struct Internal(());
