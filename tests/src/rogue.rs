//! Peers that do not keep to the rules, put together from the library's parts, below the cluster's own code; and
//! strangers who cannot even become peers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aurigraph_runtime::channel::{Channel, LaneKind, SessionTag};
use parking_lot::Mutex;
use ractor::message::{BoxedDowncastErr, SerializedMessage};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use ractor_cluster::node::{NodeConnectionMode, NodeServerSessionInformation};
use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream, NodeEventSubscription, NodeServer, NodeServerMessage};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// No answer takes longer, on a busy machine.
const BOUND: Duration = Duration::from_secs(30);

/// A message with any bytes in it.
pub struct Raw(pub Vec<u8>);

impl ractor::Message for Raw {
    fn serializable() -> bool {
        true
    }

    fn serialize(self) -> Result<SerializedMessage, BoxedDowncastErr> {
        Ok(SerializedMessage::Cast { variant: String::new(), args: self.0, metadata: None })
    }

    fn deserialize(message: SerializedMessage) -> Result<Self, BoxedDowncastErr> {
        match message {
            SerializedMessage::Cast { args, .. } => Ok(Self(args)),
            _ => Err(BoxedDowncastErr),
        }
    }
}

/// An actor that takes everything and says nothing.
pub struct Mute(pub Arc<AtomicUsize>);

impl Actor for Mute {
    type Msg = Raw;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _myself: ActorRef<Raw>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _myself: ActorRef<Raw>, _message: Raw, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

struct Stream(Channel);

impl ClusterBidiStream for Stream {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let (read, write) = tokio::io::split(self.0.stream);
        (Box::new(read), Box::new(write))
    }
}

#[derive(Default)]
struct Seen {
    open: Vec<NodeServerSessionInformation>,
    ready: usize,
    ended: usize,
}

struct Events(Arc<Mutex<Seen>>);

impl NodeEventSubscription for Events {
    fn node_session_opened(&self, session: NodeServerSessionInformation) {
        self.0.lock().open.push(session);
    }
    fn node_session_disconnected(&self, _session: NodeServerSessionInformation) {
        self.0.lock().ended += 1;
    }
    fn node_session_authenticated(&self, _session: NodeServerSessionInformation) {}
    fn node_session_ready(&self, _session: NodeServerSessionInformation) {
        self.0.lock().ready += 1;
    }
}

/// The cluster library as it is, under any name.
pub struct Rogue {
    /// Its sessions' server.
    pub server: ActorRef<NodeServerMessage>,
    seen: Arc<Mutex<Seen>>,
}

impl Rogue {
    /// A server that calls itself `claims@claims`, in the cluster of this secret.
    pub async fn new(claims: &str, secret: [u8; 32]) -> Self {
        let cookie = hex::encode(secret);
        let server =
            NodeServer::new(0, cookie, claims.to_owned(), claims.to_owned(), None, Some(NodeConnectionMode::Isolated));
        let server = server.with_listen_addr(std::net::Ipv4Addr::LOCALHOST.into());
        let (server, _) = Actor::spawn(None, server, ()).await.expect("starts");
        let seen = Arc::<Mutex<Seen>>::default();
        let subscription = Box::new(Events(Arc::clone(&seen)));
        server.cast(NodeServerMessage::SubscribeToEvents { id: "rogue".into(), subscription }).expect("it runs");
        Self { server, seen }
    }

    /// Begins a session over a channel.
    pub fn hand_over(&self, channel: Channel, is_server: bool) -> SessionTag {
        let tag = channel.tag;
        let stream = Box::new(Stream(channel));
        self.server.cast(NodeServerMessage::ConnectionOpenedExternal { stream, is_server }).expect("it runs");
        tag
    }

    /// Sessions that became usable.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.seen.lock().ready
    }

    /// Sessions that ended.
    #[must_use]
    pub fn ended(&self) -> usize {
        self.seen.lock().ended
    }

    /// Sessions that began.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.seen.lock().open.len()
    }

    /// The remote actor of this name in the last session.
    pub async fn remote(&self, name: &str) -> ActorRef<Raw> {
        let find = || {
            let session = self.seen.lock().open.last().map(|info| info.actor.clone())?;
            session.get_children().into_iter().find(|child| child.get_name().as_deref() == Some(name))
        };
        let look = async {
            loop {
                if let Some(found) = find() {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let found: ActorCell = tokio::time::timeout(BOUND, look).await.expect("the session knows the actor");
        found.into()
    }

    /// Ends it.
    pub fn stop(&self) {
        self.server.stop(None);
    }
}

/// A gateway message: tag, kind, body.
#[must_use]
pub fn gateway_message(tag: SessionTag, kind: u8, body: &[u8]) -> Raw {
    Raw([tag.as_slice(), &[kind], body].concat())
}

/// A bulk frame.
#[must_use]
pub fn bulk_frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("short").to_le_bytes();
    [length.as_slice(), &[kind], body].concat()
}

/// Which lane a test is about.
pub const LANES: [LaneKind; 2] = [LaneKind::Control, LaneKind::Bulk];

/// Believes any server: these clients are refused for what they offer.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ML_DSA_87, SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
    }
    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A TLS client with the key of this seed, and with these key exchanges, versions and protocols.
#[must_use]
pub fn stranger(
    seed: &[u8; 32],
    groups: Vec<&'static dyn SupportedKxGroup>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> TlsConnector {
    let provider = CryptoProvider { kx_groups: groups, ..aws_lc_rs::default_provider() };
    let prefix = hex::decode("3034020100300b0609608648016503040313042280 20".replace(' ', "")).expect("hex");
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from([prefix.as_slice(), seed.as_slice()].concat()));
    let key = provider.key_provider.load_private_key(der).expect("a key");
    let info = CertificateDer::from(key.public_key().expect("a public key").as_ref().to_vec());
    let certified = Arc::new(rustls::sign::CertifiedKey::new(vec![info], key));
    let resolver = rustls::client::AlwaysResolvesClientRawPublicKeys::new(certified);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// True if the node at this address lets such a client read a byte.
pub async fn gets_in(address: SocketAddr, connector: &TlsConnector) -> bool {
    let tcp = TcpStream::connect(address).await.expect("TCP connects");
    let name = ServerName::try_from("node").expect("a name");
    let attempt = async {
        match connector.connect(name, tcp).await {
            Ok(mut stream) => stream.read_u8().await.is_ok(),
            Err(_) => false,
        }
    };
    tokio::time::timeout(BOUND, attempt).await.expect("an answer, or the end of the connection")
}

/// A length-delimited protobuf field, short enough for one length byte.
#[must_use]
pub fn field(number: u8, body: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(body.len()).expect("short")], body].concat()
}

/// A frame of the control lane's session.
#[must_use]
pub fn session_frame(body: &[u8]) -> Vec<u8> {
    [(body.len() as u64).to_be_bytes().as_slice(), body].concat()
}
