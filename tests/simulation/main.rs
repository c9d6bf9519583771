//! Deterministic simulation: fixed cases, two thousand seeds, and proof that the checks notice errors.

mod cases;
mod historic;
#[cfg(debug_assertions)]
mod mutations;
mod sabotage;
mod seeds;
