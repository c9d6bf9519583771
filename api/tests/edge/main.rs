//! The HTTP edge over a whole node on loopback: every route's good answers and its bad inputs.

mod connections;
mod node;
mod reads;
mod stream;
mod writes;
