//! Which frames a lane writes over a fast and a slow link, and that every lane reads them.

use std::time::Duration;

use tokio::io::DuplexStream;

use super::*;

const FRAMES: usize = 60;

fn lane(batching: bool) -> (Arc<PeerEntry>, Arc<BulkLane>) {
    let peer = PeerEntry::for_test("b");
    let lane = Arc::new(BulkLane::new(&peer, LinkLimits::default(), batching, Buffers::pooled(1 << 20)));
    (peer, lane)
}

/// Frames of a kind that shrink.
fn frame(at: usize) -> Bytes {
    Bytes::from(format!("frame {at} of many; ").repeat(3_000))
}

/// What a lane writes into `link` while it is read in `pieces` with a pause before each: every frame's kind and content.
async fn written(batching: bool, link: usize, piece: usize, pause: Duration) -> Vec<(u8, Bytes)> {
    let (_peer, lane) = lane(batching);
    lane.granted(64 << 20).expect("a first grant");
    for at in 0..FRAMES {
        lane.send("b", frame(at), Class::Body).expect("room");
    }
    let (near, mut far) = tokio::io::duplex(link);
    let writer = Arc::clone(&lane);
    let writing = tokio::spawn(async move { writer.write_all(near).await });
    let (mut bytes, mut frames) = (BytesMut::new(), Vec::new());
    while frames.len() < FRAMES {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        read_some(&mut far, &mut bytes, piece).await;
        while let Some((kind, body)) = cut(&mut bytes) {
            match kind {
                DATA => frames.push((kind, body)),
                COMPRESSED => {
                    let length = u32::from_le_bytes(body[..PREFIX].try_into().expect("four")) as usize;
                    frames.push((
                        kind,
                        compress::decompress(body.slice(PREFIX..), length, &Buffers::fresh()).await.expect("unpacks"),
                    ));
                }
                _ => assert_eq!(kind, CREDIT),
            }
        }
    }
    writing.abort();
    frames
}

async fn read_some(far: &mut DuplexStream, into: &mut BytesMut, most: usize) {
    assert!(far.take(most as u64).read_buf(into).await.expect("open") > 0);
}

fn cut(bytes: &mut BytesMut) -> Option<(u8, Bytes)> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    if bytes.len() < HEADER_BYTES + length {
        return None;
    }
    let mut frame = bytes.split_to(HEADER_BYTES + length).freeze();
    let kind = frame[4];
    bytes::Buf::advance(&mut frame, HEADER_BYTES);
    Some((kind, frame))
}

fn compressed(frames: &[(u8, Bytes)]) -> usize {
    assert!(frames.iter().enumerate().all(|(at, (_, body))| *body == frame(at)), "all arrive in order");
    frames.iter().filter(|(kind, _)| *kind == COMPRESSED).count()
}

#[tokio::test(start_paused = true)]
async fn a_slow_link_makes_frames_compressed() {
    let frames = written(true, 64 << 10, 8 << 10, Duration::from_millis(10)).await;
    assert!(compressed(&frames) > FRAMES / 2, "{}", compressed(&frames));
}

#[tokio::test(start_paused = true)]
async fn a_fast_link_compresses_nothing() {
    let frames = written(true, 16 << 20, 1 << 20, Duration::ZERO).await;
    assert_eq!(compressed(&frames), 0);
}

#[tokio::test(start_paused = true)]
async fn without_batching_nothing_is_compressed_however_slow_the_link() {
    let frames = written(false, 64 << 10, 8 << 10, Duration::from_millis(10)).await;
    assert_eq!(compressed(&frames), 0);
}

/// What a lane makes of one frame that a peer sends.
async fn received(batching: bool, kind: u8, body: &[u8]) -> (Result<(), LaneError>, u64) {
    let (peer, lane) = lane(batching);
    lane.allowance.store(1 << 20, Ordering::Release);
    let limits = lane.limits;
    let mut quota =
        Quota::for_receiver(limits.bulk_bytes_per_second, limits.bulk_messages_per_second, limits.bulk_window);
    let mut sent = BytesMut::new();
    header(&mut sent, u32::try_from(body.len()).expect("short"), kind);
    sent.put_slice(body);
    let result = lane.read_one(&mut &sent[..], &mut quota).await;
    drop(peer);
    (result, (1 << 20) - lane.allowance.load(Ordering::Acquire))
}

#[tokio::test]
async fn a_compressed_frame_is_read_whatever_the_toggle_says_and_costs_its_original_length() {
    let body = compress::compress(frame(1)).await.expect("shrinks");
    for batching in [true, false] {
        let (result, paid) = received(batching, COMPRESSED, &body).await;
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(paid, cost(frame(1).len()));
    }
}

#[tokio::test]
async fn a_compressed_frame_beyond_its_bounds_is_refused_before_anything_is_unpacked() {
    let claims = |length: u32| [&length.to_le_bytes()[..], &[0xff; 40]].concat();
    let (result, paid) = received(true, COMPRESSED, &claims(u32::MAX)).await;
    assert!(matches!(result, Err(LaneError::Oversized(u32::MAX))), "{result:?}");
    assert_eq!(paid, 0);
    let (result, _) = received(true, COMPRESSED, &claims(2 << 20)).await;
    assert!(matches!(result, Err(LaneError::OverCredit)), "{result:?}");
    for length in [0, 44, 1_000] {
        let (result, _) = received(true, COMPRESSED, &claims(length)).await;
        assert!(matches!(result, Err(LaneError::Compressed)), "{length}: {result:?}");
    }
    let (result, _) = received(true, COMPRESSED, &[1, 0, 0]).await;
    assert!(matches!(result, Err(LaneError::Compressed)), "{result:?}");
}

#[tokio::test]
async fn a_lane_that_was_closed_before_its_tasks_were_known_ends_both_of_them() {
    let (_peer, lane) = lane(true);
    lane.close("the first frame was broken");
    let tasks = [(); 2].map(|()| tokio::spawn(std::future::pending::<()>()));
    lane.adopt([tasks[0].abort_handle(), tasks[1].abort_handle()]);
    for task in tasks {
        let ended = tokio::time::timeout(Duration::from_secs(10), task).await.expect("it ends");
        assert!(ended.is_err_and(|error| error.is_cancelled()));
    }
}
