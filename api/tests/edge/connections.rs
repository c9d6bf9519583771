//! Clients that misuse their connections, and ports that are taken.

use std::time::{Duration, Instant};

use aurigraph_api::Port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::node::{TestNode, WITHIN};

/// Reads until the other side closes.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset after the last byte is an end too.
    let _ = tokio::time::timeout(WITHIN, stream.read_to_end(&mut text)).await.expect("the server closes");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_trickles_its_head_is_cut_off_and_others_are_served() {
    let node = TestNode::start("loris", |_| {}).await;
    let began = Instant::now();
    let mut slow = TcpStream::connect(node.address).await.expect("a connection");
    slow.write_all(b"GET /api/v11/health HTTP/1.1\r\nhost: x\r\n").await.expect("written");
    let (mut reader, mut writer) = slow.into_split();
    let trickle = tokio::spawn(async move {
        // One header a second, for ever: the head's deadline does not start anew.
        for at in 0_u64.. {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if writer.write_all(format!("x-{at}: y\r\n").as_bytes()).await.is_err() {
                return;
            }
        }
    });
    node.good("/health").await;
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(WITHIN, reader.read_to_end(&mut rest)).await.expect("the server closes");
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    trickle.abort();
    node.good("/health").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_idle_connections_leave_the_node_serving() {
    let node = TestNode::start("idle", |_| {}).await;
    let mut idle = Vec::new();
    for _ in 0..2_000 {
        idle.push(TcpStream::connect(node.address).await.expect("a connection"));
    }
    for _ in 0..20 {
        node.good("/health").await;
        node.good("/consensus/status").await;
    }
    drop(idle);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_cap_are_told_so_and_places_come_back() {
    let node = TestNode::start("cap", |settings| settings.api.max_connections = 8).await;
    let mut idle = Vec::new();
    let mut refused = None;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(node.address).await.expect("a connection");
        stream.write_all(b"GET /api/v11/health HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("written");
        let mut first = [0; 16];
        let read = tokio::time::timeout(WITHIN, stream.read(&mut first)).await.expect("an answer");
        if read.is_ok_and(|read| first[..read].starts_with(b"HTTP/1.1 503")) {
            refused = Some(stream);
            break;
        }
        idle.push(stream);
    }
    assert!(refused.is_some(), "{} were taken", idle.len());
    assert!(idle.len() <= 8, "{}", idle.len());
    drop((idle, refused));
    let began = Instant::now();
    loop {
        let mut stream = TcpStream::connect(node.address).await.expect("a connection");
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("written");
        if read_to_end(&mut stream).await.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(began.elapsed() < WITHIN, "no place came back");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_and_endless_heads_are_refused_and_the_node_lives() {
    let node = TestNode::start("nonsense", |_| {}).await;
    for bytes in [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), b"NONSENSE\r\n\r\n".to_vec(), {
        let mut head = b"GET / HTTP/1.1\r\nx: ".to_vec();
        head.resize(200_000, b'y');
        head
    }] {
        let mut stream = TcpStream::connect(node.address).await.expect("a connection");
        // The server may close before it has read all of it.
        let _ = stream.write_all(&bytes).await;
        let answer = read_to_end(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    node.good("/health").await;
    node.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_named_with_what_to_do() {
    let first = Port::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
    let error = Port::bind(first.address()).await.err().expect("the port is taken").to_string();
    assert!(error.contains(&first.address().to_string()) && error.contains("another process has this port"), "{error}");
}
