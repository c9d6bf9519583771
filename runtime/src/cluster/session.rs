//! One control session: a channel inside the actor cluster, from hand-over to its end.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use ractor::ActorRef;
use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream, NodeSessionMessage};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::guard::Guard;
use super::peers::PeerEntry;
use super::quota::Quota;
use super::settings::{LinkLimits, SendRefused};
use super::wire::{GatewayMessage, MESSAGE_OVERHEAD, Signal};
use crate::channel::{Channel, SessionTag};

/// Pings on the way at once; older ones are forgotten.
const PINGS_REMEMBERED: usize = 16;
/// Answers to pings are at least so far apart, so that pings cannot be used to fill our own queue.
const PONG_SPACING: Duration = Duration::from_millis(10);

/// A control session with one peer. Shared by the guard (reads), the gateway (handles), the senders and the peer actor.
pub(crate) struct Session {
    pub(crate) peer: Weak<PeerEntry>,
    pub(crate) tag: SessionTag,
    pub(crate) began: Instant,
    pub(crate) limits: LinkLimits,
    /// The library's actor, known once it has opened the session.
    pub(crate) actor: OnceLock<ActorRef<NodeSessionMessage>>,
    /// The library has finished its handshake.
    pub(crate) ready: AtomicBool,
    /// The library has forgotten the session.
    pub(crate) gone: AtomicBool,
    gateway: OnceLock<ActorRef<GatewayMessage>>,
    closed: Mutex<Option<(Instant, String)>>,
    is_closed: AtomicBool,
    waker: AtomicWaker,
    write_waker: AtomicWaker,
    /// Weight of what the guard has let through and the gateway has not yet handled.
    inside: AtomicU64,
    /// Weight of all that the gateway has handled, and how much of it the peer was told.
    processed: AtomicU64,
    receipted: AtomicU64,
    out: Mutex<Outbound>,
}

struct Outbound {
    sent: u64,
    acknowledged: u64,
    quota: Quota,
    pings: VecDeque<(u64, Instant)>,
    last_answer: Instant,
    last_pong: Option<Instant>,
}

fn weight(bytes: usize) -> u64 {
    bytes as u64 + MESSAGE_OVERHEAD
}

impl Session {
    pub(crate) fn new(peer: &Arc<PeerEntry>, tag: SessionTag, limits: LinkLimits) -> Arc<Self> {
        let quota = Quota::for_sender(limits.control_bytes_per_second, limits.control_messages_per_second);
        let began = Instant::now();
        Arc::new(Self {
            peer: Arc::downgrade(peer),
            tag,
            began,
            limits,
            actor: OnceLock::new(),
            ready: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            gateway: OnceLock::new(),
            closed: Mutex::new(None),
            is_closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            write_waker: AtomicWaker::new(),
            inside: AtomicU64::new(0),
            processed: AtomicU64::new(0),
            receipted: AtomicU64::new(0),
            out: Mutex::new(Outbound {
                sent: 0,
                acknowledged: 0,
                quota,
                pings: VecDeque::new(),
                last_answer: began,
                last_pong: None,
            }),
        })
    }

    /// What the library shows in its events, from which the session is found again.
    pub(crate) fn label(&self) -> String {
        hex::encode(self.tag)
    }

