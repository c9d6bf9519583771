//! The guard in front of every session of the actor cluster: nothing of a peer reaches the library unread.
//!
//! The library elects one session per *claimed* node name, so an allow-listed peer that claims another's name could end
//! that other's session; it bounds none of its queues; and it hands messages over without their sender. All three are
//! closed here, where the peer is known by its key: the name must be the peer's own, frames are bounded and metered,
//! only the handshake and casts to this node's gateway under this session's tag pass, and reading stops while the
//! gateway is behind. Whoever breaks a rule loses the session and is charged.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use super::frames::{AUTH_ACK, AUTH_CHALLENGE, AUTH_NAME, AUTH_REPLY, AUTH_STATUS, Frame, FrameError};
use super::quota::{Bucket, Quota};
use super::session::Session;
use super::wire::{self, HEADER_BYTES, WireError};

const LENGTH_BYTES: usize = 8;
/// Largest frame before the handshake is over.
const HANDSHAKE_FRAME: usize = 1_024;
/// What the library puts around a message.
pub(crate) const FRAME_OVERHEAD: usize = HEADER_BYTES + 256;
/// Bytes read at once: one TLS record.
const CHUNK: usize = 16 * 1_024;
/// Housekeeping of the library that a peer may cause in a second; more than any honest one does.
const HOUSEKEEPING_PER_SECOND: u64 = 1_024;

/// How a peer broke the rules of the control lane.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Violation {
    #[error("it calls itself {0:?}")]
    Name(String),
    #[error("authentication message {variant} where {expected:?} was due")]
    Order { variant: u64, expected: Option<u64> },
    #[error("a message before the handshake was over")]
    Early,
    #[error("a frame: {0}")]
    Frame(#[from] FrameError),
    #[error("a gateway message: {0}")]
    Gateway(#[from] WireError),
    #[error("a gateway message with a foreign tag")]
    Tag,
    #[error("a frame of {0} bytes")]
    Oversized(u64),
    #[error("a frame was cut short")]
    Truncated,
    #[error("it floods")]
    Flood,
}

impl Violation {
    const fn label(&self) -> &'static str {
        match self {
            Self::Name(_) => "name",
            Self::Order { .. } | Self::Early => "handshake",
            Self::Frame(_) => "frame",
            Self::Gateway(_) => "undecodable",
            Self::Tag => "tag",
            Self::Oversized(_) => "oversized",
            Self::Truncated => "truncated",
            Self::Flood => "flood",
        }
    }
}

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    Skip,
}

/// Reads frames, checks them, and delivers them bit by bit as they were.
pub(crate) struct Guard<R> {
    inner: R,
    session: Arc<Session>,
    checks: Checks,
    buffer: BytesMut,
    /// Bytes at the front of the buffer that were checked.
    cleared: usize,
}

struct Checks {
    name: Vec<u8>,
    expected: &'static [u64],
    step: usize,
    tag: [u8; 16],
    gateway_pid: u64,
    frame_limit: usize,
    quota: Quota,
    housekeeping: Bucket,
}

impl<R> Guard<R> {
    pub(crate) fn new(inner: R, session: Arc<Session>, peer: &str, accepted: bool, gateway_pid: u64) -> Self {
        let limits = &session.limits;
        let checks = Checks {
            name: super::full_name(peer).into_bytes(),
            expected: if accepted { &[AUTH_NAME, AUTH_REPLY] } else { &[AUTH_STATUS, AUTH_CHALLENGE, AUTH_ACK] },
            step: 0,
            tag: session.tag,
            gateway_pid,
            frame_limit: limits.control_message_bytes + FRAME_OVERHEAD,
            quota: Quota::for_receiver(
                limits.control_bytes_per_second,
                limits.control_messages_per_second,
                limits.control_window,
            ),
            housekeeping: Bucket::new(HOUSEKEEPING_PER_SECOND),
        };
        Self { inner, session, checks, buffer: BytesMut::new(), cleared: 0 }
    }

