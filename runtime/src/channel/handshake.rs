//! From a TCP connection to a confirmed channel, within a time limit.
//!
//! A TLS 1.3 client finishes before the server has looked at the client's key, so a dialler would take a refusal for
//! success. The accepting end therefore writes a confirmation derived from the session, and a channel exists for the
//! dialler only once that confirmation was read and found right.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::pki_types::ServerName;
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::{ClientConfig, ServerConfig};
use socket2::TcpKeepalive;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::identity::{Identity, IdentityError, provider};
use super::keys::PeerKeys;
use super::verify::{ExpectedPeer, ListedPeer, ml_dsa_87};

/// How long what was sent may stay unacknowledged before the system gives the connection up.
const TCP_SILENCE: Duration = Duration::from_secs(10);
/// Bytes of the confirmation that the accepting end writes first.
const CONFIRMATION_BYTES: usize = 16;
const TAG_LABEL: &[u8] = b"EXPORTER-aurigraph-session-tag";
const CONFIRMATION_LABEL: &[u8] = b"EXPORTER-aurigraph-accepted";

/// 16 bytes that both ends of one channel derive from its TLS session, different for each session.
pub type SessionTag = [u8; 16];

/// What a channel is for; negotiated by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LaneKind {
    /// Small messages: a session of the actor cluster.
    Control,
    /// Large messages: length-delimited frames under credit.
    Bulk,
}

impl LaneKind {
    const ALL: [Self; 2] = [Self::Control, Self::Bulk];

    /// The ALPN protocol name.
    #[must_use]
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Control => b"aurigraph/control",
            Self::Bulk => b"aurigraph/bulk/2",
        }
    }

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Bulk => "bulk",
        }
    }
}

/// Why no channel came to be.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Nothing listens there, or it is unreachable.
    #[error("no connection to {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The handshake did not end in time.
    #[error("no handshake within {0:?}")]
    Timeout(Duration),
    /// TLS failed: no common parameters, a key that is not listed, a bad signature.
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    /// The peer is not on our list (any more).
    #[error("{0} is not on the list")]
    NotListed(String),
    /// The peer did not choose a lane.
    #[error("no lane was negotiated")]
    NoLane,
    /// The accepting end did not confirm that it accepts us.
    #[error("the other end did not accept this node: {0}")]
    NotConfirmed(std::io::Error),
    /// The confirmation is wrong: the other end belongs to another cluster.
    #[error("the other end belongs to another cluster")]
    OtherCluster,
    /// Our own settings are unusable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl HandshakeError {
    /// The metric label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Timeout(_) => "timeout",
            Self::Tls(error) => tls_reason(error),
            Self::NotListed(_) => "key",
            Self::NoLane => "alpn",
            Self::NotConfirmed(_) => "not_confirmed",
            Self::OtherCluster => "other_cluster",
            Self::Identity(_) => "identity",
        }
    }
}

fn tls_reason(error: &std::io::Error) -> &'static str {
    use rustls::{Error, PeerIncompatible};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(_)) => "key",
        Some(Error::NoApplicationProtocol) => "alpn",
        Some(Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired)) => "tls_version",
        Some(Error::PeerIncompatible(_)) => "classical",
        Some(Error::AlertReceived(_)) => "refused_by_peer",
        Some(_) => "tls",
        None => "io",
    }
}

/// A confirmed connection with a known peer.
pub struct Channel {
    /// Whose key the other end has proved to hold.
    pub peer: String,
    /// What it is for.
    pub lane: LaneKind,
    /// Derived by both ends from the TLS session.
    pub tag: SessionTag,
    /// The other end's socket address.
    pub address: SocketAddr,
    /// The bytes.
    pub stream: TlsStream<TcpStream>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Channel({:?} with {} at {})", self.lane, self.peer, self.address)
    }
}

/// Makes channels for one node. Cheap to clone.
#[derive(Clone)]
pub struct Channels(Arc<Inner>);

struct Inner {
    identity: Identity,
    keys: PeerKeys,
    secret: [u8; 32],
    timeout: Duration,
    server: Arc<ServerConfig>,
}

impl Channels {
    /// Channels of this identity with the listed peers of the cluster that shares `secret`.
    ///
    /// # Errors
    /// [`IdentityError`] if the TLS library refuses the settings.
    pub fn new(identity: Identity, keys: PeerKeys, secret: [u8; 32], timeout: Duration) -> Result<Self, IdentityError> {
        // The first use seeds the generator, which takes tens of milliseconds: not inside somebody's handshake.
        let _ = aws_lc_rs::rand::fill(&mut [0; 1]);
        let server = Arc::new(server_config(&identity, keys.clone())?);
        Ok(Self(Arc::new(Inner { identity, keys, secret, timeout, server })))
    }

    /// The allow-list.
    #[must_use]
    pub fn keys(&self) -> &PeerKeys {
        &self.0.keys
    }

    /// An acceptor that refuses every peer, for a listener that a library insists on opening.
    ///
    /// # Errors
    /// [`IdentityError`] if the TLS library refuses the settings.
    pub fn closed_door(&self) -> Result<TlsAcceptor, IdentityError> {
        Ok(TlsAcceptor::from(Arc::new(server_config(&self.0.identity, PeerKeys::default())?)))
    }

