//! A server over TLS in this process that answers as it is told to: what stands in for webhooks and for servers behind the API.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use std::{net::SocketAddr, sync::Arc};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a question is answered with.
pub type Answer = anyhow::Result<Response<Full<Bytes>>>;

/// Where a server listens, and whom to trust.
pub struct Server {
    /// On the loopback.
    pub address: SocketAddr,
    /// Its own certificate, which is its authority too.
    pub authority_pem: String,
}

impl Server {
    /// Listens on a port of its own until the process ends.
    pub async fn open<F, A>(answer: F) -> anyhow::Result<Self>
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let chain = vec![key.cert.der().clone()];
        let secret = PrivateKeyDer::try_from(key.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_no_client_auth().with_single_cert(chain, secret)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                tokio::spawn(async move {
                    // As Go's servers do: the second part of an answer does not wait until the first is acknowledged.
                    if stream.set_nodelay(true).is_err() {
                        return;
                    }
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let served = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(answer)).await;
                    if let Err(error) = served {
                        eprintln!("{address}: {error}");
                    }
                });
            }
        });
        Ok(Self { address, authority_pem: key.cert.pem() })
    }
}

/// An answer in JSON.
pub fn json(body: String) -> Answer {
    Ok(Response::builder().header("content-type", "application/json").body(Full::new(body.into()))?)
}
