//! The store actor.

/// What it tells itself.
#[derive(Debug)]
pub struct Internal(());
