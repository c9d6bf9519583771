//! Admission, the batchers and the batch store as actors, between neighbours that only listen or are real.

mod admission;
mod batcher;
mod store;
mod store_restarts;
