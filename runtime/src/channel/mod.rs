//! Post-quantum channels: TLS 1.3 with ML-KEM-1024 only, AES-256-GCM only, ML-DSA-87 raw public keys both ways.
//!
//! Here lives who a peer is and how a TCP connection becomes a confirmed, identified byte stream for one lane. What
//! travels in it (sessions, frames, credit) lives in [`crate::cluster`].

mod handshake;
mod identity;
mod keys;
mod verify;

pub use handshake::{Channel, Channels, HandshakeError, LaneKind, SessionTag};
pub use identity::{Identity, IdentityError, PUBLIC_KEY_BYTES};
pub use keys::PeerKeys;
