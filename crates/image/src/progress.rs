//! Progress of long operations, as Docker's JSON message stream shows it.

use serde_json::{Value, json};
use tokio::sync::mpsc;

/// One message: a line of the stream that `docker pull`, `push` and `load`
/// read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// What it is about: a layer's short id, a tag.
    pub id: Option<String>,
    /// What is happening: `Pulling fs layer`, `Loading layer` …
    pub status: Option<String>,
    /// How many bytes are done.
    pub current: Option<u64>,
    /// How many bytes there are, when known.
    pub total: Option<u64>,
    /// Text for the user, printed as it is (`load` and `build`).
    pub stream: Option<String>,
    /// Data for the client program (`push`: tag, digest and size).
    pub aux: Option<Value>,
    /// The operation failed for this reason; the last message then.
    pub error: Option<String>,
}

impl Progress {
    /// A status line that is about nothing in particular.
    #[must_use]
    pub fn status(text: impl Into<String>) -> Self {
        Self { status: Some(text.into()), ..Self::default() }
    }

    /// A status line about `id`.
    #[must_use]
    pub fn about(id: impl Into<String>, status: impl Into<String>) -> Self {
        Self { id: Some(id.into()), status: Some(status.into()), ..Self::default() }
    }

    /// How far the work on `id` has come, in bytes.
    #[must_use]
    pub fn bytes(
        id: impl Into<String>,
        status: impl Into<String>,
        current: u64,
        total: Option<u64>,
    ) -> Self {
        Self { current: Some(current), total, ..Self::about(id, status) }
    }

    /// Text that the client prints as it is; ends with a newline.
    #[must_use]
    pub fn stream(text: impl Into<String>) -> Self {
        Self { stream: Some(text.into()), ..Self::default() }
    }

    /// The operation failed.
    #[must_use]
    pub fn error(text: impl Into<String>) -> Self {
        Self { error: Some(text.into()), ..Self::default() }
    }

    /// The message as dockerd writes it, without the line end.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut message = serde_json::Map::new();
        if let Some(text) = &self.stream {
            message.insert("stream".into(), json!(text));
        }
        if let Some(status) = &self.status {
            message.insert("status".into(), json!(status));
            let mut detail = serde_json::Map::new();
            for (key, value) in [("current", self.current), ("total", self.total)] {
                if let Some(value) = value.filter(|v| *v > 0) {
                    detail.insert(key.into(), json!(value));
                }
            }
            if self.id.is_some() || !detail.is_empty() {
                message.insert("progressDetail".into(), Value::Object(detail));
            }
            if let Some(bar) = self.bar() {
                message.insert("progress".into(), json!(bar));
            }
        }
        if let Some(id) = &self.id {
            message.insert("id".into(), json!(id));
        }
        if let Some(aux) = &self.aux {
            message.insert("aux".into(), aux.clone());
        }
        if let Some(error) = &self.error {
            message.insert("errorDetail".into(), json!({ "message": error }));
            message.insert("error".into(), json!(error));
        }
        Value::Object(message)
    }

    /// Docker's fifty characters wide bar with the figures behind it.
    fn bar(&self) -> Option<String> {
        let current = self.current.filter(|c| *c > 0)?;
        let Some(total) = self.total.filter(|t| *t >= current) else {
            return Some(format!("{:>8}", human_size(current)));
        };
        let filled = usize::try_from(current.saturating_mul(50) / total).unwrap_or(50);
        let (done, rest) = ("=".repeat(filled), " ".repeat(50 - filled));
        Some(format!("[{done}>{rest}] {:>8}/{}", human_size(current), human_size(total)))
    }
}

/// A size as Docker's `HumanSize` writes it: four digits at most, powers of
/// 1000.
fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    let decimals = match size {
        s if s < 10.0 => 3,
        s if s < 100.0 => 2,
        s if s < 1000.0 => 1,
        _ => 0,
    };
    let text = format!("{size:.decimals$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        text.as_str()
    };
    format!("{text}{}", UNITS[unit])
}

/// Where progress goes. Cheap to clone; a listener that has gone away or is
/// slow never holds the work up: figures in between are dropped then, other
/// messages wait for room.
#[derive(Debug, Clone, Default)]
pub struct ProgressSink(Option<mpsc::Sender<Progress>>);

impl ProgressSink {
    /// Nobody listens.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// To `sender`.
    #[must_use]
    pub fn new(sender: mpsc::Sender<Progress>) -> Self {
        Self(Some(sender))
    }

    /// Hands a message over, waiting for room, from async code.
    pub async fn send(&self, message: Progress) {
        if let Some(sender) = &self.0 {
            // A listener that left misses nothing.
            let _ = sender.send(message).await;
        }
    }

    /// As [`ProgressSink::send`], from a blocking thread.
    pub fn send_blocking(&self, message: Progress) {
        if let Some(sender) = &self.0 {
            let _ = sender.blocking_send(message);
        }
    }

    /// Hands a figure over if there is room, and drops it otherwise.
    pub fn try_send(&self, message: Progress) {
        if let Some(sender) = &self.0 {
            let _ = sender.try_send(message);
        }
    }

    /// Whether somebody listens.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.as_ref().is_some_and(|s| !s.is_closed())
    }
}

impl From<mpsc::Sender<Progress>> for ProgressSink {
    fn from(sender: mpsc::Sender<Progress>) -> Self {
        Self::new(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_dockers_shape() {
        let m = Progress::bytes("abc", "Loading layer", 512, Some(1024)).to_json();
        assert_eq!(m["progressDetail"], json!({"current": 512, "total": 1024}));
        assert_eq!(
            m["progress"],
            "[=========================>                         ]     512B/1.024kB"
        );
        assert_eq!(
            Progress::about("abc", "Download complete").to_json(),
            json!({"status": "Download complete", "progressDetail": {}, "id": "abc"})
        );
        assert_eq!(
            Progress::error("no").to_json(),
            json!({"errorDetail": {"message": "no"}, "error": "no"})
        );
        assert_eq!(Progress::stream("x\n").to_json(), json!({"stream": "x\n"}));
        assert_eq!(human_size(4_600_000), "4.6MB");
        assert_eq!(human_size(999), "999B");
        assert_eq!(human_size(0), "0B");
    }
}
