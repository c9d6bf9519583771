//! Supervision: who is started under whom, what happens when one ends, and how all of it stops in order.
//!
//! ractor links actors and reports their ends, but restarts nothing; the published supervisor crate does not build with
//! ractor's `cluster` feature. This is ours. It decides from the end of an incarnation alone and keeps no state of the
//! dead: what an actor rebuilds itself from is its own affair.
//!
//! `spec`: what a tree is made of. `launch`, `stop`: how one child starts and ends. `group`: a supervisor's decisions;
//! `actor`: what runs them. `restarts`: budget and backoff. `tree`: the root and what holds it.

mod actor;
mod child;
mod group;
mod launch;
mod restarts;
mod spec;
mod stop;
mod tree;

pub use restarts::{Backoff, Budget};
pub use spec::{ChildSpec, Restart, Strategy, SupervisorSpec};
pub use stop::KILL_GRACE;
pub use tree::{ShutdownError, StartError, Tree, TreeEnd};
