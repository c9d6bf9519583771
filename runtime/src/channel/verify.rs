//! What rustls asks about a peer's key: is it on the list, is it the one we dialled, is its signature good.

use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{
    CertificateDer, ServerName, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};

use super::identity::IdentityError;
use super::keys::PeerKeys;

type Algorithm = &'static dyn SignatureVerificationAlgorithm;
type Mapping = [(SignatureScheme, &'static [Algorithm]); 1];

/// The library keeps its ML-DSA-87 verifier private and wants `'static` tables, so the one entry is found once.
static ALGORITHM: LazyLock<Option<Algorithm>> = LazyLock::new(|| {
    let all = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.mapping;
    all.iter()
        .find(|(scheme, _)| *scheme == SignatureScheme::ML_DSA_87)
        .and_then(|(_, algorithms)| algorithms.first().copied())
});
static MAPPING: LazyLock<Option<Mapping>> =
    LazyLock::new(|| ALGORITHM.as_ref().map(|one| [(SignatureScheme::ML_DSA_87, std::slice::from_ref(one))]));

/// The only signature scheme that we accept.
pub(super) fn ml_dsa_87() -> Result<WebPkiSupportedAlgorithms, IdentityError> {
    match (ALGORITHM.as_ref(), MAPPING.as_ref()) {
        (Some(algorithm), Some(mapping)) => {
            Ok(WebPkiSupportedAlgorithms { all: std::slice::from_ref(algorithm), mapping })
        }
        _ => Err(IdentityError::Missing("ML-DSA-87")),
    }
}

fn signature(
    message: &[u8],
    key: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let info = SubjectPublicKeyInfoDer::from(key.as_ref());
    rustls::crypto::verify_tls13_signature_with_raw_key(message, &info, signed, algorithms)
}

fn tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
}

const fn refused() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

/// Accepting: the key must be on the list. The empty list refuses everybody.
#[derive(Debug)]
pub(super) struct ListedPeer {
    pub(super) keys: PeerKeys,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for ListedPeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.keys.name_of(key) {
            Some(_) if rest.is_empty() => Ok(ClientCertVerified::assertion()),
            _ => Err(refused()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature(message, key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ML_DSA_87]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Dialling: the key must be one of the peer that we dial, not merely a listed one.
#[derive(Debug)]
pub(super) struct ExpectedPeer {
    pub(super) infos: Vec<Arc<[u8]>>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ExpectedPeer {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if rest.is_empty() && self.infos.iter().any(|info| key.as_ref() == &**info) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(refused())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature(message, key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ML_DSA_87]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
