//! A strict reading of the cluster library's frames, for the guard in front of every session.
//!
//! The library's own decoder merges repeated fields (the last wins) and skips unknown ones, so a lax check of the first
//! copy could be talked past with a second. Here each message has exactly the fields that it may have, each at most
//! once. The library's protocol types are private and its version is pinned, hence the reading by hand.

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("malformed protobuf")]
    Malformed,
    #[error("field {0} where it may not be")]
    Unexpected(u64),
    #[error("{0} is missing")]
    Missing(&'static str),
}

/// A frame of the session protocol, as far as the guard wants to know it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// An authentication message: its variant, and the node name if it carries one.
    Auth { variant: u64, name: Option<&'a [u8]> },
    /// A cast to the actor with this pid.
    Cast { to: u64, what: &'a [u8] },
    /// Housekeeping of the library; the number of actors that it announces.
    Control { announced: u64 },
}

/// Variant of an authentication message: the dialler's name.
pub(crate) const AUTH_NAME: u64 = 1;
/// The acceptor's status.
pub(crate) const AUTH_STATUS: u64 = 2;
/// The acceptor's name and challenge.
pub(crate) const AUTH_CHALLENGE: u64 = 4;
/// The dialler's answer and challenge.
pub(crate) const AUTH_REPLY: u64 = 5;
/// The acceptor's answer.
pub(crate) const AUTH_ACK: u64 = 6;

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, FrameError> {
        let mut value = 0_u64;
        for index in 0..10 {
            let (&byte, rest) = self.0.split_first().ok_or(FrameError::Malformed)?;
            self.0 = rest;
            // The tenth byte holds the last bit; anything more would be cut off silently.
            if index == 9 && byte > 1 {
                return Err(FrameError::Malformed);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(FrameError::Malformed)
    }

    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, FrameError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| FrameError::Malformed)?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(FrameError::Malformed)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            _ => return Err(FrameError::Malformed),
        };
        Ok(Some((key >> 3, value)))
    }
}

/// The one field of a oneof wrapper.
fn only(bytes: &[u8]) -> Result<(u64, &[u8]), FrameError> {
    let mut fields = Fields(bytes);
    match (fields.next()?, fields.next()?) {
        (Some((field, Value::Bytes(inner))), None) => Ok((field, inner)),
        (Some(_), None) => Err(FrameError::Malformed),
        (_, Some((field, _))) => Err(FrameError::Unexpected(field)),
        (None, None) => Err(FrameError::Missing("the message")),
    }
}

/// Reads the fields of a message, each at most once and only up to `highest`.
fn at_most_once<'a>(
    bytes: &'a [u8],
    highest: u64,
    mut take: impl FnMut(u64, Value<'a>) -> Result<(), FrameError>,
) -> Result<(), FrameError> {
    let (mut fields, mut seen) = (Fields(bytes), 0_u64);
    while let Some((field, value)) = fields.next()? {
        if field == 0 || field > highest || seen & (1 << field) != 0 {
            return Err(FrameError::Unexpected(field));
        }
        seen |= 1 << field;
        take(field, value)?;
    }
    Ok(())
}

