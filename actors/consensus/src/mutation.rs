//! Deliberate errors of the state machine: the suite has to notice each of them (consensus.md 13.3).
//!
//! The rule that a block's first parent is the author's own is not among them: the encoding of a block has no room for
//! another author there.
//!
//! A build without debug assertions, as every release is, has none: [`has`] is `false` there, known when it is compiled. In
//! a debug build a test switches errors on for the machines of its own thread (ADR 0034).

/// A deliberate error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Anchors are looked for from the round r+2 on.
    AnchorsFromTwo,
    /// The walk for an anchor goes past undecided slots.
    WalkPastUndecided,
    /// V certificates commit, not Q.
    CommitWithV,
    /// Blocks are counted, not authors.
    CountBlocks,
    /// An own block leaves before it is durable.
    SendBeforeSync,
    /// Garbage collection follows the newest block, not the commits.
    GcByClock,
    /// A new leader table is made one commit late.
    ScheduleLate,
    /// A validator that is behind builds for the newest round at once.
    JumpRounds,
    /// A block does not wait for the certificates of the leader two rounds before.
    NoCertificateWait,
}

#[cfg(debug_assertions)]
mod switched {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static ON: Cell<u32> = const { Cell::new(0) };
    }

    /// Switches these errors on, and all others off, for the machines that this thread steps.
    pub fn set(mutations: &[Mutation]) {
        ON.set(mutations.iter().fold(0, |on, mutation| on | 1 << *mutation as u32));
    }

    /// Whether an error is on.
    pub(crate) fn has(mutation: Mutation) -> bool {
        ON.get() & (1 << mutation as u32) != 0
    }
}

#[cfg(debug_assertions)]
pub(crate) use switched::has;
#[cfg(debug_assertions)]
pub use switched::set;

/// Whether an error is on: never.
#[cfg(not(debug_assertions))]
pub(crate) const fn has(_: Mutation) -> bool {
    false
}
