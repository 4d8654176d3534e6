//! What a session with a container needs beside its streams: its exit code,
//! our signals, the size of our terminal.

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use futures_util::stream::{select_all, unfold};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncReadExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::app::App;
use crate::client::{Client, Stream, nothing, reader};
use crate::query::{Query, name};
use crate::stream::Streams;
use crate::terminal;

/// Signals that are never handed on: they can't be caught, or they are about
/// this process (a child of ours, a closed pipe, a fault).
const OWN_SIGNALS: [i32; 9] = [4, 5, 8, 9, 11, 13, 17, 19, 23];

/// A task that ends with its owner.
#[derive(Debug)]
pub struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Hands our signals on to a container until this is dropped.
pub fn proxy_signals(client: &Client, id: &str) -> Task {
    let (client, id) = (client.clone(), name(id));
    let caught = (1..=31).filter(|n| !OWN_SIGNALS.contains(n)).filter_map(|number| {
        let signal = signal(SignalKind::from_raw(number)).ok()?;
        Some(Box::pin(unfold(signal, move |mut signal| async move {
            signal.recv().await.map(|()| (number, signal))
        })))
    });
    let mut signals = select_all(caught.collect::<Vec<_>>());
    Task(tokio::spawn(async move {
        while let Some(number) = signals.next().await {
            let query = Query::new().set("signal", number.to_string());
            // The container may not run yet or no more; its exit code will say.
            let _ = client.post(&format!("/containers/{id}/kill"), &query, None).await;
        }
    }))
}

/// Gives a terminal the size of ours, now and whenever it changes. `path`:
/// `/containers/ID` or `/exec/ID`.
pub fn follow_size(client: &Client, path: String) -> Task {
    let client = client.clone();
    Task(tokio::spawn(async move {
        let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
        loop {
            if let Some((rows, columns)) = terminal::size() {
                let query = Query::new().set("h", rows.to_string()).set("w", columns.to_string());
                let _ = client.post(&format!("{path}/resize"), &query, None).await;
            }
            if changes.recv().await.is_none() {
                return;
            }
        }
    }))
}

/// A container's exit, waited for from before its start.
pub struct Exit(Box<dyn AsyncBufRead + Send + Unpin>);

impl Exit {
    /// Begins to wait. `condition`: `not-running`, `next-exit` or `removed`.
    ///
    /// # Errors
    /// When the daemon refuses.
    pub async fn of(client: &Client, id: &str, condition: &str) -> Result<Self> {
        let query = Query::new().set("condition", condition);
        let path = format!("/containers/{}/wait", name(id));
        let headers = http::HeaderMap::new();
        let answer = client.send(http::Method::POST, &path, &query, headers, nothing()).await?;
        Ok(Self(Box::new(reader(answer))))
    }

    /// The exit code.
    ///
    /// # Errors
    /// When the connection breaks or the daemon says what went wrong.
    pub async fn code(mut self) -> Result<i64> {
        let mut text = Vec::new();
        self.0.read_to_end(&mut text).await?;
        let answer: Value = serde_json::from_slice(&text)
            .context("the daemon ended the connection before the container ended")?;
        if let Some(message) = answer["Error"]["Message"].as_str().filter(|m| !m.is_empty()) {
            bail!("error waiting for container: {message}");
        }
        answer["StatusCode"].as_i64().context("the daemon's answer has no StatusCode")
    }
}

/// Attaches to a container.
///
/// # Errors
/// When the daemon refuses.
pub async fn attach(
    client: &Client,
    id: &str,
    streams: Streams,
    keys: Option<&str>,
) -> Result<Stream> {
    let query = Query::new()
        .set("stream", "1")
        .flag("stdin", streams.stdin)
        .flag("stdout", streams.stdout)
        .flag("stderr", streams.stderr)
        .opt("detachKeys", keys);
    client.hijack(&format!("/containers/{}/attach", name(id)), &query, None).await
}

/// The keys that detach: the option, the configuration, docker's default.
///
/// # Errors
/// When they aren't keys.
pub fn detach_keys(app: &App, option: Option<&str>) -> Result<(Option<String>, Vec<u8>)> {
    let named = option.map(str::to_owned).or_else(|| app.config.detach_keys());
    let bytes = terminal::keys(named.as_deref().unwrap_or("ctrl-p,ctrl-q"))?;
    Ok((named, bytes))
}