    /// Checks the next whole frame in the buffer. False if there is none yet.
    fn clear_next(&mut self) -> Result<bool, Violation> {
        while let Some(header) = self.buffer.first_chunk::<LENGTH_BYTES>() {
            let length = u64::from_be_bytes(*header);
            let limit = if self.checks.is_open() { self.checks.frame_limit } else { HANDSHAKE_FRAME };
            let length =
                usize::try_from(length).ok().filter(|length| *length <= limit).ok_or(Violation::Oversized(length))?;
            let Some(frame) = self.buffer.get(LENGTH_BYTES..LENGTH_BYTES + length) else { return Ok(false) };
            let (verdict, data) = self.checks.check(frame)?;
            if verdict == Verdict::Pass {
                if let Some(bytes) = data {
                    self.session.entered(bytes);
                }
                self.cleared = LENGTH_BYTES + length;
                return Ok(true);
            }
            self.buffer.advance(LENGTH_BYTES + length);
        }
        Ok(false)
    }

    fn refuse(&self, violation: &Violation) -> std::io::Error {
        if let Some(peer) = self.session.peer.upgrade() {
            peer.charge(violation.label(), &violation.to_string());
        }
        self.session.close(&violation.to_string());
        std::io::Error::new(std::io::ErrorKind::InvalidData, violation.to_string())
    }
}

impl Checks {
    fn is_open(&self) -> bool {
        self.step == self.expected.len()
    }

    /// Checks a frame; with the size of the data that it carries to the gateway.
    fn check(&mut self, frame: &[u8]) -> Result<(Verdict, Option<usize>), Violation> {
        self.quota.take(frame.len() as u64).map_err(|_| Violation::Flood)?;
        match Frame::read(frame)? {
            Frame::Auth { variant, name } => self.handshake(variant, name).map(|()| (Verdict::Pass, None)),
            _ if !self.is_open() => Err(Violation::Early),
            Frame::Control { announced } => {
                self.housekeeping.take(announced).map_err(|_| Violation::Flood)?;
                Ok((Verdict::Pass, None))
            }
            Frame::Cast { to, what } => {
                let (tag, data) = wire::inspect(what)?;
                if tag != self.tag {
                    return Err(Violation::Tag);
                }
                // Another actor than the gateway, or a gateway that is gone: the library would look for it.
                let verdict = if to == self.gateway_pid { Verdict::Pass } else { Verdict::Skip };
                Ok((verdict, data.then(|| what.len() - HEADER_BYTES)))
            }
        }
    }

