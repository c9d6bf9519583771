//! The bulk lane: large messages over a connection of their own, so that they never delay small ones.
//!
//! A frame is a little-endian u32 length, a kind byte and that many bytes; a compressed one's begin with its original
//! length, a little-endian u32, by which it is bounded and costs credit. The receiver grants credit in bytes and the
//! sender never has more than that unprocessed at the other end; credit comes back when the receiver's [`BulkPermit`]
//! is dropped. A message costs its bytes and 64 more. The queues in front of the lane are bounded by bytes per class; at the
//! bound a message is refused, never silently dropped.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::compress::{self, Metered, PREFIX};
use super::peers::PeerEntry;
use super::quota::Quota;
use super::settings::{Class, ClusterSettings, LinkLimits, SendRefused};
use super::wire::MESSAGE_OVERHEAD;
use crate::buffers::Buffers;
use crate::channel::Channel;

const HEADER_BYTES: usize = 5;
const DATA: u8 = 0;
const CREDIT: u8 = 1;
const COMPRESSED: u8 = 2;
/// More than any peer can mean; keeps sums from overflowing.
const CREDIT_LIMIT: u64 = 1 << 40;
/// Frames are gathered into one write up to here.
const COALESCE: usize = 128 * 1_024;
/// Frames from this size on are written from where they are instead of being gathered.
const LARGE: usize = 32 * 1_024;

fn cost(bytes: usize) -> u64 {
    bytes as u64 + MESSAGE_OVERHEAD
}

/// How a peer broke the rules of the bulk lane, or how the lane ended otherwise.
#[derive(Debug, thiserror::Error)]
enum LaneError {
    #[error("a frame of {0} bytes")]
    Oversized(u32),
    #[error("an empty frame")]
    Empty,
    #[error("a frame of kind {0}")]
    Kind(u8),
    #[error("a frame beyond its credit")]
    OverCredit,
    #[error("impossible credit")]
    Credit,
    #[error("a compressed frame that does not unpack to what it claims")]
    Compressed,
    #[error("a frame was cut short")]
    Truncated,
    #[error("it floods")]
    Flood,
    #[error("closed by the other end")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl LaneError {
    /// The rule that was broken; none for an ordinary end.
    const fn rule(&self) -> Option<&'static str> {
        match self {
            Self::Oversized(_) => Some("oversized"),
            Self::Empty | Self::Kind(_) => Some("frame"),
            Self::OverCredit | Self::Credit => Some("credit"),
            Self::Compressed => Some("compressed"),
            Self::Truncated => Some("truncated"),
            Self::Flood => Some("flood"),
            Self::Closed | Self::Io(_) => None,
        }
    }
}

#[derive(Default)]
struct Queues {
    classes: [VecDeque<Bytes>; 3],
    bytes: [u64; 3],
}

/// One bulk connection with one peer.
pub(crate) struct BulkLane {
    peer: Weak<PeerEntry>,
    limits: LinkLimits,
    batching: bool,
    buffers: Buffers,
    queues: Mutex<Queues>,
    /// Wakes the writer: something to send, credit, or credit to give.
    wake: Notify,
    /// What the peer lets us send.
    credit: AtomicU64,
    /// All that it lets us have unprocessed: its first grant.
    peer_window: AtomicU64,
    /// What the peer may still send by what it was granted.
    allowance: AtomicU64,
    /// Received and not yet processed.
    held: AtomicU64,
    /// Processed and not yet granted again.
    due: AtomicU64,
    closed: AtomicBool,
    reason: Mutex<Option<String>>,
    tasks: Mutex<Option<[AbortHandle; 2]>>,
}

/// Held by whoever processes a bulk message: the sender's credit comes back when it is dropped.
pub struct BulkPermit {
    lane: Arc<BulkLane>,
    cost: u64,
}

impl std::fmt::Debug for BulkPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BulkPermit({})", self.cost)
    }
}

impl Drop for BulkPermit {
    fn drop(&mut self) {
        self.lane.due.fetch_add(self.cost, Ordering::AcqRel);
        self.lane.held.fetch_sub(self.cost, Ordering::AcqRel);
        if self.lane.grants_now() {
            self.lane.wake.notify_one();
        }
    }
}

