//! The daemon's progress messages: bars on a terminal, lines elsewhere.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// Where the messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Standard error: what isn't the result of the command.
    Stderr,
    /// Nowhere; only failures count.
    Quiet,
}

/// Shows a stream of messages until its end; returns each message's `aux`.
///
/// # Errors
/// What the daemon says went wrong in the middle.
pub async fn show(input: impl AsyncBufRead + Unpin, target: Target) -> Result<Vec<Value>> {
    let mut screen = Screen::new(target);
    let mut lines = input.lines();
    let mut results = Vec::new();
    while let Some(line) = lines.next_line().await? {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        let detail = message["errorDetail"]["message"].as_str().or(message["error"].as_str());
        if let Some(error) = detail {
            screen.end();
            bail!("{}", error.trim_end());
        }
        if !message["aux"].is_null() {
            results.push(message["aux"].clone());
            continue;
        }
        screen.show(&message)?;
    }
    screen.end();
    Ok(results)
}

struct Screen {
    target: Target,
    /// `None`: lines.
    bars: Option<MultiProgress>,
    by_id: HashMap<String, ProgressBar>,
}

impl Screen {
    fn new(target: Target) -> Self {
        use std::io::IsTerminal;
        let (is_terminal, draw) = match target {
            Target::Stdout => (std::io::stdout().is_terminal(), ProgressDrawTarget::stdout()),
            Target::Stderr => (std::io::stderr().is_terminal(), ProgressDrawTarget::stderr()),
            Target::Quiet => (false, ProgressDrawTarget::hidden()),
        };
        let bars = is_terminal.then(|| MultiProgress::with_draw_target(draw));
        Self { target, bars, by_id: HashMap::new() }
    }

    fn show(&mut self, message: &Value) -> Result<()> {
        let text = |key: &str| message[key].as_str().unwrap_or_default();
        let (id, status, stream) = (text("id"), text("status"), text("stream"));
        let detail = &message["progressDetail"];
        match &self.bars {
            Some(bars) if !id.is_empty() => {
                let bar = self.by_id.entry(id.to_owned()).or_insert_with(|| {
                    let bar = bars.add(ProgressBar::no_length());
                    bar.set_prefix(id.to_owned());
                    bar
                });
                advance(bar, status, detail);
                Ok(())
            }
            _ if has_progress(message) => Ok(()),
            _ => {
                let name = if id.is_empty() { String::new() } else { format!("{id}: ") };
                let line =
                    if stream.is_empty() { format!("{name}{status}\n") } else { stream.to_owned() };
                self.print(&line)
            }
        }
    }

    fn print(&self, text: &str) -> Result<()> {
        let write = || match self.target {
            Target::Stdout => crate::out::text(text),
            Target::Stderr => Ok(std::io::stderr().write_all(text.as_bytes())?),
            Target::Quiet => Ok(()),
        };
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// Leaves the bars as they are.
    fn end(&mut self) {
        for bar in self.by_id.values() {
            bar.abandon();
        }
    }
}

/// Lines would be flooded by every step of a bar.
fn has_progress(message: &Value) -> bool {
    let detail = &message["progressDetail"];
    let is_set = |key: &str| detail[key].as_i64().is_some_and(|n| n > 0);
    is_set("current")
        || is_set("total")
        || message["progress"].as_str().is_some_and(|p| !p.is_empty())
}

fn advance(bar: &ProgressBar, status: &str, detail: &Value) {
    let style = |template: &str| {
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    };
    let current = detail["current"].as_u64().unwrap_or_default();
    match detail["total"].as_u64() {
        Some(total) if total > 0 => {
            bar.set_style(
                style("{prefix}: {msg} [{bar:30}] {bytes}/{total_bytes}").progress_chars("=> "),
            );
            bar.set_length(total);
            bar.set_position(current.min(total));
        }
        _ if current > 0 => {
            bar.set_style(style("{prefix}: {msg} {spinner} {bytes}"));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar.set_position(current);
        }
        _ => {
            bar.disable_steady_tick();
            bar.set_style(style("{prefix}: {msg}"));
        }
    }
    bar.set_message(status.to_owned());
    bar.tick();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failures_and_results() {
        let good = b"{\"status\":\"a\"}\n{\"aux\":{\"ID\":\"x\"}}\n".as_slice();
        assert_eq!(show(good, Target::Quiet).await.unwrap()[0]["ID"], "x");
        let bad = b"{\"errorDetail\":{\"message\":\"no\"},\"error\":\"no\"}\n".as_slice();
        assert_eq!(show(bad, Target::Quiet).await.unwrap_err().to_string(), "no");
    }
}
