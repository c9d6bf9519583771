//! Compressed frames of the bulk lane, and when they are worth their work.
//!
//! A fast link gains nothing: frames are compressed only while what waits would take long at the pace at which the link
//! was seen to take bytes, and go as they are unless they shrink.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::buffers::Buffers;

/// The original length in front of the compressed bytes.
pub(super) const PREFIX: usize = 4;
/// Smaller frames are not tried.
const WORTH_FROM: usize = 1_024;
/// The link holds back when what waits would take it longer than this.
const HELD_BACK: Duration = Duration::from_millis(50);
/// After a frame that did not shrink, so many go untried: signatures and hashes never shrink.
const SKIPPED: u32 = 15;

/// What was seen of a link: how long it made its writer wait for how many bytes, the newest weighing most.
#[derive(Debug, Default)]
pub(super) struct Pace {
    blocked: f64,
    bytes: f64,
    skip: u32,
}

impl Pace {
    fn wrote(&mut self, bytes: usize, blocked: Duration) {
        self.blocked = self.blocked.mul_add(0.875, blocked.as_secs_f64());
        self.bytes = self.bytes.mul_add(0.875, bytes as f64);
    }

    /// Whether a frame is to be tried while `waiting` bytes wait, itself among them.
    pub fn wants(&mut self, waiting: u64, frame: usize) -> bool {
        let held_back = waiting as f64 * self.blocked > HELD_BACK.as_secs_f64() * self.bytes;
        if !held_back || frame < WORTH_FROM {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        true
    }

    /// A frame was tried.
    pub const fn tried(&mut self, shrank: bool) {
        self.skip = if shrank { 0 } else { SKIPPED };
    }
}

/// A stream whose waits are measured. Only time in which it took nothing counts, not time in which nobody ran.
pub(super) struct Metered<W> {
    inner: W,
    since: Option<Instant>,
    /// What was seen.
    pub pace: Pace,
}

impl<W> Metered<W> {
    pub fn new(inner: W) -> Self {
        Self { inner, since: None, pace: Pace::default() }
    }

    fn seen(&mut self, bytes: Option<usize>) {
        match bytes {
            None => {
                self.since.get_or_insert_with(Instant::now);
            }
            Some(bytes) => {
                let blocked = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
                if bytes > 0 || !blocked.is_zero() {
                    self.pace.wrote(bytes, blocked);
                }
            }
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Metered<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(cx, bytes);
        match &poll {
            Poll::Pending => self.seen(None),
            Poll::Ready(written) => self.seen(Some(*written.as_ref().unwrap_or(&0))),
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(cx);
        self.seen(poll.is_ready().then_some(0));
        poll
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The body of a compressed frame; none if it would not be smaller by a sixteenth. Works on a blocking thread: a large
/// frame takes milliseconds.
pub(super) async fn compress(frame: Bytes) -> Option<Bytes> {
    let work = move || {
        let length = u32::try_from(frame.len()).ok()?;
        let mut body = BytesMut::zeroed(PREFIX + lz4_flex::block::get_maximum_output_size(frame.len()));
        let packed = lz4_flex::block::compress_into(&frame, &mut body[PREFIX..]).ok()?;
        (&mut body[..PREFIX]).put_u32_le(length);
        body.truncate(PREFIX + packed);
        // A copy: what is queued must not hold the larger buffer.
        (body.len() < frame.len() - frame.len() / 16).then(|| Bytes::copy_from_slice(&body))
    };
    tokio::task::spawn_blocking(work).await.ok().flatten()
}

/// The frame of a compressed body, behind its prefix; none unless it comes to exactly the length that was claimed, and
/// never more memory than that.
pub(super) async fn decompress(packed: Bytes, length: usize, buffers: &Buffers) -> Option<Bytes> {
    let mut frame = buffers.take(length);
    let work = move || {
        frame.resize(length, 0);
        let unpacked = lz4_flex::block::decompress_into(&packed, &mut frame).ok()?;
        (unpacked == length).then(|| frame.freeze())
    };
    tokio::task::spawn_blocking(work).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_survive_and_what_does_not_shrink_stays_as_it_is() {
        let frame = Bytes::from(b"a transfer to somebody; ".repeat(100));
        let body = compress(frame.clone()).await.expect("shrinks");
        assert_eq!(body[..PREFIX], 2_400_u32.to_le_bytes());
        assert_eq!(decompress(body.slice(PREFIX..), 2_400, &Buffers::fresh()).await, Some(frame));
        assert_eq!(compress(Bytes::from((0..=255).collect::<Vec<u8>>())).await, None);
    }

    #[tokio::test]
    async fn the_golden_bytes_of_a_compressed_frame_stand() {
        // One literal 'a', a copy of 14 bytes from one back, five literals.
        let packed = Bytes::from_static(&[0x1a, b'a', 1, 0, 0x50, b'a', b'a', b'a', b'a', b'a']);
        assert_eq!(decompress(packed.clone(), 20, &Buffers::fresh()).await, Some(Bytes::from(vec![b'a'; 20])));
        for claimed in [0, 19, 21, 1 << 20] {
            assert_eq!(decompress(packed.clone(), claimed, &Buffers::fresh()).await, None, "{claimed}");
        }
        assert_eq!(decompress(Bytes::from_static(&[0xff; 40]), 1_000, &Buffers::fresh()).await, None);
    }

    #[test]
    fn only_a_link_that_holds_back_is_worth_the_work() {
        let mut pace = Pace::default();
        assert!(!pace.wants(1 << 30, 100_000), "nothing is known of it yet");
        pace.wrote(100_000, Duration::ZERO);
        assert!(!pace.wants(1 << 30, 100_000), "it never made anybody wait");
        // 1 MB/s.
        (0..50).for_each(|_| pace.wrote(10_000, Duration::from_millis(10)));
        assert!(!pace.wants(30_000, 30_000), "little waits");
        assert!(!pace.wants(200_000, 500), "a small frame");
        assert!(pace.wants(200_000, 20_000));
        pace.tried(false);
        assert!((0..SKIPPED).all(|_| !pace.wants(200_000, 20_000)));
        assert!(pace.wants(200_000, 20_000));
        (0..100).for_each(|_| pace.wrote(100_000, Duration::ZERO));
        assert!(!pace.wants(200_000, 20_000), "it is fast again");
    }
}