impl BulkLane {
    /// Starts a lane over a confirmed channel.
    pub(crate) fn start(peer: &Arc<PeerEntry>, channel: Channel, settings: &ClusterSettings) -> Arc<Self> {
        let lane = Arc::new(Self::new(peer, settings.links, settings.network_batching, settings.buffers.clone()));
        let (read, write) = tokio::io::split(channel.stream);
        let (reader, writer) = (Arc::clone(&lane), Arc::clone(&lane));
        let read = tokio::spawn(async move {
            let error = reader.read_all(read).await;
            reader.ended(&error);
        });
        let write = tokio::spawn(async move {
            if let Err(error) = writer.write_all(write).await {
                writer.ended(&error.into());
            }
        });
        lane.adopt([read.abort_handle(), write.abort_handle()]);
        lane
    }

    /// Takes charge of the lane's tasks. One of them may have closed the lane already: then both end here, else the other
    /// would hold the channel open.
    fn adopt(&self, tasks: [AbortHandle; 2]) {
        let mut held = self.tasks.lock();
        if self.closed.load(Ordering::Acquire) {
            tasks.iter().for_each(AbortHandle::abort);
        } else {
            *held = Some(tasks);
        }
    }

    fn new(peer: &Arc<PeerEntry>, limits: LinkLimits, batching: bool, buffers: Buffers) -> Self {
        Self {
            peer: Arc::downgrade(peer),
            limits,
            batching,
            buffers,
            queues: Mutex::default(),
            wake: Notify::new(),
            credit: AtomicU64::new(0),
            peer_window: AtomicU64::new(0),
            allowance: AtomicU64::new(0),
            held: AtomicU64::new(0),
            due: AtomicU64::new(limits.bulk_window),
            closed: AtomicBool::new(false),
            reason: Mutex::new(None),
            tasks: Mutex::new(None),
        }
    }

