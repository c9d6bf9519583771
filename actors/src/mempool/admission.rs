//! The admission actor.

/// What it tells itself.
#[derive(Debug)]
pub struct Internal(());
