//! The one message that crosses the actor cluster: from a node to another node's gateway.
//!
//! The library hands a message over without its sender, so each begins with the tag of its session. Written by hand
//! rather than derived: casts only, and the buffer is moved, not copied field by field.

use bytes::Bytes;
use ractor::message::{BoxedDowncastErr, SerializedMessage};

use crate::behaviour::KillMode;
use crate::channel::SessionTag;

/// Tag and kind.
pub(crate) const HEADER_BYTES: usize = 17;
/// What a message weighs beyond its bytes, so that floods of tiny ones are bounded, too.
pub(crate) const MESSAGE_OVERHEAD: u64 = 64;

/// What one end tells the other's gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signal {
    /// A message of the layer above.
    Data(Bytes),
    /// Answer this, please. Carries the sender's receipt.
    Ping { nonce: u64, processed: u64 },
    /// The answer.
    Pong { nonce: u64, processed: u64 },
    /// So much of yours is processed in all.
    Receipt { processed: u64 },
    /// Fail now: local only, no bytes decode to it.
    Fail(KillMode),
}

/// A signal with the tag of the session that it travels in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GatewayMessage {
    pub(crate) tag: SessionTag,
    pub(crate) signal: Signal,
}

/// Why bytes are no gateway message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("{0} bytes are too short for a gateway message")]
    Short(usize),
    #[error("kind {kind} with {length} bytes")]
    Kind { kind: u8, length: usize },
}

fn kind_of(bytes: &[u8]) -> Result<u8, WireError> {
    let kind = *bytes.get(HEADER_BYTES - 1).ok_or(WireError::Short(bytes.len()))?;
    match (kind, bytes.len() - HEADER_BYTES) {
        (0, 1..) | (1 | 2, 16) | (3, 8) => Ok(kind),
        (kind, length) => Err(WireError::Kind { kind, length }),
    }
}

/// Checks bytes without taking them: their tag and whether they carry data.
pub(crate) fn inspect(bytes: &[u8]) -> Result<(SessionTag, bool), WireError> {
    let kind = kind_of(bytes)?;
    let tag = bytes.first_chunk::<16>().ok_or(WireError::Short(bytes.len()))?;
    Ok((*tag, kind == 0))
}

impl GatewayMessage {
    fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + 16);
        out.extend_from_slice(&self.tag);
        match self.signal {
            Signal::Data(body) => {
                out.reserve_exact(body.len() + 1);
                out.push(0);
                out.extend_from_slice(&body);
            }
            Signal::Ping { nonce, processed } => {
                out.push(1);
                out.extend_from_slice(&nonce.to_le_bytes());
                out.extend_from_slice(&processed.to_le_bytes());
            }
            Signal::Pong { nonce, processed } => {
                out.push(2);
                out.extend_from_slice(&nonce.to_le_bytes());
                out.extend_from_slice(&processed.to_le_bytes());
            }
            Signal::Receipt { processed } => {
                out.push(3);
                out.extend_from_slice(&processed.to_le_bytes());
            }
            // An unknown kind: refused by every receiver.
            Signal::Fail(_) => out.push(u8::MAX),
        }
        out
    }

    /// Reads what a peer sent.
    pub(crate) fn decode(bytes: Vec<u8>) -> Result<Self, WireError> {
        let kind = kind_of(&bytes)?;
        let (tag, _) = inspect(&bytes)?;
        let mut body = Bytes::from(bytes);
        let mut body = body.split_off(HEADER_BYTES);
        let mut number = || bytes::Buf::try_get_u64_le(&mut body).unwrap_or_default();
        let signal = match kind {
            1 => Signal::Ping { nonce: number(), processed: number() },
            2 => Signal::Pong { nonce: number(), processed: number() },
            3 => Signal::Receipt { processed: number() },
            _ => Signal::Data(body),
        };
        Ok(Self { tag, signal })
    }
}

impl ractor::Message for GatewayMessage {
    fn serializable() -> bool {
        true
    }

    fn serialize(self) -> Result<SerializedMessage, BoxedDowncastErr> {
        Ok(SerializedMessage::Cast { variant: String::new(), args: self.encode(), metadata: None })
    }

    /// The guard in front of the session has refused whatever does not decode, and charged its sender.
    fn deserialize(message: SerializedMessage) -> Result<Self, BoxedDowncastErr> {
        match message {
            SerializedMessage::Cast { args, .. } => Self::decode(args).map_err(|_| BoxedDowncastErr),
            _ => Err(BoxedDowncastErr),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_survives_the_wire_and_nothing_else_decodes() {
        let signals = [
            Signal::Data(Bytes::from_static(b"x")),
            Signal::Ping { nonce: 7, processed: u64::MAX },
            Signal::Pong { nonce: 1 << 40, processed: 0 },
            Signal::Receipt { processed: 9 },
        ];
        for signal in signals {
            let message = GatewayMessage { tag: [3; 16], signal };
            let bytes = message.clone().encode();
            assert_eq!(GatewayMessage::decode(bytes.clone()), Ok(message.clone()));
            let data = matches!(message.signal, Signal::Data(_));
            for cut in 0..bytes.len() {
                assert!(GatewayMessage::decode(bytes[..cut].to_vec()).is_err(), "cut at {cut}");
            }
            let mut longer = bytes;
            longer.push(0);
            assert_eq!(GatewayMessage::decode(longer).is_ok(), data);
        }
        let mut unknown = vec![0; HEADER_BYTES + 8];
        unknown[HEADER_BYTES - 1] = 9;
        assert_eq!(GatewayMessage::decode(unknown), Err(WireError::Kind { kind: 9, length: 8 }));
    }
}
