//! The three kinds of connection behind one type.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// A connection.
pub(crate) enum Io {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Io {
    /// Resolves when the peer is gone altogether, or the connection broke;
    /// not when it only closed its writing side. On TCP a peer that closed
    /// in good order is noticed by the keep-alive probes.
    ///
    /// It watches a copy of the descriptor, which has a readiness of its own:
    /// clearing that takes nothing from those who read and write.
    pub(crate) fn hung_up(&self) -> impl Future<Output = ()> + use<> {
        let copy = self.copy();
        async move {
            match copy {
                Ok(copy) => copy.hung_up().await,
                Err(error) => {
                    tracing::warn!(%error, "cannot watch a connection for its end");
                    std::future::pending().await
                }
            }
        }
    }

    fn copy(&self) -> io::Result<Copied> {
        let tcp = |s: &TcpStream| {
            let fd = s.as_fd().try_clone_to_owned()?;
            TcpStream::from_std(fd.into()).map(Copied::Tcp)
        };
        match self {
            Self::Unix(s) => {
                let fd = s.as_fd().try_clone_to_owned()?;
                UnixStream::from_std(fd.into()).map(Copied::Unix)
            }
            Self::Tcp(s) => tcp(s),
            Self::Tls(s) => tcp(s.get_ref().0),
        }
    }
}

/// A second descriptor of a connection's socket.
enum Copied {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Copied {
    async fn hung_up(self) {
        loop {
            let ready = match &self {
                Self::Unix(s) => s.ready(Interest::WRITABLE).await,
                Self::Tcp(s) => s.ready(Interest::WRITABLE).await,
            };
            // The kernel reports a hang-up as the end of writing.
            if ready.is_ok_and(|r| !r.is_write_closed()) {
                self.wait_for_change();
            } else {
                return;
            }
        }
    }

    /// Forgets that one could write: the next wait ends with the next change.
    fn wait_for_change(&self) {
        let again = || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) };
        // The error is ours, and the effect is what counts.
        let _ = match self {
            Self::Unix(s) => s.try_io(Interest::WRITABLE, again),
            Self::Tcp(s) => s.try_io(Interest::WRITABLE, again),
        };
    }
}

/// Small writes at once, and probes that find dead peers within a minute.
pub(crate) fn prepare_tcp(stream: &TcpStream) {
    let result = stream.set_nodelay(true).and_then(|()| {
        setsockopt(stream, sockopt::KeepAlive, &true)?;
        setsockopt(stream, sockopt::TcpKeepIdle, &30)?;
        setsockopt(stream, sockopt::TcpKeepInterval, &10)?;
        setsockopt(stream, sockopt::TcpKeepCount, &3)?;
        Ok(())
    });
    if let Err(error) = result {
        tracing::debug!(%error, "cannot set options of a TCP connection");
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Tls(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
