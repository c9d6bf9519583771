//! The batcher actor.

/// What it tells itself.
#[derive(Debug)]
pub struct Internal(());
