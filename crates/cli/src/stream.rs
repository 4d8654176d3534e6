//! A process's standard streams over a connection that was taken over: what
//! `run`, `attach`, `start -a`, `exec` and `logs` share.
//!
//! Be aware:
//! - Without a terminal the output comes in frames: one byte of stream, three
//!   of zero, four of length (big-endian), the data.
//! - The end of our input closes only the writing half of the connection.
//! - The output decides when it is over; the input may stay open.

use anyhow::{Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use tokio::signal::unix::{SignalKind, signal};

use crate::client::Stream;
use crate::failure::exit;
use crate::terminal::{DetachKeys, Raw};

/// How much is moved at once, in bytes.
const PIECE: usize = 32 * 1024;

/// Which of our streams take part.
#[derive(Debug, Clone, Copy, Default)]
pub struct Streams {
    /// Send our input.
    pub stdin: bool,
    /// Print the output.
    pub stdout: bool,
    /// Print the errors.
    pub stderr: bool,
    /// The process has a terminal: raw bytes instead of frames.
    pub tty: bool,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process's output ended.
    Output,
    /// The user typed the detach keys.
    Detached,
}

/// Joins our standard streams with the process's until its output ends.
///
/// # Errors
/// When the connection breaks or our output can't be written.
pub async fn join(stream: Stream, streams: Streams, detach: Vec<u8>) -> Result<End> {
    let raw = if streams.stdin && streams.tty { Raw::stdin() } else { None };
    let (mut from, mut to) = tokio::io::split(stream);
    let input = async {
        if streams.stdin {
            send_input(&mut to, DetachKeys::new(detach)).await
        } else {
            // The daemon learns that nothing will come.
            let _ = to.shutdown().await;
            End::Output
        }
    };
    let output = print(&mut from, streams);
    let ended = ended_by_signal(raw.is_some());
    tokio::pin!(input, output, ended);
    let mut input_open = true;
    loop {
        tokio::select! {
            done = &mut output => return done.map(|()| End::Output),
            end = &mut input, if input_open => match end {
                End::Detached => return Ok(End::Detached),
                End::Output => input_open = false,
            },
            // Through an error, so that the terminal is restored on the way.
            code = &mut ended => return Err(exit(code)),
        }
    }
}

/// The exit code for a signal that ends this command. Only waits for one when
/// the terminal is raw: else the signal itself may end us.
async fn ended_by_signal(is_raw: bool) -> i64 {
    if !is_raw {
        return std::future::pending().await;
    }
    match (signal(SignalKind::hangup()), signal(SignalKind::terminate())) {
        (Ok(mut hangup), Ok(mut terminate)) => tokio::select! {
            _ = hangup.recv() => 128 + 1,
            _ = terminate.recv() => 128 + 15,
        },
        _ => std::future::pending().await,
    }
}

/// Sends what is typed until it ends, then closes the writing half.
async fn send_input(to: &mut (impl AsyncWrite + Unpin), mut keys: DetachKeys) -> End {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; PIECE];
    while let Ok(count @ 1..) = stdin.read(&mut buffer).await {
        let (typed, is_detached) = keys.feed(&buffer[..count]);
        // The process may be gone; its output says how it ended.
        if to.write_all(&typed).await.is_err() || to.flush().await.is_err() {
            return End::Output;
        }
        if is_detached {
            return End::Detached;
        }
    }
    let _ = to.shutdown().await;
    End::Output
}

/// Prints the process's output until it ends.
///
/// # Errors
/// When the connection breaks or our output can't be written.
pub async fn print(from: &mut (impl AsyncRead + Unpin), streams: Streams) -> Result<()> {
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    let mut buffer = vec![0; PIECE];
    if streams.tty {
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            if streams.stdout || streams.stderr {
                out.write_all(&buffer[..count]).await?;
                out.flush().await?;
            }
        }
    }
    while let Some((kind, mut left)) = frame(from).await? {
        if kind == 3 {
            let mut message = vec![0; left];
            from.read_exact(&mut message).await?;
            bail!("error from daemon in stream: {}", String::from_utf8_lossy(&message));
        }
        while left > 0 {
            let most = left.min(PIECE);
            let count = from.read(&mut buffer[..most]).await?;
            if count == 0 {
                bail!("the connection to the daemon broke in the middle of the output");
            }
            left -= count;
            match kind {
                2 if streams.stderr => err.write_all(&buffer[..count]).await?,
                0 | 1 if streams.stdout => out.write_all(&buffer[..count]).await?,
                _ => {}
            }
        }
        out.flush().await?;
        err.flush().await?;
    }
    Ok(())
}

/// The next frame's stream and length; `None` at the end.
async fn frame(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<(u8, usize)>> {
    let mut head = [0; 8];
    let mut have = 0;
    while have < head.len() {
        let count = from.read(&mut head[have..]).await?;
        if count == 0 && have == 0 {
            return Ok(None);
        }
        if count == 0 {
            bail!("the connection to the daemon broke in the middle of the output");
        }
        have += count;
    }
    if head[0] > 3 {
        bail!("unrecognized stream in the output: {}", head[0]);
    }
    let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    Ok(Some((head[0], usize::try_from(length)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames() {
        let mut input: &[u8] = &[2, 0, 0, 0, 0, 0, 1, 2, 9];
        assert_eq!(frame(&mut input).await.unwrap(), Some((2, 258)));
        let mut empty: &[u8] = &[];
        assert_eq!(frame(&mut empty).await.unwrap(), None);
        let mut broken: &[u8] = &[1, 0];
        assert!(frame(&mut broken).await.is_err());
        let mut wrong: &[u8] = &[9, 0, 0, 0, 0, 0, 0, 0];
        assert!(frame(&mut wrong).await.is_err());
    }
}
