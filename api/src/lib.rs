//! The HTTP edge: warp routes to actor messages, the OpenAPI document, the event stream.
//!
//! Must not know how anything is done: every route reads its parameters, sends one bounded message through
//! [`NodePort`](aurigraph_actors::query::NodePort), and shapes the answer.
#![forbid(unsafe_code)]

pub mod auth;
pub mod call;
pub mod edge;
pub mod limiter;
pub mod mount;
pub mod openapi;
pub mod params;
pub mod problem;
pub mod route;
pub mod routes;
pub mod server;
pub mod stand_in;
mod tree;
mod write_deadline;

pub use edge::{ApiParts, Edge, RenderMetrics};
pub use server::{BindError, Port};
pub use stand_in::{SayWhy, stand_in};
pub use tree::{HttpServer, spec};