    fn handshake(&mut self, variant: u64, name: Option<&[u8]>) -> Result<(), Violation> {
        let expected = self.expected.get(self.step).copied();
        if expected != Some(variant) {
            return Err(Violation::Order { variant, expected });
        }
        if matches!(variant, AUTH_NAME | AUTH_CHALLENGE) && name != Some(self.name.as_slice()) {
            return Err(Violation::Name(String::from_utf8_lossy(name.unwrap_or_default()).into_owned()));
        }
        self.step += 1;
        Ok(())
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Guard<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        loop {
            this.session.register_waker(cx.waker());
            if this.session.is_closed() {
                return Poll::Ready(Err(std::io::ErrorKind::ConnectionAborted.into()));
            }
            if this.cleared > 0 {
                let count = this.cleared.min(out.remaining());
                out.put_slice(&this.buffer[..count]);
                this.buffer.advance(count);
                this.cleared -= count;
                return Poll::Ready(Ok(()));
            }
            if !this.session.has_room() {
                return Poll::Pending;
            }
            match this.clear_next() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(violation) => return Poll::Ready(Err(this.refuse(&violation))),
            }
            let mut chunk = [std::mem::MaybeUninit::<u8>::uninit(); CHUNK];
            let mut chunk = ReadBuf::uninit(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                // An orderly end in the middle of a frame is the peer's doing; a torn connection comes as an error.
                return Poll::Ready(if this.buffer.is_empty() {
                    Ok(())
                } else {
                    Err(this.refuse(&Violation::Truncated))
                });
            }
            this.buffer.extend_from_slice(chunk.filled());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::frames::tests::{field, name_frame};
    use super::super::peers::PeerEntry;
    use super::super::settings::LinkLimits;
    use super::*;

    const PID: u64 = 5;

    fn framed(body: &[u8]) -> Vec<u8> {
        [(body.len() as u64).to_be_bytes().as_slice(), body].concat()
    }

    fn cast(to: u8, tag: [u8; 16], body: &[u8]) -> Vec<u8> {
        let what = [tag.as_slice(), &[0], body].concat();
        framed(&field(2, &field(1, &[vec![8, to], field(2, &what)].concat())))
    }

    /// What comes out if `input` goes in, in pieces of `piece` bytes, and how it ends.
    async fn through(input: &[u8], piece: usize, accepted: bool) -> (Vec<u8>, std::io::Result<usize>) {
        let peer = PeerEntry::for_test("b");
        let session = Session::new(&peer, [7; 16], LinkLimits::default());
        let (mut near, far) = tokio::io::duplex(piece);
        let mut guard = Guard::new(far, session, "b", accepted, PID);
        let feed = async {
            // Refused input is not read to its end.
            let _ = near.write_all(input).await;
            drop(near);
        };
        let mut out = Vec::new();
        let read = async {
            let end = guard.read_to_end(&mut out).await;
            drop(guard);
            end
        };
        let ((), end) = tokio::join!(feed, read);
        (out, end)
    }

    fn accepting() -> Vec<u8> {
        [framed(&name_frame(1, "b@b")), framed(&field(1, &field(5, &field(2, &[1; 32]))))].concat()
    }

    fn dialling() -> Vec<u8> {
        let status = framed(&field(1, &field(2, &[8, 0])));
        let ack = framed(&field(1, &field(6, &field(1, &[1; 32]))));
        [status, framed(&name_frame(4, "b@b")), ack].concat()
    }

    #[tokio::test]
    async fn a_good_session_passes_bit_by_bit_at_both_ends() {
        let rest = [framed(&field(3, &field(9, &[]))), cast(5, [7; 16], b"hello")].concat();
        for (handshake, accepted) in [(accepting(), true), (dialling(), false)] {
            let input = [handshake, rest.clone()].concat();
            for piece in [1, 7, 4_096] {
                let (out, end) = through(&input, piece, accepted).await;
                assert_eq!(out, input);
                assert_eq!(end.expect("an orderly end"), input.len());
            }
        }
    }

    #[tokio::test]
    async fn nothing_of_a_refused_name_reaches_the_library() {
        for (input, accepted) in [
            (framed(&name_frame(1, "a@a")), true),
            (framed(&name_frame(4, "a@a")), false),
            ([framed(&field(1, &field(2, &[8, 0]))), framed(&name_frame(4, "c@c"))].concat(), false),
        ] {
            let (out, end) = through(&input, 1, accepted).await;
            assert_eq!(end.expect_err("refused").kind(), std::io::ErrorKind::InvalidData);
            assert!(out.len() < 20, "at most the status before it: {out:?}");
        }
    }

    #[tokio::test]
    async fn casts_to_other_actors_are_left_out_and_foreign_tags_end_the_session() {
        let (good, astray) = (cast(5, [7; 16], b"one"), cast(6, [7; 16], b"two"));
        let input = [accepting(), astray, good.clone()].concat();
        let (out, end) = through(&input, 4_096, true).await;
        assert!(end.is_ok());
        assert_eq!(out, [accepting(), good].concat());
        let input = [accepting(), cast(5, [8; 16], b"three")].concat();
        let (out, end) = through(&input, 4_096, true).await;
        assert_eq!(end.expect_err("refused").kind(), std::io::ErrorKind::InvalidData);
        assert_eq!(out, accepting());
    }
}
