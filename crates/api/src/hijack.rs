//! Taking a connection over from HTTP, for attach and exec: after the head of
//! the answer the socket carries the process's raw input and output.
//!
//! A handler calls [`Hijacker::take_over`]; the task that owns the connection
//! takes the socket out of hyper, together with what hyper had already read,
//! writes the head itself (`101 UPGRADED`, or `200 OK` for clients that did
//! not ask for an upgrade: hyper would put such an answer into chunks) and
//! runs [`pump`].
//!
//! Be aware:
//! - The docker CLI closes its writing side as soon as its stdin ends, or at
//!   once without `-i`, and goes on reading. So the end of input ends nothing
//!   but input; that the client is really gone shows in a hang-up of the
//!   socket ([`Io::hung_up`]), not in a read.
//! - The session is dropped when the client is gone: the engine's streams see
//!   that and detach.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::{HeaderMap, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::frame::{Channel, Framing};
use crate::gate;
use crate::server::Io;
use crate::version::ApiVersion;

/// How much is read from a client at once, in bytes.
const READ_SIZE: usize = 16 * 1024;
/// How long a client may take to leave after the end of the output.
const LINGER: Duration = Duration::from_secs(2);
/// How many ready pieces of output go into one write.
const WRITE_BATCH: usize = 16;

/// Where a client's input goes.
pub(crate) trait Input: Send {
    /// Hands on one piece. False when nobody reads any more.
    fn write(&mut self, piece: Bytes) -> BoxFuture<'_, bool>;
    /// The client's input has ended.
    fn close(&mut self) -> BoxFuture<'_, ()>;
}

/// What runs on a connection that was taken over.
pub(crate) struct Session {
    pub(crate) framing: Framing,
    /// Ends when the process's output ends, or when the client detached.
    pub(crate) output: BoxStream<'static, (Channel, Bytes)>,
    /// None: input is read and thrown away.
    pub(crate) input: Option<Box<dyn Input>>,
}

/// A session and the head of the answer before it.
pub(crate) struct Takeover {
    head: Bytes,
    session: Session,
}

/// A connection's offer to be taken over. In the extensions of each request.
#[derive(Clone)]
pub(crate) struct Hijacker(mpsc::Sender<Takeover>);

impl Hijacker {
    /// A hijacker and the end on which the connection waits for it.
    pub(crate) fn pair() -> (Self, mpsc::Receiver<Takeover>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    /// Takes the connection over. Does not return: the request's future is
    /// dropped when the connection leaves HTTP.
    pub(crate) async fn take_over(
        &self,
        request: &HeaderMap,
        version: ApiVersion,
        session: Session,
    ) -> ApiError {
        let upgrade = request.contains_key(header::UPGRADE);
        let head = head(upgrade, session.framing, version);
        if self.0.send(Takeover { head, session }).await.is_ok() {
            std::future::pending::<()>().await;
        }
        ApiError::new(sampan_types::ErrorKind::System, "the connection is closing")
    }
}

/// The head of the answer, as dockerd writes it.
fn head(upgrade: bool, framing: Framing, version: ApiVersion) -> Bytes {
    use std::fmt::Write as _;
    let mut text = if upgrade {
        format!(
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: {}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n",
            framing.content_type(version)
        )
    } else {
        String::from("HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n")
    };
    for (name, value) in gate::COMMON_HEADERS {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("\r\n");
    text.into()
}

/// Runs a session until its output ends, the client is gone, or the daemon
/// stops. `read_ahead` is what hyper had read behind the request.
pub(crate) async fn pump(io: Io, read_ahead: Bytes, t: Takeover, stop: CancellationToken) {
    let hung_up = io.hung_up();
    let (reader, writer) = tokio::io::split(io);
    let Session { framing, output, input } = t.session;
    let mut client = std::pin::pin!(async {
        pump_input(reader, read_ahead, input).await;
        hung_up.await;
    });
    tokio::select! {
        () = pump_output(writer, t.head, framing, output) => {}
        () = &mut client => return,
        () = stop.cancelled() => return,
    }
    // The client reads the rest and leaves. What it still sends has to be
    // read, or closing would tell it of a reset.
    let _ = tokio::time::timeout(LINGER, client).await;
}

/// Writes the head and all output, then closes the writing side.
async fn pump_output(
    mut writer: WriteHalf<Io>,
    head: Bytes,
    framing: Framing,
    output: BoxStream<'static, (Channel, Bytes)>,
) {
    if writer.write_all(&head).await.is_err() || writer.flush().await.is_err() {
        return;
    }
    let mut output = output.ready_chunks(WRITE_BATCH);
    let mut buffer = BytesMut::new();
    while let Some(pieces) = output.next().await {
        buffer.clear();
        for (channel, piece) in &pieces {
            framing.put(&mut buffer, *channel, piece);
        }
        if writer.write_all(&buffer).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
    // The client may be gone already: nothing is lost by that.
    let _ = writer.shutdown().await;
}

/// Hands on input until the client closes its writing side. Goes on reading
/// when nobody wants the input: the end still has to be seen.
async fn pump_input(
    mut reader: ReadHalf<Io>,
    read_ahead: Bytes,
    mut input: Option<Box<dyn Input>>,
) {
    let mut buffer = BytesMut::from(&read_ahead[..]);
    loop {
        if !buffer.is_empty() {
            let piece = buffer.split().freeze();
            if let Some(to) = &mut input
                && !to.write(piece).await
            {
                input = None;
            }
        }
        buffer.reserve(READ_SIZE);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => break,
            Ok(_) => {}
            // Without a close: this is a broken connection, not an end of input.
            Err(_) => return,
        }
    }
    if let Some(to) = &mut input {
        to.close().await;
    }
}