    /// Ends the lane and what is queued in it. The first reason counts.
    pub(crate) fn close(&self, reason: &str) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        *self.reason.lock() = Some(reason.to_owned());
        if let Some(tasks) = self.tasks.lock().take() {
            tasks.iter().for_each(AbortHandle::abort);
        }
        *self.queues.lock() = Queues::default();
        if let Some(peer) = self.peer.upgrade() {
            peer.poke();
        }
    }

    /// Why it was closed, if it was.
    pub(crate) fn closed(&self) -> Option<String> {
        if self.closed.load(Ordering::Acquire) { self.reason.lock().clone() } else { None }
    }

    fn ended(&self, error: &LaneError) {
        if let (Some(rule), Some(peer)) = (error.rule(), self.peer.upgrade()) {
            peer.charge(rule, &error.to_string());
        }
        self.close(&error.to_string());
    }

    /// Bytes that wait to be sent.
    pub(crate) fn queued(&self) -> u64 {
        self.queues.lock().bytes.iter().sum()
    }

    /// Queues a message or refuses it.
    pub(crate) fn send(&self, peer: &str, bytes: Bytes, class: Class) -> Result<(), SendRefused> {
        let peer_window = match self.peer_window.load(Ordering::Acquire) {
            0 => CREDIT_LIMIT,
            window => window.saturating_sub(MESSAGE_OVERHEAD),
        };
        let limit = peer_window.min(self.limits.bulk_message_bytes as u64);
        if bytes.is_empty() || bytes.len() as u64 > limit {
            return Err(SendRefused::TooLarge { peer: peer.to_owned(), bytes: bytes.len(), limit });
        }
        {
            let mut queues = self.queues.lock();
            if self.closed.load(Ordering::Acquire) {
                return Err(SendRefused::Down(peer.to_owned()));
            }
            let waiting = queues.bytes[class.index()];
            // One message always fits, however small the bound.
            if waiting > 0 && waiting + cost(bytes.len()) > self.limits.bulk_queue_bytes as u64 {
                let labels = [("peer", peer.to_owned()), ("class", class.label().to_owned())];
                metrics::counter!("network_bulk_refused_total", &labels).increment(1);
                return Err(SendRefused::Full { peer: peer.to_owned(), waiting });
            }
            queues.bytes[class.index()] += cost(bytes.len());
            queues.classes[class.index()].push_back(bytes);
        }
        self.wake.notify_one();
        Ok(())
    }

    /// The next message that the credit allows. The first class that has one goes first, and waits for its credit
    /// rather than letting a later class take it.
    fn next(&self) -> Option<Bytes> {
        let mut queues = self.queues.lock();
        for class in Class::ALL {
            let Some(front) = queues.classes[class.index()].front() else { continue };
            let cost = cost(front.len());
            if cost > self.credit.load(Ordering::Acquire) {
                return None;
            }
            self.credit.fetch_sub(cost, Ordering::AcqRel);
            queues.bytes[class.index()] -= cost;
            return queues.classes[class.index()].pop_front();
        }
        None
    }

    /// Credit goes back in eighths of the window, or when nothing is being processed: so the last bit never stays here,
    /// and a stream of small messages does not cause as many grants.
    fn grants_now(&self) -> bool {
        let due = self.due.load(Ordering::Acquire);
        due >= self.limits.bulk_window / 8 || (due > 0 && self.held.load(Ordering::Acquire) == 0)
    }

    async fn write_all(&self, stream: impl AsyncWrite + Unpin) -> io::Result<()> {
        let mut stream = Metered::new(stream);
        let limits = &self.limits;
        let mut quota = Quota::for_sender(limits.bulk_bytes_per_second, limits.bulk_messages_per_second);
        let mut buffer = BytesMut::with_capacity(COALESCE + LARGE);
        loop {
            let due = if self.grants_now() { self.due.swap(0, Ordering::AcqRel) } else { 0 };
            if due > 0 {
                self.allowance.fetch_add(due, Ordering::AcqRel);
                header(&mut buffer, 8, CREDIT);
                buffer.put_u64_le(due);
            }
            let mut written = due > 0;
            while buffer.len() < COALESCE {
                let Some(bytes) = self.next() else { break };
                written = true;
                while let Err(wait) = quota.take(cost(bytes.len())) {
                    // What is gathered does not wait with it.
                    stream.write_all_buf(&mut buffer).await?;
                    stream.flush().await?;
                    tokio::time::sleep(wait).await;
                }
                self.write_one(&mut stream, &mut buffer, &bytes).await?;
                if !self.batching {
                    break;
                }
            }
            if !written {
                self.wake.notified().await;
                continue;
            }
            stream.write_all_buf(&mut buffer).await?;
            stream.flush().await?;
            if !self.buffers.are_pooled() {
                buffer = BytesMut::with_capacity(COALESCE + LARGE);
            }
        }
    }

    async fn write_one(
        &self,
        stream: &mut Metered<impl AsyncWrite + Unpin>,
        buffer: &mut BytesMut,
        bytes: &Bytes,
    ) -> io::Result<()> {
        let compressed = self.compressed(stream, bytes).await;
        let (kind, body) = compressed.as_ref().map_or((DATA, bytes), |body| (COMPRESSED, body));
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        header(buffer, length, kind);
        if body.len() < LARGE {
            buffer.put_slice(body);
        } else {
            stream.write_all_buf(buffer).await?;
            stream.write_all(body).await?;
        }
        if let Some(peer) = self.peer.upgrade() {
            peer.counters.bulk_out.count(bytes.len());
        }
        Ok(())
    }

    /// A message's compressed body, if the link holds back and it shrinks.
    async fn compressed<W>(&self, stream: &mut Metered<W>, bytes: &Bytes) -> Option<Bytes> {
        let waiting = self.queued() + cost(bytes.len());
        if !self.batching || !stream.pace.wants(waiting, bytes.len()) {
            return None;
        }
        let body = compress::compress(bytes.clone()).await;
        stream.pace.tried(body.is_some());
        let (body, peer) = (body?, self.peer.upgrade()?.name.clone());
        metrics::counter!("network_bulk_compressed_total", "peer" => peer.clone()).increment(1);
        metrics::counter!("network_bulk_saved_bytes_total", "peer" => peer)
            .increment((bytes.len() - body.len()) as u64);
        Some(body)
    }

    async fn read_all(self: &Arc<Self>, stream: impl AsyncRead + Unpin) -> LaneError {
        let limits = &self.limits;
        let (bytes, messages) = (limits.bulk_bytes_per_second, limits.bulk_messages_per_second);
        let mut quota = Quota::for_receiver(bytes, messages, limits.bulk_window);
        let mut stream = BufReader::with_capacity(LARGE, stream);
        loop {
            if let Err(error) = self.read_one(&mut stream, &mut quota).await {
                return error;
            }
        }
    }

    async fn read_one(
        self: &Arc<Self>,
        stream: &mut (impl AsyncRead + Unpin),
        quota: &mut Quota,
    ) -> Result<(), LaneError> {
        let mut head = BytesMut::with_capacity(HEADER_BYTES);
        match fill(stream, &mut head, HEADER_BYTES).await {
            Err(LaneError::Truncated) if head.is_empty() => return Err(LaneError::Closed),
            other => other?,
        }
        let length = bytes::Buf::get_u32_le(&mut head);
        let kind = head[0];
        let size = usize::try_from(length).map_err(|_| LaneError::Oversized(length))?;
        if size > self.limits.bulk_message_bytes || (kind == CREDIT && size != 8) {
            return Err(LaneError::Oversized(length));
        }
        match kind {
            CREDIT => {
                let mut grant = BytesMut::with_capacity(8);
                fill(stream, &mut grant, 8).await?;
                self.granted(bytes::Buf::get_u64_le(&mut grant))
            }
            DATA if size == 0 => Err(LaneError::Empty),
            DATA => {
                let (body, permit) = self.body(stream, quota, size, size).await?;
                self.deliver(body, permit);
                Ok(())
            }
            COMPRESSED if size <= PREFIX => Err(LaneError::Compressed),
            COMPRESSED => {
                let original = self.original_length(stream, size).await?;
                let (packed, permit) = self.body(stream, quota, size - PREFIX, original).await?;
                let body = compress::decompress(packed, original, &self.buffers).await.ok_or(LaneError::Compressed)?;
                self.deliver(body, permit);
                Ok(())
            }
            other => Err(LaneError::Kind(other)),
        }
    }

    /// What a compressed frame says it unpacks to: within the bound of messages, and more than it is.
    async fn original_length(&self, stream: &mut (impl AsyncRead + Unpin), size: usize) -> Result<usize, LaneError> {
        let mut prefix = BytesMut::with_capacity(PREFIX);
        fill(stream, &mut prefix, PREFIX).await?;
        let length = bytes::Buf::get_u32_le(&mut prefix);
        match usize::try_from(length) {
            Ok(original) if original > self.limits.bulk_message_bytes => Err(LaneError::Oversized(length)),
            Ok(original) if original > size => Ok(original),
            _ => Err(LaneError::Compressed),
        }
    }

    /// Reads `size` bytes of a message that costs `original`: nothing is reserved for it before it is paid for.
    async fn body(
        self: &Arc<Self>,
        stream: &mut (impl AsyncRead + Unpin),
        quota: &mut Quota,
        size: usize,
        original: usize,
    ) -> Result<(Bytes, BulkPermit), LaneError> {
        let cost = cost(original);
        quota.take(cost).map_err(|_| LaneError::Flood)?;
        self.allowance
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |allowance| allowance.checked_sub(cost))
            .map_err(|_| LaneError::OverCredit)?;
        self.held.fetch_add(cost, Ordering::AcqRel);
        let permit = BulkPermit { lane: Arc::clone(self), cost };
        let mut body = self.buffers.take(size);
        fill(stream, &mut *body, size).await?;
        Ok((body.freeze(), permit))
    }

    fn deliver(&self, body: Bytes, permit: BulkPermit) {
        if let Some(peer) = self.peer.upgrade() {
            peer.counters.bulk_in.count(body.len());
            peer.inbound().bulk(&peer.name, body, permit);
        }
    }

    /// Takes credit. The first grant is the window, and nothing was sent before it; later ones only give back what was
    /// sent, at least one message's worth each, so there are never more of them than messages.
    fn granted(&self, grant: u64) -> Result<(), LaneError> {
        let credit = self.credit.load(Ordering::Acquire);
        let window = match self.peer_window.load(Ordering::Acquire) {
            0 => grant.min(CREDIT_LIMIT),
            window => window,
        };
        if grant <= MESSAGE_OVERHEAD || grant > window - credit.min(window) {
            return Err(LaneError::Credit);
        }
        self.peer_window.store(window, Ordering::Release);
        self.credit.fetch_add(grant, Ordering::AcqRel);
        self.wake.notify_one();
        Ok(())
    }
}

fn header(buffer: &mut BytesMut, length: u32, kind: u8) {
    buffer.put_u32_le(length);
    buffer.put_u8(kind);
}

/// Reads `size` bytes more into `into`. An orderly end before that is the peer's doing; a torn connection is not.
async fn fill(stream: &mut (impl AsyncRead + Unpin), into: &mut impl BufMut, size: usize) -> Result<(), LaneError> {
    let mut missing = size as u64;
    while missing > 0 {
        match stream.take(missing).read_buf(into).await? {
            0 => return Err(LaneError::Truncated),
            read => missing -= read as u64,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
