//! The links between nodes, over real sockets: several nodes in one process, each with its own tree and names.
//!
//! Every test uses node names of its own, because the actor library registers names for the whole process.

mod exchange;
mod healing;
mod holes;
mod outsiders;
mod rules;
mod support;
