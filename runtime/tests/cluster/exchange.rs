//! Honest nodes: they find each other and exchange messages on both lanes.

use aurigraph_runtime::cluster::{Class, SendRefused};
use bytes::Bytes;

use crate::support::{NOWHERE, linked, pair, settings, start, turn, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_exchange_messages_on_both_lanes() {
    let _turn = turn().await;
    let (a, b) = pair("exchange").await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        for i in 0..100_u32 {
            let message = Bytes::from(format!("message {i} from {}", from.name));
            from.net.send_control(&to.name, message.clone()).expect("sent");
            from.net.send_bulk(&to.name, message, Class::Body).expect("queued");
        }
        let large = Bytes::from(vec![9; 3_000_000]);
        from.net.send_bulk(&to.name, large.clone(), Class::Urgent).expect("queued");
        until("all arrive", || to.inbound.control.lock().len() == 100 && to.inbound.bulk.lock().len() == 101).await;
        assert!(to.inbound.has_bulk(&from.name, &large));
        let in_order = |messages: &[(String, Bytes)]| {
            let own = messages.iter().filter(|(_, message)| message.len() < 1_000);
            own.enumerate()
                .all(|(i, (peer, message))| *peer == from.name && *message == format!("message {i} from {}", from.name))
        };
        assert!(in_order(&to.inbound.control.lock()));
        assert!(in_order(&to.inbound.bulk.lock()));
    }
    until("a round trip is measured", || a.net.peer(&b.name).is_some_and(|peer| peer.rtt_ms.is_some())).await;
    // The lane's task counts a large message after it has written it, and the other end may be faster.
    until("all are counted", || a.net.peer(&b.name).is_some_and(|peer| peer.messages_out >= 201)).await;
    let status = a.net.peer(&b.name).expect("a peer");
    assert_eq!((status.messages_in, status.messages_out, status.sessions, status.charges), (201, 201, 1, 0));
    assert!(status.bytes_in > 3_000_000 && status.bytes_out > 3_000_000);
    assert_eq!(*a.inbound.changes.lock(), [format!("+{}", b.name)]);
    a.stop().await;
    b.stop().await;
    assert_eq!(*a.inbound.changes.lock(), [format!("+{}", b.name), format!("-{}", b.name)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_runs_and_refuses_unknown_peers() {
    let _turn = turn().await;
    let node = start(settings("alone", &[])).await;
    assert!(node.net.peers().is_empty());
    let refused = node.net.send_control("nobody", Bytes::from_static(b"x"));
    assert_eq!(refused, Err(SendRefused::Unknown("nobody".into())));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_reach_each_other_and_nobody_hears_what_is_not_for_him() {
    let _turn = turn().await;
    let names: Vec<String> = (1..=5).map(|i| format!("mesh-{i}")).collect();
    let mut nodes = Vec::new();
    for name in &names {
        // Each dials those that run already: their names are smaller.
        let addresses: Vec<String> = nodes.iter().map(crate::support::Node::address).collect();
        let others = names.iter().filter(|other| *other != name);
        let peers: Vec<(&str, &str)> = others
            .enumerate()
            .map(|(i, other)| (other.as_str(), addresses.get(i).map_or(NOWHERE, String::as_str)))
            .collect();
        nodes.push(start(settings(name, &peers)).await);
    }
    for first in &nodes {
        for second in nodes.iter().filter(|second| second.name != first.name) {
            linked(first, second).await;
            let message = Bytes::from(format!("{} to {}", first.name, second.name));
            first.net.send_control(&second.name, message.clone()).expect("sent");
            first.net.send_bulk(&second.name, message, Class::Body).expect("queued");
        }
    }
    for node in &nodes {
        let expected = |messages: &[(String, Bytes)]| {
            messages.iter().all(|(from, message)| *message == format!("{from} to {}", node.name))
        };
        until("one message of each", || node.inbound.control.lock().len() == 4 && node.inbound.bulk.lock().len() == 4)
            .await;
        assert!(expected(&node.inbound.control.lock()) && expected(&node.inbound.bulk.lock()));
    }
    for node in &nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_before_its_peer_finds_it_later() {
    let _turn = turn().await;
    // Not one that the system may give to a connection: the early node's own dialling could be given it.
    let address = aurigraph_testkit::ports::free();
    let early = start(settings("early-b", &[("early-a", &address.to_string())])).await;
    until("dialling has failed", || early.net.peer("early-a").is_some_and(|peer| peer.last_failure.is_some())).await;
    let mut late = settings("early-a", &[("early-b", NOWHERE)]);
    late.listen = address;
    let late = start(late).await;
    linked(&early, &late).await;
    early.stop().await;
    late.stop().await;
}
