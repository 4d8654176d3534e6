//! The server over real sockets, with handlers that stand in for the engine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::error::ApiError;
use crate::frame::{Channel, Framing};
use crate::hijack::{Hijacker, Input, Session};
use crate::version::ApiVersion;

/// What a test and its handlers share.
#[derive(Clone, Default)]
struct Stage {
    /// Cancelled when a session or a body was dropped.
    dropped: CancellationToken,
    /// Lets `late` speak.
    go: Arc<Notify>,
}

/// Input that comes back as output; its end is said in words.
struct Echo(mpsc::Sender<(Channel, Bytes)>);

impl Input for Echo {
    fn write(&mut self, piece: Bytes) -> BoxFuture<'_, bool> {
        async move { self.0.send((Channel::Stdout, piece)).await.is_ok() }.boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        async move {
            let _ = self.0.send((Channel::Stderr, Bytes::from_static(b"closed"))).await;
        }
        .boxed()
    }
}

fn channel_stream(
    receiver: mpsc::Receiver<(Channel, Bytes)>,
    guard: DropGuard,
) -> stream::BoxStream<'static, (Channel, Bytes)> {
    stream::unfold((receiver, guard), |(mut r, g)| async move {
        r.recv().await.map(|piece| (piece, (r, g)))
    })
    .boxed()
}

/// Echoes input, and goes on after the input's end until `go`.
async fn attach(
    State(stage): State<Stage>,
    Extension(hijacker): Extension<Hijacker>,
    Extension(version): Extension<ApiVersion>,
    headers: HeaderMap,
) -> ApiError {
    let (sender, receiver) = mpsc::channel(4);
    let (late, go) = (sender.clone(), Arc::clone(&stage.go));
    tokio::spawn(async move {
        go.notified().await;
        let _ = late.send((Channel::Stdout, Bytes::from_static(b"late"))).await;
    });
    let session = Session {
        framing: Framing::Multiplexed,
        output: channel_stream(receiver, stage.dropped.drop_guard()),
        input: Some(Box::new(Echo(sender))),
    };
    hijacker.take_over(&headers, version, session).await
}

/// A body without end.
async fn endless(State(stage): State<Stage>) -> axum::body::Body {
    let guard = stage.dropped.drop_guard();
    let silence = stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"first\n")) })
        .chain(stream::pending().map(move |x: Result<Bytes, _>| {
            let _ = &guard;
            x
        }));
    axum::body::Body::from_stream(silence)
}

async fn fall() -> &'static str {
    panic!("on purpose")
}

struct Server {
    path: std::path::PathBuf,
    stage: Stage,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

async fn server() -> Server {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    let stage = Stage::default();
    let router = Router::new()
        .route("/containers/{id}/attach", post(attach))
        .route("/endless", get(endless))
        .route("/panic", get(fall))
        .with_state(stage.clone())
        .merge(crate::routes::without_engine());
    let listeners = bind(&[Address::Unix(path.clone())], None, None).await.unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve_router(listeners, router, stop.clone()));
    Server { path, stage, stop, task, _directory: directory }
}

async fn connect(path: &Path) -> UnixStream {
    UnixStream::connect(path).await.unwrap()
}

