//! Cuts of power over a node's whole folder, journal and store together, made from a recording of a real process: what
//! was written and not synced at the moment of the cut is lost, whole or in part, in any order (docs/adr/0037).
//!
//! [`Recorder`] starts a node so that every change and sync of its folder is logged, together with the harness' own
//! marks (what was acknowledged). [`Tape`] reads that log. [`Disk`] plays it and says how the folder may look after a
//! cut. [`Hunt`] does all of it to a cluster under load, and looks for what was acknowledged and is gone. The same search follows random damage to the
//! files that a node can do without (`Plan::damages`).

mod damage;
mod disk;
mod hunt;
mod tape;

pub use disk::Disk;
pub use hunt::{Hunt, Plan};
pub use tape::{Change, Entry, Recorder, Tape};
