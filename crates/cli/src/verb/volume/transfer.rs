//! `volume send`, `volume receive`: moving volumes between daemons, which
//! docker's command can't.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::{Result, bail};
use clap::Args;
use http::{HeaderValue, Method, header};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

use super::care::split;
use crate::app::App;
use crate::client::{headers, reader, streamed};
use crate::out;
use crate::progress::{self, Target};
use crate::query::{Query, name};
use crate::verb::images::options;
use crate::verb::transfer::{open, refuse_terminal, write};

/// Write a volume as a stream for `volume receive`: all of it, then what changed
#[derive(Debug, Args)]
#[command(
    override_usage = "sampan volume send [OPTIONS] VOLUME[@SNAPSHOT] | sampan volume receive [VOLUME]"
)]
pub struct Send {
    /// Hold still the containers that write: pause them, or run the commands
    /// of their labels sampan.volume.freeze.pre and .post
    #[arg(long)]
    freeze: bool,
    /// Send everything, also when the volume was sent before
    #[arg(long, conflicts_with = "since")]
    full: bool,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Send what changed since this stream, instead of the last one
    #[arg(long, value_name = "STREAM")]
    since: Option<String>,
    /// The volume, or one of its snapshots
    #[arg(value_name = "VOLUME[@SNAPSHOT]")]
    volume: String,
}

impl Send {
    /// Sends it.
    pub async fn run(self, app: &App) -> Result<()> {
        refuse_terminal("send", self.output.as_deref())?;
        let (volume, snapshot) = split(&self.volume);
        let query = Query::new()
            .opt("snapshot", snapshot)
            .opt("since", self.since.as_ref())
            .flag("full", self.full)
            .flag("freeze", self.freeze);
        let path = format!("/sampan/volumes/{}/send", name(volume));
        let client = app.client().await?;
        let pieces = client.get_stream(&path, &query).await?;
        let counted = Counted { input: Box::pin(pieces), bar: bar(volume, self.quiet) };
        write(counted, self.output.as_deref()).await
    }
}

/// Make or change a volume as a stream of `volume send` says
#[derive(Debug, Args)]
pub struct Receive {
    /// Read this file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Set metadata of a new volume: KEY[=VALUE]
    #[arg(long)]
    label: Vec<String>,
    /// An option of a new volume: KEY=VALUE
    #[arg(short, long, value_name = "OPTION")]
    opt: Vec<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Let a stream with everything take the place of what the volume holds
    #[arg(long)]
    replace: bool,
    /// The volume's name; the one that it has at the sender when none is given
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
}

impl Receive {
    /// Receives it.
    pub async fn run(self, app: &App) -> Result<()> {
        let input: Box<dyn AsyncRead + std::marker::Send + Unpin> = match &self.input {
            Some(path) => Box::new(open(path).await?),
            None if crate::terminal::stdin_is_terminal() => {
                bail!(
                    "a stream of `sampan volume send` is expected on standard input, not a terminal"
                );
            }
            None => Box::new(tokio::io::stdin()),
        };
        let map = |given: &[String]| (!given.is_empty()).then(|| options(given));
        let query = Query::new()
            .opt("name", self.volume.as_ref())
            .flag("replace", self.replace)
            .opt("labels", map(&self.label))
            .opt("options", map(&self.opt));
        let client = app.client().await?;
        let kind = HeaderValue::from_static("application/octet-stream");
        let headers = headers(header::CONTENT_TYPE, kind);
        let path = "/sampan/volumes/receive";
        let answer = client.send(Method::POST, path, &query, headers, streamed(input)).await?;
        let target = if self.quiet { Target::Quiet } else { Target::Stderr };
        let results = progress::show(reader(answer), target).await?;
        let received = results.last().map(|v| v["Name"].as_str().unwrap_or_default());
        out::line(received.unwrap_or_default())
    }
}

/// Shows how much was sent, on a terminal.
fn bar(volume: &str, quiet: bool) -> ProgressBar {
    use std::io::IsTerminal;
    let target = if quiet || !std::io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let bar = ProgressBar::with_draw_target(None, target).with_prefix(volume.to_owned());
    let style = ProgressStyle::with_template("{prefix}: Sending {bytes} ({bytes_per_sec})");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// What is read, counted.
struct Counted<R> {
    input: Pin<Box<R>>,
    bar: ProgressBar,
}

impl<R: AsyncBufRead> AsyncRead for Counted<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = self.input.as_mut().poll_read(cx, buffer);
        self.bar.inc((buffer.filled().len() - before) as u64);
        done
    }
}

impl<R: AsyncBufRead> AsyncBufRead for Counted<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.get_mut().input.as_mut().poll_fill_buf(cx)
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        self.bar.inc(amount as u64);
        self.input.as_mut().consume(amount);
    }
}