    /// Accepts a channel from whichever listed peer is at the other end.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub async fn accept(&self, tcp: TcpStream) -> Result<Channel, HandshakeError> {
        self.in_time(self.accept_inner(tcp)).await
    }

    async fn accept_inner(&self, tcp: TcpStream) -> Result<Channel, HandshakeError> {
        let address = prepare(&tcp).map_err(HandshakeError::Tls)?;
        let acceptor = TlsAcceptor::from(Arc::clone(&self.0.server));
        let mut stream = TlsStream::from(acceptor.accept(tcp).await.map_err(HandshakeError::Tls)?);
        let (_, session) = stream.get_ref();
        let lane = negotiated(session.alpn_protocol())?;
        let info = session.peer_certificates().and_then(<[_]>::first).map(AsRef::as_ref).unwrap_or_default();
        // The list may have changed since the verifier looked.
        let peer = self.0.keys.name_of(info).ok_or_else(|| HandshakeError::NotListed(address.to_string()))?;
        let (tag, confirmation) = self.exported(&stream)?;
        stream.write_all(&confirmation).await.map_err(HandshakeError::Tls)?;
        stream.flush().await.map_err(HandshakeError::Tls)?;
        Ok(Channel { peer, lane, tag, address, stream })
    }

    /// Opens a channel to the named peer at `address`; nobody else's key will do.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub async fn dial(&self, peer: &str, address: &str, lane: LaneKind) -> Result<Channel, HandshakeError> {
        self.in_time(self.dial_inner(peer, address, lane)).await
    }

    async fn dial_inner(&self, peer: &str, to: &str, lane: LaneKind) -> Result<Channel, HandshakeError> {
        let infos = self.0.keys.infos_of(peer);
        if infos.is_empty() {
            return Err(HandshakeError::NotListed(peer.to_owned()));
        }
        let refused = |source| HandshakeError::Connect { address: to.to_owned(), source };
        let tcp = TcpStream::connect(to).await.map_err(refused)?;
        let address = prepare(&tcp).map_err(refused)?;
        let connector = TlsConnector::from(Arc::new(client_config(&self.0.identity, infos, lane)?));
        let name = ServerName::IpAddress(address.ip().into());
        let mut stream = TlsStream::from(connector.connect(name, tcp).await.map_err(HandshakeError::Tls)?);
        if negotiated(stream.get_ref().1.alpn_protocol())? != lane {
            return Err(HandshakeError::NoLane);
        }
        let (tag, expected) = self.exported(&stream)?;
        let mut confirmation = [0; CONFIRMATION_BYTES];
        stream.read_exact(&mut confirmation).await.map_err(HandshakeError::NotConfirmed)?;
        if confirmation != expected {
            return Err(HandshakeError::OtherCluster);
        }
        Ok(Channel { peer: peer.to_owned(), lane, tag, address, stream })
    }

    fn exported(
        &self,
        stream: &TlsStream<TcpStream>,
    ) -> Result<(SessionTag, [u8; CONFIRMATION_BYTES]), HandshakeError> {
        let export = |label| match stream {
            TlsStream::Client(stream) => {
                stream.get_ref().1.export_keying_material([0; 16], label, Some(&self.0.secret))
            }
            TlsStream::Server(stream) => {
                stream.get_ref().1.export_keying_material([0; 16], label, Some(&self.0.secret))
            }
        };
        let tag = export(TAG_LABEL).map_err(IdentityError::Tls)?;
        Ok((tag, export(CONFIRMATION_LABEL).map_err(IdentityError::Tls)?))
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, HandshakeError>>) -> Result<T, HandshakeError> {
        let limit = self.0.timeout;
        tokio::time::timeout(limit, work).await.unwrap_or(Err(HandshakeError::Timeout(limit)))
    }
}

/// Small messages go at once, and a connection whose other end has vanished does not linger: the control lane is probed
/// anyway, but a bulk lane may be cut off alone.
fn prepare(tcp: &TcpStream) -> std::io::Result<SocketAddr> {
    tcp.set_nodelay(true)?;
    let socket = socket2::SockRef::from(tcp);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_SILENCE / 2).with_interval(TCP_SILENCE / 4))?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(TCP_SILENCE))?;
    tcp.peer_addr()
}

fn negotiated(alpn: Option<&[u8]>) -> Result<LaneKind, HandshakeError> {
    LaneKind::ALL.into_iter().find(|lane| Some(lane.alpn()) == alpn).ok_or(HandshakeError::NoLane)
}

fn server_config(identity: &Identity, keys: PeerKeys) -> Result<ServerConfig, IdentityError> {
    let verifier = Arc::new(ListedPeer { keys, algorithms: ml_dsa_87()? });
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()?))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(identity.certified())));
    config.alpn_protocols = LaneKind::ALL.iter().map(|lane| lane.alpn().to_vec()).collect();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn client_config(identity: &Identity, infos: Vec<Arc<[u8]>>, lane: LaneKind) -> Result<ClientConfig, IdentityError> {
    let verifier = Arc::new(ExpectedPeer { infos, algorithms: ml_dsa_87()? });
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()?))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(identity.certified())));
    config.alpn_protocols = vec![lane.alpn().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}
