//! The listening side: connections, what each may take, TLS. The only module that knows sockets.

use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;

use crate::api::{Counted, Counts, neighbourhood};
use crate::config::Config;
use crate::metrics;

/// Listens on the first address of that name that can be had.
pub async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    /// Connections that wait to be taken in; Linux bounds it by net.core.somaxconn. With the usual 128, some of a few
    /// hundred clients that come at once are reset.
    const BACKLOG: u32 = 4096;
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        let listener = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }
        .and_then(|socket| {
            // A port may be taken again right after a restart.
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

/// What keeps a server from listening there, and what to do about it.
pub fn cannot_listen(host: &str, port: u16, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "Another program has that port. Stop it, or choose another port with --port (CANDOR_SERVER__PORT); 0 takes \
             any free one."
        }
        io::ErrorKind::PermissionDenied => {
            "Ports below 1024 usually belong to root: choose another with --port (CANDOR_SERVER__PORT)."
        }
        io::ErrorKind::AddrNotAvailable => {
            "This machine does not have that address: choose another with --host (CANDOR_SERVER__HOST)."
        }
        _ => "Check --host (CANDOR_SERVER__HOST) and --port (CANDOR_SERVER__PORT).",
    };
    format!("Cannot listen on {host}, port {port}: {error}. {advice}")
}

/// Why a certificate cannot be used; for the person at the terminal.
#[derive(Debug, thiserror::Error)]
#[error("cannot use server.tls_certificate {certificate} with server.tls_key {key}: {source}")]
pub struct TlsError {
    certificate: String,
    key: String,
    source: io::Error,
}

/// How connections are taken in.
pub struct Door {
    tls: Option<RustlsConfig>,
    keeper: Keeper,
    header_bytes: usize,
    header_timeout: Duration,
}

impl Door {
    /// Reads the certificate, if there is one.
    pub async fn new(config: &Config) -> Result<Self, TlsError> {
        let (server, limits) = (&config.server, &config.limits);
        let tls = if server.tls_certificate.is_empty() {
            None
        } else {
            // One is in place already if this is called a second time.
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
            // HTTP/1.1 as without TLS: the limits on time do not reach into a connection of HTTP/2.
            let mut inner = rustls::ServerConfig::clone(&tls.get_inner());
            inner.alpn_protocols = vec![b"http/1.1".to_vec()];
            tls.reload_from_config(Arc::new(inner));
            Some(tls)
        };
        Ok(Self {
            tls,
            keeper: Keeper {
                places: Arc::new(Semaphore::new(possible_connections(limits.connections))),
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

    /// Serves until the handle says that it is enough.
    pub async fn serve(
        self,
        listener: TcpListener,
        handle: Handle<SocketAddr>,
        app: Router,
    ) -> io::Result<()> {
        let mut server = axum_server::from_tcp(listener.into_std()?)?
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
                    .acceptor(self.keeper);
                server.acceptor(acceptor).serve(app).await
            }
            None => server.acceptor(self.keeper).serve(app).await,
        }
    }
}

/// As many as are wanted, if the system lets this process open as many files.
fn possible_connections(wanted: usize) -> usize {
    /// For models, settings, and whatever else is open.
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

/// Lets so many connections in, and drops those that read nothing of what they are sent.
#[derive(Clone)]
struct Keeper {
    places: Arc<Semaphore>,
    /// By address.
    counts: Counts,
    per_address: usize,
    write_timeout: Duration,
}

impl<S> Accept<TcpStream, S> for Keeper {
    type Stream = Connection;
    type Service = S;
    type Future = Ready<io::Result<(Connection, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        let counted = stream.peer_addr().ok().and_then(|peer| {
            let name = neighbourhood(peer.ip()).to_string();
            self.counts.add(name, self.per_address)
        });
        let (Some(place), Some(counted)) = (place, counted) else {
            metrics::connection_refused();
            return ready(Err(io::Error::other(
                "as many connections as may be are open",
            )));
        };
        // Tokens are small and are wanted now.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.write_timeout));
        let connection = Connection {
            stream: Box::pin(stream),
            _place: place,
            _counted: counted,
        };
        ready(Ok((connection, service)))
    }
}

/// A connection and its place among them.
struct Connection {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    _place: OwnedSemaphorePermit,
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