/// Reads until `end` was seen, or to the end of the stream.
async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), end: &[u8]) -> Vec<u8> {
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    let reading = async {
        while !seen.windows(end.len()).any(|w| w == end) {
            match stream.read(&mut buffer).await.unwrap() {
                0 => break,
                n => seen.extend_from_slice(&buffer[..n]),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading).await.expect("nothing came");
    seen
}

async fn ask(path: &Path, request: &str) -> String {
    let mut stream = connect(path).await;
    let text = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("took too long")
}

const UPGRADE: &str = "POST /v1.44/containers/c/attach?stream=1 HTTP/1.1\r\nHost: x\r\n\
                       Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn hijack_survives_a_half_close() {
    let s = server().await;
    let mut client = connect(&s.path).await;
    // Input right behind the request: hyper has read it already.
    client.write_all(format!("{UPGRADE}early").as_bytes()).await.unwrap();
    let seen = read_until(&mut client, b"early").await;
    let text = String::from_utf8_lossy(&seen);
    assert!(text.starts_with(
        "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n\
         Connection: Upgrade\r\nUpgrade: tcp\r\n"
    ));
    assert!(text.contains("Api-Version: 1.53\r\n"));
    assert!(seen.ends_with(b"\r\n\r\n\x01\0\0\0\0\0\0\x05early"));
    client.write_all(b"more").await.unwrap();
    assert_eq!(read_until(&mut client, b"more").await, b"\x01\0\0\0\0\0\0\x04more");
    client.shutdown().await.unwrap();
    assert_eq!(read_until(&mut client, b"closed").await, b"\x02\0\0\0\0\0\0\x06closed");
    // The writing side is closed, the reading side goes on.
    s.stage.go.notify_one();
    assert_eq!(read_until(&mut client, b"late").await, b"\x01\0\0\0\0\0\0\x04late");
}

#[tokio::test]
async fn hijack_without_upgrade_is_a_raw_200() {
    let s = server().await;
    let mut client = connect(&s.path).await;
    client.write_all(b"POST /containers/c/attach HTTP/1.1\r\nHost: x\r\n\r\nin").await.unwrap();
    let seen = read_until(&mut client, b"\x02in").await;
    let text = String::from_utf8_lossy(&seen);
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n")
    );
    assert!(!text.contains("chunked"));
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_even_after_a_half_close() {
    for half_close_first in [false, true] {
        let s = server().await;
        let mut client = connect(&s.path).await;
        client.write_all(UPGRADE.as_bytes()).await.unwrap();
        read_until(&mut client, b"\r\n\r\n").await;
        if half_close_first {
            client.shutdown().await.unwrap();
            read_until(&mut client, b"closed").await;
        }
        assert!(!s.stage.dropped.is_cancelled());
        drop(client);
        within(s.stage.dropped.cancelled()).await;
    }
}

#[tokio::test]
async fn a_body_is_dropped_with_its_client() {
    let s = server().await;
    let mut client = connect(&s.path).await;
    client.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_until(&mut client, b"first").await;
    drop(client);
    within(s.stage.dropped.cancelled()).await;
}

#[tokio::test]
async fn shutdown_ends_sessions_and_removes_the_socket() {
    let s = server().await;
    let mut idle = connect(&s.path).await;
    let mut client = connect(&s.path).await;
    client.write_all(UPGRADE.as_bytes()).await.unwrap();
    read_until(&mut client, b"\r\n\r\n").await;
    s.stop.cancel();
    within(s.task).await.unwrap();
    assert!(!s.path.exists());
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn versions_paths_and_methods() {
    let s = server().await;
    let answer = ask(&s.path, "GET /v1.20/info").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("client version 1.20 is too old"));
    let answer = ask(&s.path, "GET /v9.9/info").await;
    assert!(
        answer.contains("client version 9.9 is too new. Maximum supported API version is 1.53")
    );
    let answer = ask(&s.path, "GET /v1.44/no/such/page").await;
    assert!(answer.starts_with("HTTP/1.1 404"));
    assert!(answer.ends_with("{\"message\":\"page not found\"}\n"));
    for header in
        ["api-version: 1.53", "docker-experimental: false", "ostype: linux", "server: Sampan/"]
    {
        assert!(answer.contains(header), "{answer}");
    }
    let answer = ask(&s.path, "DELETE /v1.44/swarm/init").await;
    assert!(answer.starts_with("HTTP/1.1 405"));
    assert!(answer.contains("allow: POST"), "{answer}");
    let answer = ask(&s.path, "GET /plugins/%ff/json").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("{\"message\":"), "{answer}");
    let answer = ask(&s.path, "GET /panic").await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
}

#[tokio::test]
async fn what_is_not_there_is_refused_in_words() {
    let s = server().await;
    for path in ["/swarm", "/v1.44/nodes", "/services/web", "/configs", "/tasks?filters={}"] {
        let answer = ask(&s.path, &format!("GET {path}")).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{path}: {answer}");
        assert!(answer.contains("This node is not a swarm manager."));
    }
    let answer = ask(&s.path, "POST /v1.44/build?t=x").await;
    assert!(answer.starts_with("HTTP/1.1 501"));
    assert!(answer.contains("building images is not supported"));
    assert!(ask(&s.path, "GET /plugins").await.ends_with("[]"));
    let answer = ask(&s.path, "GET /plugins/a/b:latest/json").await;
    assert!(answer.contains("plugin \\\"a/b:latest\\\" not found"), "{answer}");
}

#[tokio::test]
async fn an_upload_that_is_refused_gets_its_answer() {
    let s = server().await;
    let mut client = connect(&s.path).await;
    let length = 8 << 20;
    let head = format!("POST /build HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    // As clients that send everything before they read.
    within(client.write_all(&vec![0; length])).await.unwrap();
    let answer = read_until(&mut client, b"docker load").await;
    assert!(answer.starts_with(b"HTTP/1.1 501"));
    // And the connection goes on.
    client.write_all(b"GET /plugins HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_until(&mut client, b"[]").await;
}

#[tokio::test]
async fn tcp_needs_a_word_on_its_security() {
    let at = Address::Tcp("127.0.0.1:0".parse().unwrap());
    let error = bind(std::slice::from_ref(&at), None, None).await.unwrap_err();
    assert!(error.to_string().contains("--tlsverify"), "{error}");
    let plain = bind(&[at], Some(&TcpSecurity::Plain), None).await.unwrap();
    assert_eq!(plain.tcp_addresses().len(), 1);
}
