//! Listed peers that break the rules of a lane: dropped, charged, let in again after the penalty.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aurigraph_runtime::channel::{Channel, Channels, LaneKind};
use aurigraph_runtime::cluster::{Class, LinkLimits, SendRefused};
use bytes::Bytes;
use ractor::Actor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{NOWHERE, Node, SECRET, channels, linked, pair_with, settings, start, turn, until, within};
use aurigraph_testkit::rogue::{Mute, Rogue, bulk_frame, field, gateway_message, session_frame};

async fn charged(victim: &Node, peer: &str, times: u64, with: &str) {
    until(&format!("{peer} is charged {times} times ({with})"), || {
        victim.net.peer(peer).is_some_and(|status| status.charges >= times)
    })
    .await;
    let status = victim.net.peer(peer).expect("a peer");
    let failure = status.last_failure.unwrap_or_default();
    assert!(failure.contains(with), "{with}: {failure}");
    until("the penalty is over", || victim.net.peer(peer).is_some_and(|status| status.penalty_left.is_none())).await;
}

async fn dial(from: &Channels, victim: &Node, lane: LaneKind) -> Channel {
    within("a channel", from.dial(&victim.name, &victim.address(), lane)).await.expect("its key is listed")
}

/// Waits for the credit that a bulk channel begins with: what is sent before it is beyond it, whatever else is wrong.
async fn first_grant(channel: &mut Channel) {
    let mut grant = [0; 13];
    within("the first grant", channel.stream.read_exact(&mut grant)).await.expect("a grant");
    assert_eq!(grant[4], 1, "credit comes first: {grant:?}");
}

