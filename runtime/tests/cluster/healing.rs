//! Ends of actors in every way: the links come back by themselves.

use std::time::{Duration, Instant};

use aurigraph_runtime::KillMode;
use aurigraph_runtime::cluster::{Class, ClusterSettings, LinkLimits};
use bytes::Bytes;

use crate::support::{NOWHERE, Node, linked, pair, pair_with, settings, start, turn, until};

const MODES: [KillMode; 5] = [KillMode::Kill, KillMode::Panic, KillMode::Error, KillMode::Stop, KillMode::Abort];

async fn exchange(from: &Node, to: &Node, text: &str) {
    let message = Bytes::from(format!("{text} from {}", from.name));
    // A link that has just come up may go down once more while the other end catches up: sending again is the sender's
    // affair, as it is in the layers above.
    until("a control message arrives", || {
        if !to.inbound.has_control(&from.name, &message) {
            let _ = from.net.send_control(&to.name, message.clone());
        }
        to.inbound.has_control(&from.name, &message)
    })
    .await;
    until("a bulk message arrives", || {
        if !to.inbound.has_bulk(&from.name, &message) {
            let _ = from.net.send_bulk(&to.name, message.clone(), Class::Body);
        }
        to.inbound.has_bulk(&from.name, &message)
    })
    .await;
}

fn sessions(node: &Node, peer: &Node) -> u64 {
    node.net.peer(&peer.name).expect("a peer").sessions
}

/// Two nodes that give up a silent peer as soon as nodes do by default.
async fn hasty_pair(prefix: &str) -> (Node, Node) {
    let hasty = |settings: &mut ClusterSettings| settings.links.dead_after = LinkLimits::default().dead_after;
    pair_with(prefix, hasty, hasty).await
}

/// Ends every actor of `victim` that carries a link, in every mode, and sees the links come back.
async fn every_end_heals(victim: &Node, other: &Node) {
    let peer = format!("peer/{}", other.name);
    let mut slowest = Duration::ZERO;
    for role in ["node-server", "gateway", "listener", "peers", "cluster", peer.as_str()] {
        for mode in MODES {
            let before = (sessions(victim, other), sessions(other, victim));
            let name = format!("{}/{role}", victim.name);
            if !victim.registry.kill(&name, mode) {
                // A library actor has no handler of ours that could fail.
                assert!(role == "node-server" && matches!(mode, KillMode::Panic | KillMode::Error), "{name} {mode:?}");
                continue;
            }
            let began = Instant::now();
            until(&format!("new sessions after {name} {mode:?}"), || {
                sessions(victim, other) > before.0 && sessions(other, victim) > before.1
            })
            .await;
            linked(victim, other).await;
            slowest = slowest.max(began.elapsed());
            exchange(victim, other, &format!("{role} {mode:?}")).await;
            exchange(other, victim, &format!("{role} {mode:?}")).await;
        }
    }
    println!("slowest healing of {}: {slowest:?}", victim.name);
    for node in [victim, other] {
        let changes = node.inbound.changes.lock();
        let in_turn = changes
            .chunks(2)
            .all(|pair| pair[0].starts_with('+') && pair.get(1).is_none_or(|down| down.starts_with('-')));
        assert!(in_turn, "ups and downs alternate: {changes:?}");
    }
    for (node, peer) in [(victim, other), (other, victim)] {
        assert_eq!(node.net.peer(&peer.name).expect("a peer").charges, 0, "no honest node is charged");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_heal_after_any_end_of_any_actor_of_the_node_that_is_dialled() {
    let _turn = turn().await;
    let (a, b) = hasty_pair("heal-dialled").await;
    every_end_heals(&a, &b).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_heal_after_any_end_of_any_actor_of_the_node_that_dials() {
    let _turn = turn().await;
    let (a, b) = hasty_pair("heal-dialling").await;
    every_end_heals(&b, &a).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_at_its_address_is_found_again() {
    let _turn = turn().await;
    let (a, b) = pair("comeback").await;
    let address = a.address();
    a.stop().await;
    until("b sees a go", || !b.net.is_up(&a.name)).await;
    let mut again = settings(&a.name, &[(&b.name, NOWHERE)]);
    again.listen = address.parse().expect("an address");
    let again = start(again).await;
    linked(&again, &b).await;
    exchange(&again, &b, "I am back").await;
    exchange(&b, &again, "welcome").await;
    again.stop().await;
    b.stop().await;
}
