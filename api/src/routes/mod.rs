//! The handlers, by area. Each reads its parameters, sends one message through the port, and shapes the answer.

pub mod audit;
pub mod chain;
pub mod events;
pub mod forms;
pub mod network;
pub mod node;
pub mod transactions;