impl<'a> Frame<'a> {
    /// Reads one frame without its length.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, FrameError> {
        match only(bytes)? {
            (1, auth) => Self::auth(auth),
            (2, node) => Self::node(node),
            (3, control) => Self::control(control),
            (field, _) => Err(FrameError::Unexpected(field)),
        }
    }

    fn auth(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let (variant, inner) = only(bytes)?;
        let mut name = None;
        // Fields of all variants: at most name, flags, connection string or challenge, connection id.
        at_most_once(inner, 4, |field, value| {
            if let (1, Value::Bytes(bytes)) = (field, value) {
                name = Some(bytes);
            }
            Ok(())
        })?;
        let named = matches!(variant, AUTH_NAME | AUTH_CHALLENGE);
        Ok(Self::Auth { variant, name: if named { name } else { None } })
    }

    fn node(bytes: &'a [u8]) -> Result<Self, FrameError> {
        // Casts only: a call would make this node keep state for an answer.
        let cast = match only(bytes)? {
            (1, cast) => cast,
            (field, _) => return Err(FrameError::Unexpected(field)),
        };
        let (mut to, mut what) = (0, None);
        at_most_once(cast, 3, |field, value| {
            match (field, value) {
                (1, Value::Number(pid)) => to = pid,
                (2, Value::Bytes(bytes)) => what = Some(bytes),
                (3, Value::Bytes([])) => {}
                (field, _) => return Err(FrameError::Unexpected(field)),
            }
            Ok(())
        })?;
        Ok(Self::Cast { to, what: what.ok_or(FrameError::Missing("the payload"))? })
    }

    fn control(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let (kind, inner) = only(bytes)?;
        match kind {
            // Actors announced or withdrawn: each costs the receiver work.
            1 | 2 => {
                let (mut fields, mut announced) = (Fields(inner), 0);
                while let Some((field, value)) = fields.next()? {
                    match (field, value) {
                        (1, Value::Bytes(bytes)) => {
                            // Withdrawn pids come packed, at least a byte each.
                            announced += if kind == 1 { 1 } else { bytes.len() as u64 };
                        }
                        (1, Value::Number(_)) if kind == 2 => announced += 1,
                        (field, _) => return Err(FrameError::Unexpected(field)),
                    }
                }
                Ok(Self::Control { announced })
            }
            // Ping, pong, ready. Process groups and lists of other nodes are not spoken here.
            3 | 4 | 9 => Ok(Self::Control { announced: 1 }),
            other => Err(FrameError::Unexpected(other)),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A length-delimited field.
    pub(crate) fn field(number: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = body.len();
        while length >= 0x80 {
            out.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
            length >>= 7;
        }
        out.push(u8::try_from(length).expect("below 128"));
        out.extend_from_slice(body);
        out
    }

    pub(crate) fn name_frame(variant: u8, name: &str) -> Vec<u8> {
        let mut inner = field(1, name.as_bytes());
        inner.extend(field(2, &[8, 1]));
        field(1, &field(variant, &inner))
    }

    #[test]
    fn a_name_is_found_in_both_variants() {
        for variant in [1, 4] {
            let frame = name_frame(variant, "a@a");
            let read = Frame::read(&frame).expect("reads");
            assert_eq!(read, Frame::Auth { variant: variant.into(), name: Some(b"a@a") });
        }
    }

    #[test]
    fn second_copies_at_any_level_are_refused() {
        let name = field(1, b"a@a");
        let twice_name = [name.clone(), field(1, b"b@b")].concat();
        assert_eq!(Frame::read(&field(1, &field(1, &twice_name))), Err(FrameError::Unexpected(1)));
        let twice_variant = [field(1, &name), field(1, &name)].concat();
        assert_eq!(Frame::read(&field(1, &twice_variant)), Err(FrameError::Unexpected(1)));
        let auth = field(1, &field(1, &name));
        assert_eq!(Frame::read(&[auth.clone(), auth].concat()), Err(FrameError::Unexpected(1)));
        let cast = [field(2, b"what"), field(2, b"other")].concat();
        assert_eq!(Frame::read(&field(2, &field(1, &cast))), Err(FrameError::Unexpected(2)));
    }

    #[test]
    fn calls_groups_and_session_lists_are_refused() {
        assert_eq!(Frame::read(&field(2, &field(2, b""))), Err(FrameError::Unexpected(2)));
        for kind in [5, 6, 7, 8] {
            assert_eq!(Frame::read(&field(3, &field(kind, b""))), Err(FrameError::Unexpected(kind.into())));
        }
        assert_eq!(Frame::read(&field(3, &field(9, b""))), Ok(Frame::Control { announced: 1 }));
        let three = [field(1, b""), field(1, b""), field(1, b"")].concat();
        assert_eq!(Frame::read(&field(3, &field(1, &three))), Ok(Frame::Control { announced: 3 }));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_overlong_numbers_are_refused() {
        assert_eq!(Frame::read(&[0xff; 16]), Err(FrameError::Malformed));
        assert_eq!(
            Frame::read(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            Err(FrameError::Malformed)
        );
        let good = name_frame(1, "node@node");
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut frame = good.clone();
                frame[at] ^= 1 << bit;
                let _ = Frame::read(&frame);
                let _ = Frame::read(&frame[..at]);
            }
        }
    }
}