/// Each step breaks a rule in a channel of its own.
async fn each_is_charged(victim: &Node, rogue: &str, lane: LaneKind, breaches: &[(&str, Vec<u8>, bool)]) {
    let from = channels(rogue, &[&victim.name]);
    for (index, (with, bytes, end)) in breaches.iter().enumerate() {
        let mut channel = dial(&from, victim, lane).await;
        if lane == LaneKind::Bulk {
            first_grant(&mut channel).await;
        }
        channel.stream.write_all(bytes).await.expect("written");
        if *end {
            channel.stream.shutdown().await.expect("an orderly end");
        }
        charged(victim, rogue, index as u64 + 1, with).await;
        let mut rest = Vec::new();
        // Whatever the node had said before: the channel ends.
        let _ = within("the end of the channel", channel.stream.read_to_end(&mut rest)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_bulk_frames_are_charged() {
    let _turn = turn().await;
    let mut settings = settings("bulk-rules", &[("bulk-rules-x", NOWHERE)]);
    settings.links.bulk_message_bytes = 1_000;
    settings.links.bulk_window = 2_500;
    let victim = start(settings).await;
    let cut = bulk_frame(0, &[1; 100])[..50].to_vec();
    let breaches = [
        ("a frame of 1001 bytes", bulk_frame(0, &[1; 1_001]), false),
        ("a frame of 4294967295 bytes", vec![0xff; 5], false),
        ("an empty frame", bulk_frame(0, &[]), false),
        ("a frame of 4294967295 bytes", bulk_frame(2, &[255; 20]), false),
        ("a compressed frame that does not", bulk_frame(2, &[&500_u32.to_le_bytes()[..], &[255; 20]].concat()), false),
        ("a frame of kind 7", bulk_frame(7, &[1]), false),
        ("a frame was cut short", cut.clone(), true),
        ("a frame was cut short", cut[..3].to_vec(), true),
        ("impossible credit", bulk_frame(1, &u64::MAX.to_le_bytes()), false),
        ("impossible credit", bulk_frame(1, &[0; 8]), false),
        ("impossible credit", bulk_frame(1, &64_u64.to_le_bytes()), false),
        ("impossible credit", bulk_frame(1, &9_999_u64.to_le_bytes()).repeat(2), false),
        ("a frame of 9 bytes", bulk_frame(1, &[1; 9]), false),
    ];
    each_is_charged(&victim, "bulk-rules-x", LaneKind::Bulk, &breaches).await;
    // Three frames of 864 bytes each are within the first grant only as long as their permits come back.
    victim.inbound.stalled.store(true, Ordering::SeqCst);
    let greedy = [("a frame beyond its credit", bulk_frame(0, &[1; 800]).repeat(3), false)];
    let from = channels("bulk-rules-x", &[&victim.name]);
    let mut channel = dial(&from, &victim, LaneKind::Bulk).await;
    first_grant(&mut channel).await;
    channel.stream.write_all(&greedy[0].1).await.expect("written");
    charged(&victim, "bulk-rules-x", breaches.len() as u64 + 1, greedy[0].0).await;
    assert_eq!(victim.inbound.bulk.lock().len(), 2, "what was within its credit arrived");
    victim.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_session_frames_are_charged() {
    let _turn = turn().await;
    let (victim, rogue) = ("frame-rules", "frame-rules-x");
    let victim = start(settings(victim, &[(rogue, NOWHERE)])).await;
    let name = field(1, b"frame-rules-x@frame-rules-x");
    let good = field(1, &field(1, &name));
    let twice = field(1, &field(1, &[name.clone(), field(1, b"other@other")].concat()));
    let breaches = [
        ("a frame of 1025 bytes", 1_025_u64.to_be_bytes().to_vec(), false),
        ("a frame of 1099511627776 bytes", (1_u64 << 40).to_be_bytes().to_vec(), false),
        ("it calls itself \"other@other\"", session_frame(&field(1, &field(1, &field(1, b"other@other")))), false),
        ("it calls itself \"\"", session_frame(&field(1, &field(1, &[]))), false),
        ("field 1 where it may not be", session_frame(&twice), false),
        ("malformed protobuf", session_frame(&[0xff; 8]), false),
        ("a message before the handshake was over", session_frame(&field(3, &field(9, &[]))), false),
        ("authentication message 4 where Some(1) was due", session_frame(&field(1, &field(4, &name))), false),
        ("authentication message 1 where Some(5) was due", session_frame(&good).repeat(2), false),
        ("a frame was cut short", session_frame(&good)[..20].to_vec(), true),
        ("a frame was cut short", session_frame(&good)[..5].to_vec(), true),
    ];
    each_is_charged(&victim, rogue, LaneKind::Control, &breaches).await;
    victim.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_messages_that_mean_nothing_or_carry_a_foreign_tag_are_charged() {
    let _turn = turn().await;
    let name = "tags-x";
    let victim = start(settings("tags", &[(name, NOWHERE)])).await;
    let from = channels(name, &[&victim.name]);
    let rogue = Rogue::new(name, SECRET).await;
    let mut charges = 0;
    let mut offend = async |bytes: &dyn Fn([u8; 16]) -> Vec<u8>, with: &str| {
        let before = rogue.ready();
        let tag = rogue.hand_over(dial(&from, &victim, LaneKind::Control).await, false);
        until("the session is ready", || rogue.ready() > before).await;
        let gateway = rogue.remote("tags/gateway").await;
        gateway.cast(aurigraph_testkit::rogue::Raw(bytes(tag))).expect("the session lives");
        charges += 1;
        charged(&victim, name, charges, with).await;
    };
    offend(&|_| gateway_message([9; 16], 0, b"hello").0, "foreign tag").await;
    offend(&|tag| tag.to_vec(), "16 bytes are too short").await;
    offend(&|_| Vec::new(), "the payload is missing").await;
    offend(&|tag| gateway_message(tag, 9, b"hello").0, "kind 9 with 5 bytes").await;
    offend(&|tag| gateway_message(tag, 1, b"hello").0, "kind 1 with 5 bytes").await;
    offend(&|tag| gateway_message(tag, 255, &[]).0, "kind 255 with 0 bytes").await;
    offend(&|tag| gateway_message(tag, 3, &u64::MAX.to_le_bytes()).0, "receipt for more").await;
    offend(&|tag| gateway_message(tag, 0, &vec![0; 300_000]).0, "a frame of 3000").await;
    assert!(victim.inbound.control.lock().is_empty());
    rogue.stop();
    victim.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_peer_that_floods_is_dropped_while_another_is_served() {
    let _turn = turn().await;
    // The flooder knows no limit; the victim's is low.
    let mut low = settings("flood-a", &[("flood-b", NOWHERE), ("flood-c", NOWHERE)]);
    low.links.control_messages_per_second = 2_000;
    low.links.bulk_messages_per_second = 2_000;
    low.links.control_window = 65_000;
    low.links.bulk_message_bytes = 10_000;
    low.links.bulk_window = 65_000;
    let victim = start(low).await;
    let flooder = start(settings("flood-b", &[(&victim.name, &victim.address())])).await;
    let honest = start(settings("flood-c", &[(&victim.name, &victim.address())])).await;
    linked(&victim, &flooder).await;
    linked(&victim, &honest).await;
    for lane in [LaneKind::Control, LaneKind::Bulk] {
        let before = victim.net.peer(&flooder.name).expect("a peer").charges;
        let served = victim.inbound.control.lock().iter().filter(|(from, _)| *from == honest.name).count();
        let mut sent = 0;
        until("the flooder is charged", || {
            for _ in 0..200 {
                let message = Bytes::from_static(b"flood");
                let _ = match lane {
                    LaneKind::Control => flooder.net.send_control(&victim.name, message),
                    LaneKind::Bulk => flooder.net.send_bulk(&victim.name, message, Class::Serving),
                };
            }
            sent += usize::from(honest.net.send_control(&victim.name, Bytes::from_static(b"fine")).is_ok());
            victim.net.peer(&flooder.name).is_some_and(|peer| peer.charges > before)
        })
        .await;
        assert!(victim.net.peer(&flooder.name).expect("a peer").last_failure.expect("one").contains("flood"));
        until("all of the honest peer's arrive", || {
            victim.inbound.control.lock().iter().filter(|(from, _)| *from == honest.name).count() == served + sent
        })
        .await;
        assert!(sent > 0);
        linked(&victim, &flooder).await;
    }
    assert_eq!(victim.net.peer(&honest.name).expect("a peer").charges, 0);
    assert!(victim.net.is_up(&honest.name));
    let changes = victim.inbound.changes.lock().clone();
    assert_eq!(changes.iter().filter(|change| change.ends_with(&honest.name)).count(), 1, "{changes:?}");
    for node in [&flooder, &honest, &victim] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_senders_at_full_speed_are_never_charged() {
    let _turn = turn().await;
    let low = |settings: &mut aurigraph_runtime::cluster::ClusterSettings| {
        settings.links.control_messages_per_second = 4_000;
        settings.links.bulk_messages_per_second = 4_000;
        settings.links.control_window = 260_000;
        settings.links.bulk_message_bytes = 100_000;
        settings.links.bulk_window = 260_000;
    };
    let (a, b) = pair_with("eager", low, low).await;
    let mut sent = 0;
    let began = std::time::Instant::now();
    until("two seconds and some messages of sending as much as is taken", || {
        for _ in 0..500 {
            sent += usize::from(a.net.send_control(&b.name, Bytes::from_static(b"small")).is_ok());
            let _ = a.net.send_bulk(&b.name, Bytes::from_static(b"large"), Class::Body);
        }
        began.elapsed() > Duration::from_secs(2) && sent >= 3_000
    })
    .await;
    until("all that was taken arrives", || b.inbound.control.lock().len() == sent).await;
    assert_eq!(b.net.peer(&a.name).expect("a peer").charges, 0);
    assert_eq!(b.inbound.changes.lock().len(), 1);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_stalls_bounds_what_its_sender_keeps() {
    let _turn = turn().await;
    let small = |settings: &mut aurigraph_runtime::cluster::ClusterSettings| {
        settings.links.bulk_message_bytes = 100_000;
        settings.links.bulk_window = 500_000;
        settings.links.bulk_queue_bytes = 1_000_000;
    };
    let (a, b) = pair_with("stall", small, small).await;
    b.inbound.stalled.store(true, Ordering::SeqCst);
    let message = Bytes::from(vec![5; 50_000]);
    let mut taken = 0;
    let mut refused = None;
    until("a message is refused and the window is used up", || {
        // Looked at first: only what is refused after the last has left says that the queue is full for good.
        let used_up = b.inbound.bulk.lock().len() == 9;
        let sent = a.net.send_bulk(&b.name, message.clone(), Class::Body);
        taken += usize::from(sent.is_ok());
        refused = sent.err();
        used_up && refused.is_some()
    })
    .await;
    assert!(matches!(refused, Some(SendRefused::Full { .. })), "{refused:?}");
    assert_eq!(taken, 28, "nine at the receiver, nineteen in the queue");
    assert!(a.net.peer(&b.name).expect("a peer").bulk_queued <= 1_000_000);
    assert!(matches!(
        a.net.send_bulk(&b.name, Bytes::from(vec![5; 100_001]), Class::Body),
        Err(SendRefused::TooLarge { limit: 100_000, .. })
    ));
    // Another class has its own bound, and goes first once there is credit.
    a.net.send_bulk(&b.name, Bytes::from_static(b"urgent"), Class::Urgent).expect("its queue is empty");
    // The control lane does not notice.
    a.net.send_control(&b.name, Bytes::from_static(b"small")).expect("sent");
    until("a control message arrives", || b.inbound.has_control(&a.name, b"small")).await;
    b.inbound.release();
    until("everything arrives", || b.inbound.bulk.lock().len() == taken + 1).await;
    let position = b.inbound.bulk.lock().iter().position(|(_, message)| &message[..] == b"urgent").expect("arrived");
    assert_eq!(position, 9, "the first after those that had arrived before");
    assert_eq!(b.net.peer(&a.name).expect("a peer").charges, 0);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_batching_everything_arrives_as_well() {
    let _turn = turn().await;
    let (a, b) = pair_with("unbatched", |a| a.network_batching = false, |b| b.network_batching = false).await;
    for i in 0..500_u32 {
        a.net.send_bulk(&b.name, Bytes::from(vec![1; 1 + i as usize * 200]), Class::Body).expect("queued");
    }
    until("all arrive", || b.inbound.bulk.lock().len() == 500).await;
    assert!(b.inbound.bulk.lock().iter().enumerate().all(|(i, (_, message))| message.len() == 1 + i * 200));
    a.stop().await;
    b.stop().await;
}

/// A listed peer with both lanes up that never answers a probe, and what it was sent.
async fn mute_peer(victim: &Node, name: &str) -> (Rogue, Channel, Arc<AtomicUsize>) {
    let from = channels(name, &[&victim.name]);
    let rogue = Rogue::new(name, SECRET).await;
    let heard = Arc::<AtomicUsize>::default();
    let gateway = Mute(Arc::clone(&heard));
    let (_gateway, _) = Actor::spawn(Some(format!("{name}/gateway")), gateway, ()).await.expect("starts");
    // The bulk lane first: the silence counts from the moment at which the control session is usable.
    let mut bulk = dial(&from, victim, LaneKind::Bulk).await;
    bulk.stream.write_all(&bulk_frame(1, &1_000_000_u64.to_le_bytes())).await.expect("written");
    rogue.hand_over(dial(&from, victim, LaneKind::Control).await, false);
    until("the victim takes it for up", || victim.inbound.changes.lock().contains(&format!("+{name}"))).await;
    (rogue, bulk, heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_answer_is_given_up_after_a_second_and_a_half() {
    let _turn = turn().await;
    let mut hasty = settings("mute", &[("mute-x", NOWHERE)]);
    hasty.links.dead_after = LinkLimits::default().dead_after;
    let victim = start(hasty).await;
    let began = std::time::Instant::now();
    let (rogue, _bulk, heard) = mute_peer(&victim, "mute-x").await;
    until("it is given up", || victim.inbound.changes.lock().contains(&"-mute-x".to_owned())).await;
    assert!(began.elapsed() >= Duration::from_millis(1_500), "{:?}", began.elapsed());
    until("it was probed", || heard.load(Ordering::SeqCst) > 0).await;
    let status = victim.net.peer("mute-x").expect("a peer");
    assert_eq!(status.charges, 0, "being slow breaks no rule");
    until("its session ends", || rogue.ended() == 1).await;
    rogue.stop();
    victim.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_processes_nothing_gets_no_more_than_its_window() {
    let _turn = turn().await;
    let mut patient = settings("window", &[("window-x", NOWHERE)]);
    patient.links.control_window = 100_000;
    patient.links.dead_after = Duration::from_secs(600);
    let victim = start(patient).await;
    let (rogue, _bulk, heard) = mute_peer(&victim, "window-x").await;
    let message = Bytes::from(vec![3; 936]);
    let mut taken = 0;
    let refused = loop {
        match victim.net.send_control("window-x", message.clone()) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((taken, refused), (100, SendRefused::Full { peer: "window-x".into(), waiting: 100_000 }));
    until("they arrive", || heard.load(Ordering::SeqCst) >= 100).await;
    assert!(victim.net.send_control("window-x", message).is_err(), "arriving is not processing");
    rogue.stop();
    victim.stop().await;
}
