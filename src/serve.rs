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
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{Handle, Server};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;

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
            Some(tls.map_err(|source| TlsError {
                certificate: server.tls_certificate.clone(),
                key: server.tls_key.clone(),
                source,
            })?)
        };
        Ok(Self {
            tls,
            keeper: Keeper {
                places: Arc::new(Semaphore::new(limits.connections)),
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
        let server = axum_server::from_tcp(listener.into_std()?)?
            .handle(handle)
            .first_request_timeout(self.header_timeout);
        match self.tls {
            Some(tls) => {
                let acceptor = RustlsAcceptor::new(tls)
                    .handshake_timeout(self.header_timeout)
                    .acceptor(self.keeper);
                let server = bounded(
                    server.acceptor(acceptor),
                    self.header_bytes,
                    self.header_timeout,
                );
                server
                    .serve(app.into_make_service_with_connect_info::<SocketAddr>())
                    .await
            }
            None => {
                let server = bounded(
                    server.acceptor(self.keeper),
                    self.header_bytes,
                    self.header_timeout,
                );
                // Without TLS nobody negotiates HTTP/2.
                server
                    .http1_only()
                    .serve(app.into_make_service_with_connect_info::<SocketAddr>())
                    .await
            }
        }
    }
}

/// What a request's head may take.
fn bounded<A>(
    mut server: Server<SocketAddr, A>,
    header_bytes: usize,
    header_timeout: Duration,
) -> Server<SocketAddr, A> {
    let builder = server.http_builder();
    builder
        .http1()
        .header_read_timeout(header_timeout)
        .max_buf_size(header_bytes);
    builder
        .http2()
        .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX));
    server
}

/// Lets so many connections in, and drops those that read nothing of what they are sent.
#[derive(Clone)]
struct Keeper {
    places: Arc<Semaphore>,
    write_timeout: Duration,
}

impl<S> Accept<TcpStream, S> for Keeper {
    type Stream = Connection;
    type Service = S;
    type Future = Ready<io::Result<(Connection, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            metrics::connection_refused();
            return ready(Err(io::Error::other("limits.connections are open")));
        };
        // Tokens are small and are wanted now.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.write_timeout));
        let connection = Connection {
            stream: Box::pin(stream),
            _place: place,
        };
        ready(Ok((connection, service)))
    }
}

/// A connection and its place among them.
struct Connection {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    _place: OwnedSemaphorePermit,
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
