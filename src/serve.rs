//! Listening: connections, their limits, TLS. The only module that knows sockets.

use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{AddrListener, Address, Handle, Server};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;

use crate::api::{Counted, Counts, neighbourhood};
use crate::config::Config;
use crate::metrics;

/// Listens on the first available address of the host.
pub async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    /// Linux caps it at net.core.somaxconn. With the usual 128, some of a few hundred clients that connect at once are
    /// reset.
    const BACKLOG: u32 = 4096;
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        let listener = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }
        .and_then(|socket| {
            // So that a restart can bind the port at once.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        });
        match listener {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Why the server cannot listen there, and what to do about it.
pub fn cannot_listen(host: &str, port: u16, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "Another program uses that port. Stop it, or choose another port with --port (CANDOR_SERVER__PORT); 0 picks \
             a free one."
        }
        io::ErrorKind::PermissionDenied => {
            "Ports below 1024 usually require root: choose another with --port (CANDOR_SERVER__PORT)."
        }
        io::ErrorKind::AddrNotAvailable => {
            "This machine does not have that address: choose another with --host (CANDOR_SERVER__HOST)."
        }
        _ => "Check --host (CANDOR_SERVER__HOST) and --port (CANDOR_SERVER__PORT).",
    };
    format!("Cannot listen on {host}, port {port}: {error}. {advice}")
}

/// A certificate cannot be used; for the person at the terminal.
#[derive(Debug, thiserror::Error)]
#[error("cannot use server.tls_certificate {certificate} with server.tls_key {key}: {source}")]
pub struct TlsError {
    certificate: String,
    key: String,
    source: io::Error,
}

/// Accepts connections.
pub struct Listener {
    tls: Option<RustlsConfig>,
    limiter: ConnectionLimiter,
    header_bytes: usize,
    header_timeout: Duration,
}

impl Listener {
    /// Reads the certificate, if one is configured.
    pub async fn new(config: &Config) -> Result<Self, TlsError> {
        let (server, limits) = (&config.server, &config.limits);
        let tls = if server.tls_certificate.is_empty() {
            None
        } else {
            // Fails harmlessly if it is called a second time.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let files = (
                Path::new(&server.tls_certificate),
                Path::new(&server.tls_key),
            );
            let tls = RustlsConfig::from_pem_file(files.0, files.1).await;
            let tls = tls.map_err(|source| TlsError {
                certificate: server.tls_certificate.clone(),
                key: server.tls_key.clone(),
                source,
            })?;
            // HTTP/1.1, as without TLS: the time limits do not cover HTTP/2 connections.
            let mut inner = rustls::ServerConfig::clone(&tls.get_inner());
            inner.alpn_protocols = vec![b"http/1.1".to_vec()];
            tls.reload_from_config(Arc::new(inner));
            Some(tls)
        };
        Ok(Self {
            tls,
            limiter: ConnectionLimiter {
                permits: Arc::new(Semaphore::new(possible_connections(limits.connections))),
                counts: Counts::default(),
                per_address: match limits.connections_per_address {
                    0 => usize::MAX,
                    most => most,
                },
                write_timeout: Duration::from_millis(limits.write_timeout_ms),
            },
            header_bytes: limits.header_bytes,
            header_timeout: Duration::from_millis(limits.header_timeout_ms),
        })
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Serves until `handle` stops it.
    pub async fn serve(
        self,
        listener: Closable,
        handle: Handle<Peer>,
        app: Router,
    ) -> io::Result<()> {
        let mut server = Server::<Peer>::from_listener(listener)
            .handle(handle)
            .http1_only()
            .first_request_timeout(self.header_timeout);
        server
            .http_builder()
            .http1()
            .header_read_timeout(self.header_timeout)
            .max_buf_size(self.header_bytes);
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        match self.tls {
            Some(tls) => {
                let acceptor = RustlsAcceptor::new(tls)
                    .handshake_timeout(self.header_timeout)
                    .acceptor(self.limiter);
                server.acceptor(acceptor).serve(app).await
            }
            None => server.acceptor(self.limiter).serve(app).await,
        }
    }
}

/// The address of a client.
#[derive(Debug, Clone)]
pub struct Peer(SocketAddr);

impl Address for Peer {
    type Stream = TcpStream;
    type Listener = Closable;
}

impl Connected<Peer> for SocketAddr {
    fn connect_info(Peer(address): Peer) -> Self {
        address
    }
}

/// A socket that can stop listening while its connections go on. axum-server's own way ends idle connections, too, and a
/// request that is on its way through one of them would be lost.
pub struct Closable {
    /// `None` once it is closed.
    listener: Mutex<Option<TcpListener>>,
    address: SocketAddr,
    closing: Arc<Notify>,
}

impl Closable {
    /// It is closed when `closing` is notified.
    pub fn new(listener: TcpListener, closing: Arc<Notify>) -> io::Result<Self> {
        Ok(Self {
            address: listener.local_addr()?,
            listener: Mutex::new(Some(listener)),
            closing,
        })
    }
}

impl AddrListener<TcpStream, Peer> for Closable {
    async fn bind_to(Peer(address): Peer) -> io::Result<Self> {
        Self::new(TcpListener::bind(address).await?, Arc::default())
    }

    /// Never completes once it is closed.
    async fn accept_stream(&self) -> io::Result<(TcpStream, Peer)> {
        let mut listener = self.listener.lock().await;
        if let Some(open) = &*listener {
            tokio::select! {
                // Those that are connected are still served.
                biased;
                accepted = open.accept() => {
                    return accepted.map(|(stream, address)| (stream, Peer(address)));
                }
                () = self.closing.notified() => {}
            }
        }
        *listener = None;
        std::future::pending().await
    }

    fn get_local_addr(&self) -> io::Result<Peer> {
        Ok(Peer(self.address))
    }
}

/// `wanted`, or fewer if the system does not let this process open that many files.
fn possible_connections(wanted: usize) -> usize {
    /// Models, settings, and whatever else is open.
    const OTHER_FILES: usize = 128;
    let files = rlimit::increase_nofile_limit((wanted + OTHER_FILES) as u64);
    let possible = files
        .ok()
        .and_then(|files| usize::try_from(files).ok())
        .map_or(wanted, |files| files.saturating_sub(OTHER_FILES).max(1));
    if possible < wanted {
        tracing::warn!(
            wanted,
            possible,
            "the system allows fewer open files than limits.connections needs"
        );
    }
    wanted.min(possible)
}

/// Limits the number of connections, and closes those that do not read what they are sent.
#[derive(Clone)]
struct ConnectionLimiter {
    permits: Arc<Semaphore>,
    /// Connections by address.
    counts: Counts,
    per_address: usize,
    write_timeout: Duration,
}

impl<S> Accept<TcpStream, S> for ConnectionLimiter {
    type Stream = Connection;
    type Service = S;
    type Future = Ready<io::Result<(Connection, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
        let counted = stream.peer_addr().ok().and_then(|peer| {
            let name = neighbourhood(peer.ip()).to_string();
            self.counts.add(name, self.per_address)
        });
        let (Some(permit), Some(counted)) = (permit, counted) else {
            metrics::connection_refused();
            return ready(Err(io::Error::other("the limit of connections is reached")));
        };
        // Tokens are small, and must not wait for more data.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.write_timeout));
        let connection = Connection {
            stream: Box::pin(stream),
            _permit: permit,
            _counted: counted,
        };
        ready(Ok((connection, service)))
    }
}

/// A connection, counted by the limiter.
struct Connection {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    _permit: OwnedSemaphorePermit,
    _counted: Counted,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(task, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(task, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(task, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(task)
    }
}
