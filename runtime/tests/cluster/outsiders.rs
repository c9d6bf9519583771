//! Whoever is not a listed peer gets nothing, and keeps nobody out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aurigraph_runtime::KillMode;
use aurigraph_runtime::channel::{HandshakeError, LaneKind};
use aurigraph_runtime::cluster;
use aurigraph_runtime::{ChildSpec, Registry, Strategy, SupervisorSpec, Tree};
use aurigraph_testkit::rogue::{gets_in, stranger};
use rustls::crypto::aws_lc_rs;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::support::{NOWHERE, channels, linked, pair, seed, settings, start, turn, within};

/// A client with the listed key of `who`.
fn client(
    who: &str,
    groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> TlsConnector {
    stranger(&seed(who), groups, versions, alpn)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_tls_13_with_ml_kem_1024_and_a_lane_gets_in() {
    use aws_lc_rs::kx_group::{MLKEM1024, SECP256R1, X25519, X25519MLKEM768};
    use rustls::version::{TLS12, TLS13};
    let _turn = turn().await;
    let friend = "door-b";
    let node = start(settings("door-a", &[(friend, NOWHERE)])).await;
    let lane: &[&[u8]] = &[LaneKind::Bulk.alpn()];
    assert!(
        gets_in(node.net.local_address().expect("it listens"), &client(friend, vec![MLKEM1024], &[&TLS13], lane)).await,
        "so the rest differs in one thing"
    );
    let refused = [
        ("X25519", client(friend, vec![X25519], &[&TLS13], lane)),
        ("X25519 and P-256", client(friend, vec![X25519, SECP256R1], &[&TLS13], lane)),
        ("a hybrid", client(friend, vec![X25519MLKEM768], &[&TLS13], lane)),
        ("TLS 1.2", client(friend, vec![X25519], &[&TLS12], lane)),
        ("another protocol", client(friend, vec![MLKEM1024], &[&TLS13], &[b"http/1.1"])),
        ("no protocol", client(friend, vec![MLKEM1024], &[&TLS13], &[])),
        ("an unlisted key", client("door-x", vec![MLKEM1024], &[&TLS13], lane)),
    ];
    for (what, connector) in refused {
        assert!(!gets_in(node.net.local_address().expect("it listens"), &connector).await, "{what}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialler_insists_on_the_key_of_the_peer_that_it_dials() {
    let _turn = turn().await;
    let (a, b) = pair("which").await;
    // Both are listed, but a's address was given for b.
    let third = channels("which-c", &["which-a", "which-b"]);
    let error = third.dial(&b.name, &a.address(), LaneKind::Control).await.expect_err("that is a, not b");
    assert!(matches!(&error, HandshakeError::Tls(_)) && error.reason() == "key", "{error}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_key_ends_the_link_and_cannot_come_back() {
    let _turn = turn().await;
    let (a, b) = pair("removed").await;
    a.net.replace_keys([]).expect("an empty list is a list");
    crate::support::until("the link ends at both ends", || !a.net.is_up(&b.name) && !b.net.is_up(&a.name)).await;
    let dialler = channels(&b.name, &[&a.name]);
    let error = dialler.dial(&a.name, &a.address(), LaneKind::Control).await.expect_err("not listed any more");
    assert!(matches!(error, HandshakeError::NotConfirmed(_)), "{error}");
    let key = crate::support::public_key(&b.name);
    a.net.replace_keys([(b.name.as_str(), key.as_slice())]).expect("a good list");
    linked(&a, &b).await;
    a.stop().await;
    b.stop().await;
}

/// Connections that never say anything.
async fn silent(count: usize, to: SocketAddr, from: impl Fn(usize) -> String) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(count);
    for i in 0..count {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(format!("{}:0", from(i)).parse().expect("an address")).expect("a loopback address");
        streams.push(within("a connection", socket.connect(to)).await.expect("connects"));
    }
    streams
}

async fn links_beside_silence(prefix: &str, from: impl Fn(usize) -> String) {
    let (first, second) = (format!("{prefix}-a"), format!("{prefix}-b"));
    let mut patient = settings(&first, &[(&second, NOWHERE)]);
    // The silent ones may stay for longer than this test: linking cannot have waited for their end.
    patient.door.handshake_timeout = Duration::from_secs(600);
    let a = start(patient).await;
    let crowd = silent(1_500, a.net.local_address().expect("it listens"), from).await;
    let began = Instant::now();
    let b = start(settings(&second, &[(&first, &a.address())])).await;
    linked(&a, &b).await;
    println!("{} silent connections and a link after {:?}", crowd.len(), began.elapsed());
    drop(crowd);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_from_many_addresses_keep_no_peer_out() {
    let _turn = turn().await;
    links_beside_silence("silent-many", |i| format!("127.1.{}.{}", i / 200, i % 200 + 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_from_the_peers_own_address_keep_it_not_out() {
    let _turn = turn().await;
    links_beside_silence("silent-one", |_| "127.0.0.1".to_owned()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_silent_connections_push_out_the_oldest() {
    let _turn = turn().await;
    let mut settings = settings("pile", &[("pile-b", NOWHERE)]);
    settings.door.pending = 20;
    settings.door.pending_per_address = 10;
    settings.door.handshake_timeout = Duration::from_secs(600);
    let node = start(settings).await;
    let mut crowd = silent(30, node.net.local_address().expect("it listens"), |_| "127.0.0.1".to_owned()).await;
    let kept = crowd.split_off(20);
    for stream in &mut crowd {
        assert!(within("an end", stream.read_u8()).await.is_err(), "nothing is said to strangers");
    }
    for stream in &kept {
        let open = stream.try_read(&mut [0]).expect_err("the newest are still there");
        assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_takes_too_long_is_ended_however_it_drips() {
    let _turn = turn().await;
    let mut settings = settings("drip", &[("drip-b", NOWHERE)]);
    settings.door.handshake_timeout = Duration::from_millis(300);
    let node = start(settings).await;
    let mut silent = TcpStream::connect(node.address()).await.expect("TCP connects");
    assert!(within("an end", silent.read_u8()).await.is_err());
    let dripping = TcpStream::connect(node.address()).await.expect("TCP connects");
    let began = Instant::now();
    // A good record of 16 KiB, one byte at a time.
    let mut record = [0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3].into_iter().chain(std::iter::repeat(0));
    crate::support::until("it is cut off", || {
        let byte = record.next().expect("endless");
        dripping.try_write(&[byte]).is_err() || dripping.try_read(&mut [0]).is_ok_and(|count| count == 0)
    })
    .await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(250), "{took:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_a_start_error_that_names_the_address() {
    let _turn = turn().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("bound");
    let mut settings = settings("taken", &[]);
    settings.listen = address;
    let inbound = Arc::new(crate::support::Recorder::default());
    let (spec, _net) = cluster::spec(settings, inbound).expect("good settings");
    let root = SupervisorSpec::new("root", Strategy::OneForOne).child(ChildSpec::supervisor(spec));
    let Err(error) = within("an end", Tree::start(Registry::new("taken"), root)).await else {
        panic!("it cannot start");
    };
    assert!(error.to_string().contains(&format!("cannot listen for nodes on {address}")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_port_stays_the_same_across_ends_of_the_listener() {
    let _turn = turn().await;
    let node = start(settings("port", &[])).await;
    let address = node.address();
    for mode in [KillMode::Kill, KillMode::Abort, KillMode::Stop] {
        let before = node.registry.row("port/listener").expect("a row").generation;
        assert!(node.registry.kill("port/listener", mode));
        crate::support::until("a new listener", || {
            node.registry
                .row("port/listener")
                .is_some_and(|row| row.generation > before && row.state == aurigraph_runtime::ActorState::Running)
        })
        .await;
        assert_eq!(node.address(), address);
        TcpStream::connect(&address).await.expect("it listens again");
    }
    node.stop().await;
}
