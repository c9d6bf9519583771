//! Reads: query actors that answer from the last published state, and the facade through which the HTTP edge asks.
//!
//! Nothing here writes, and nothing here knows HTTP. Submissions pass through the facade to the mempool.

pub mod values;
