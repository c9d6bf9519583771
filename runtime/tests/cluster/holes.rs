//! The three holes of the libraries below, each shown closed.

use std::collections::BTreeSet;

use aurigraph_runtime::channel::{Channels, HandshakeError, LaneKind, PeerKeys};
use ractor_cluster::client_connect;

use crate::support::{
    BOUND, NOWHERE, SECRET, channels, identity, linked, pair, public_key, settings, start, turn, until,
};
use aurigraph_testkit::rogue::{LANES, Rogue};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_claims_to_be_another_is_charged_and_the_other_stays_up() {
    let _turn = turn().await;
    // The imposter's name is the greater one, so that the victim does not dial it, and fails, and remembers that instead.
    let (imposter, honest, victim) = ("h1-x", "h1-c", "h1-b");
    let victim = start(settings(victim, &[(imposter, NOWHERE), (honest, NOWHERE)])).await;
    let honest = start(settings(honest, &[(&victim.name, &victim.address())])).await;
    linked(&victim, &honest).await;
    let rogue = Rogue::new(&honest.name, SECRET).await;
    let dialler = channels(imposter, &[&victim.name]);
    for attempt in 1..=3 {
        until("the imposter is let in again", || {
            victim.net.peer(imposter).is_some_and(|peer| peer.penalty_left.is_none())
        })
        .await;
        let channel =
            dialler.dial(&victim.name, &victim.address(), LaneKind::Control).await.expect("its key is listed");
        rogue.hand_over(channel, false);
        until("the imposter is charged", || victim.net.peer(imposter).is_some_and(|peer| peer.charges == attempt))
            .await;
        until("its session ended", || rogue.ended() as u64 == attempt).await;
    }
    let peer = victim.net.peer(imposter).expect("a peer");
    assert!(peer.last_failure.expect("one").contains("it calls itself \"h1-c@h1-c\""));
    assert_eq!(rogue.ready(), 0);
    assert_eq!(*victim.inbound.changes.lock(), [format!("+{}", honest.name)], "the honest peer never went down");
    assert_eq!(victim.net.peer(&honest.name).expect("a peer").charges, 0);
    rogue.stop();
    honest.stop().await;
    victim.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialled_peer_that_claims_to_be_another_is_charged_too() {
    let _turn = turn().await;
    let (imposter, honest, victim) = ("h1d-a", "h1d-b", "h1d-c");
    let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let honest = start(settings(honest, &[(victim, NOWHERE)])).await;
    let address = door.local_addr().expect("bound").to_string();
    let rogue = Rogue::new(&honest.name, SECRET).await;
    let acceptor = channels(imposter, &[victim]);
    let serving = tokio::spawn(async move {
        // Both lanes are dialled; only control channels matter here.
        let mut bulk = Vec::new();
        while let Ok((tcp, _)) = door.accept().await {
            match acceptor.accept(tcp).await {
                Ok(channel) if channel.lane == LaneKind::Control => _ = rogue.hand_over(channel, true),
                Ok(channel) => bulk.push(channel),
                Err(_) => {}
            }
        }
    });
    let victim = start(settings(victim, &[(imposter, &address), (&honest.name, &honest.address())])).await;
    linked(&victim, &honest).await;
    // It is dialled again and again, and charged each time: what is remembered in between may be another end of a lane.
    until("the imposter is charged", || {
        let peer = victim.net.peer(imposter).expect("a peer");
        peer.charges >= 1 && peer.last_failure.is_some_and(|failure| failure.contains("h1d-b@h1d-b"))
    })
    .await;
    assert_eq!(*victim.inbound.changes.lock(), [format!("+{}", honest.name)]);
    serving.abort();
    honest.stop().await;
    victim.stop().await;
}

/// Ports of this process on which somebody listens.
fn listening_ports() -> BTreeSet<u16> {
    let own: BTreeSet<String> = std::fs::read_dir("/proc/self/fd")
        .expect("proc")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("proc");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[3] == "0A" && own.contains(row[9]))
        .filter_map(|row| u16::from_str_radix(row[1].split(':').next_back()?, 16).ok())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cookie_alone_opens_no_door_of_a_node() {
    let _turn = turn().await;
    let before = listening_ports();
    let node = start(settings("h2-a", &[("h2-b", NOWHERE)])).await;
    let ports: Vec<u16> = listening_ports().difference(&before).copied().collect();
    assert_eq!(ports.len(), 2, "the node port and the library's own");
    // The right cookie and the name of a listed peer, but no key.
    let rogue = Rogue::new("h2-b", SECRET).await;
    for (index, port) in ports.into_iter().enumerate() {
        client_connect(&rogue.server, ("127.0.0.1", port)).await.expect("TCP connects");
        until("its session was opened and ended", || rogue.opened() == index + 1 && rogue.ended() == index + 1).await;
    }
    assert_eq!(rogue.ready(), 0);
    rogue.stop();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialler_whose_key_is_refused_learns_it_before_it_sends_anything() {
    let _turn = turn().await;
    let (a, b) = pair("h3").await;
    let stranger = channels("h3-stranger", &[&a.name]);
    for lane in LANES {
        let error = stranger.dial(&a.name, &a.address(), lane).await.expect_err("its key is not listed");
        assert!(matches!(error, HandshakeError::NotConfirmed(_)), "{error}");
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialler_of_another_cluster_is_told_so() {
    let _turn = turn().await;
    let node = start(settings("other-a", &[("other-b", NOWHERE)])).await;
    let keys = public_key("other-a");
    let keys = PeerKeys::new([("other-a", keys.as_slice())]).expect("a good list");
    let channels = Channels::new(identity("other-b"), keys, [8; 32], BOUND).expect("good settings");
    let error = channels.dial("other-a", &node.address(), LaneKind::Bulk).await.expect_err("another secret");
    assert!(matches!(error, HandshakeError::OtherCluster), "{error}");
    node.stop().await;
}
