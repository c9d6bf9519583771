//! Deterministic simulation: fixed cases, a thousand seeds, and proof that the checks notice errors.

mod cases;
mod sabotage;
mod seeds;
