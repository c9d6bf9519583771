//! Deterministic simulation: fixed cases, a thousand seeds, and proof that the checks notice errors.

mod cases;
mod historic;
mod sabotage;
mod seeds;