    /// Ends the session: the halves of its stream fail, and the library's actor is told. The first reason counts.
    pub(crate) fn close(&self, reason: &str) {
        {
            let mut closed = self.closed.lock();
            if closed.is_some() {
                return;
            }
            *closed = Some((Instant::now(), reason.to_owned()));
        }
        self.is_closed.store(true, Ordering::Release);
        self.waker.wake();
        self.write_waker.wake();
        if let Some(actor) = self.actor.get() {
            actor.stop(Some(reason.to_owned()));
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Why it was closed, and how long ago.
    pub(crate) fn closed(&self) -> Option<(Duration, String)> {
        self.closed.lock().as_ref().map(|(at, reason)| (at.elapsed(), reason.clone()))
    }

    pub(crate) fn register_waker(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// Learns the remote gateway. False if it was known.
    pub(crate) fn set_gateway(&self, gateway: ActorRef<GatewayMessage>) -> bool {
        self.gateway.set(gateway).is_ok()
    }

    pub(crate) fn has_gateway(&self) -> bool {
        self.gateway.get().is_some()
    }

    /// May the guard let one more message through? Otherwise it stops reading until the gateway has caught up.
    pub(crate) fn has_room(&self) -> bool {
        self.inside.load(Ordering::Acquire) < self.limits.control_window
    }

    pub(crate) fn entered(&self, bytes: usize) {
        self.inside.fetch_add(weight(bytes), Ordering::AcqRel);
    }

    fn left(&self, bytes: usize) {
        self.inside.fetch_sub(weight(bytes), Ordering::AcqRel);
        self.waker.wake();
    }

    /// After a data message of so many bytes was handled: frees its room and tells the peer, now and then.
    pub(crate) fn handled(&self, bytes: usize) {
        self.left(bytes);
        let processed = self.processed.fetch_add(weight(bytes), Ordering::AcqRel) + weight(bytes);
        if processed - self.receipted.load(Ordering::Acquire) >= self.limits.control_window / 8 {
            self.receipted.store(processed, Ordering::Release);
            self.cast(Signal::Receipt { processed });
        }
    }

    fn processed(&self) -> u64 {
        let processed = self.processed.load(Ordering::Acquire);
        self.receipted.store(processed, Ordering::Release);
        processed
    }

    fn cast(&self, signal: Signal) -> bool {
        let Some(gateway) = self.gateway.get() else { return false };
        gateway.cast(GatewayMessage { tag: self.tag, signal }).is_ok()
    }

    /// Sends data within the peer's window and quota.
    pub(crate) fn send(&self, peer: &str, bytes: Bytes) -> Result<(), SendRefused> {
        let cost = weight(bytes.len());
        {
            let mut out = self.out.lock();
            let waiting = out.sent - out.acknowledged;
            if waiting + cost > self.limits.control_window || out.quota.take(cost).is_err() {
                return Err(SendRefused::Full { peer: peer.to_owned(), waiting });
            }
            out.sent += cost;
        }
        if self.cast(Signal::Data(bytes)) { Ok(()) } else { Err(SendRefused::Down(peer.to_owned())) }
    }

    /// Weight sent and not yet known to be processed.
    pub(crate) fn waiting(&self) -> u64 {
        let out = self.out.lock();
        out.sent - out.acknowledged
    }

    /// Probes the peer. The nonce is random, so that only who reads can answer.
    pub(crate) fn ping(&self, nonce: u64) {
        let processed = self.processed();
        {
            let mut out = self.out.lock();
            if out.pings.len() == PINGS_REMEMBERED {
                out.pings.pop_front();
            }
            out.pings.push_back((nonce, Instant::now()));
        }
        self.cast(Signal::Ping { nonce, processed });
    }

    /// Answers a probe.
    pub(crate) fn pinged(&self, nonce: u64, processed: u64) -> Result<(), &'static str> {
        self.acknowledge(processed)?;
        {
            let mut out = self.out.lock();
            if out.last_pong.is_some_and(|last| last.elapsed() < PONG_SPACING) {
                return Ok(());
            }
            out.last_pong = Some(Instant::now());
        }
        let processed = self.processed();
        self.cast(Signal::Pong { nonce, processed });
        Ok(())
    }

    /// Takes the answer to a probe; the round trip if the probe was ours.
    pub(crate) fn ponged(&self, nonce: u64, processed: u64) -> Result<Option<Duration>, &'static str> {
        self.acknowledge(processed)?;
        let mut out = self.out.lock();
        let Some(at) = out.pings.iter().position(|(sent, _)| *sent == nonce) else { return Ok(None) };
        let sent = out.pings.drain(..=at).next_back().map(|(_, sent)| sent);
        out.last_answer = Instant::now();
        Ok(sent.map(|sent| sent.elapsed()))
    }

    /// Takes a receipt. A peer cannot have processed more than it was sent.
    pub(crate) fn acknowledge(&self, processed: u64) -> Result<(), &'static str> {
        let mut out = self.out.lock();
        if processed > out.sent {
            return Err("receipt");
        }
        out.acknowledged = out.acknowledged.max(processed);
        Ok(())
    }

    /// How long the peer has not answered.
    pub(crate) fn silence(&self) -> Duration {
        self.out.lock().last_answer.elapsed()
    }
}

/// A channel on its way into the actor cluster.
pub(crate) struct Handover {
    pub(crate) channel: Channel,
    pub(crate) session: Arc<Session>,
    pub(crate) accepted: bool,
    pub(crate) gateway_pid: u64,
}

impl ClusterBidiStream for Handover {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let Self { channel, session, accepted, gateway_pid } = *self;
        let peer = channel.peer;
        let (read, write) = tokio::io::split(channel.stream);
        let guard = Guard::new(read, Arc::clone(&session), &peer, accepted, gateway_pid);
        (Box::new(guard), Box::new(WriteHalf { inner: write, session }))
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.session.label())
    }
}

/// The writing half. The library's writing task outlives its session while a write does not end, so a peer that reads
/// nothing could make it pile up connections: closing the session ends the write.
struct WriteHalf<W> {
    inner: W,
    session: Arc<Session>,
}

impl<W: AsyncWrite + Unpin> WriteHalf<W> {
    fn open(&mut self, cx: &Context<'_>) -> io::Result<Pin<&mut W>> {
        self.session.write_waker.register(cx.waker());
        if self.session.is_closed() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(Pin::new(&mut self.inner))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for WriteHalf<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.open(cx)?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open(cx)?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn session() -> (Arc<PeerEntry>, Arc<Session>) {
        let peer = PeerEntry::for_test("b");
        let session = Session::new(&peer, [7; 16], LinkLimits::default());
        (peer, session)
    }

    #[tokio::test]
    async fn closing_a_session_ends_a_write_that_nobody_reads() {
        let (_peer, session) = session();
        let (near, _far) = tokio::io::duplex(10);
        let mut half = WriteHalf { inner: near, session: Arc::clone(&session) };
        let writing = tokio::spawn(async move { half.write_all(&[1; 100]).await });
        // The writer has filled the pipe and waits.
        tokio::task::yield_now().await;
        assert!(!writing.is_finished());
        session.close("enough");
        let end = tokio::time::timeout(Duration::from_secs(10), writing).await.expect("it ends").expect("no panic");
        assert_eq!(end.expect_err("closed").kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(session.closed().expect("closed").1, "enough");
    }

    #[tokio::test]
    async fn receipts_count_up_to_what_was_sent_and_strange_pongs_prove_nothing() {
        let (_peer, session) = session();
        assert_eq!(session.acknowledge(1), Err("receipt"));
        // Without a gateway a message is weighed and then refused.
        assert!(session.send("b", Bytes::from_static(b"0123456789")).is_err());
        assert_eq!(session.waiting(), 74);
        assert_eq!(session.acknowledge(74), Ok(()));
        assert_eq!(session.acknowledge(10), Ok(()), "an old receipt changes nothing");
        assert_eq!(session.waiting(), 0);
        session.ping(5);
        session.ping(6);
        assert_eq!(session.ponged(7, 0), Ok(None));
        assert!(session.ponged(6, 0).expect("ours").is_some());
        assert_eq!(session.ponged(5, 0), Ok(None), "answered out of turn: forgotten with the later one");
    }
}
