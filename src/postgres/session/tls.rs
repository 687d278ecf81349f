//! TLS where the server offers it. Its certificate is not verified against an authority: what keeps the password safe is
//! SCRAM (see the guard), and channel binding keeps out whoever stands between.

use std::{future::Future, io, pin::Pin, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{guard::Guard, startup::Startup};

type RustlsConnect = <MakeRustlsConnect as MakeTlsConnect<TcpStream>>::TlsConnect;
type RustlsStream = <MakeRustlsConnect as MakeTlsConnect<TcpStream>>::Stream;

/// Takes the guard off the socket, makes TLS on it and guards what is inside.
pub(super) struct GuardedTls(RustlsConnect);

impl GuardedTls {
    /// For a server at `host`, a name or an IP address.
    pub(super) fn new(host: &str) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        let mut make = MakeRustlsConnect::new(config);
        let connect = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut make, host);
        Ok(Self(connect.map_err(io::Error::other)?))
    }
}

impl TlsConnect<Guard<TcpStream>> for GuardedTls {
    type Stream = Guard<RustlsStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Stream>> + Send>>;

    fn connect(self, stream: Guard<TcpStream>) -> Self::Future {
        let connecting = self.0.connect(stream.into_inner());
        Box::pin(async move { Ok(Guard::after_tls(connecting.await?)) })
    }
}

/// The same for a session that asks for replication.
pub(super) struct ReplicationTls(pub(super) GuardedTls);

impl TlsConnect<Startup<Guard<TcpStream>>> for ReplicationTls {
    type Stream = Startup<Guard<RustlsStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Stream>> + Send>>;

    fn connect(self, stream: Startup<Guard<TcpStream>>) -> Self::Future {
        Box::pin(async move { stream.inside(|socket| self.0.connect(socket)).await })
    }
}

/// Accepts every certificate, but only from who holds its key: channel binding rests on that.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
