//! A plugin of Docker's protocol, as small as can be: a unix socket on which
//! one JSON object answers another.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::Value;

/// A plugin's answer, or its refusal.
pub type PluginAnswer = Result<Value, String>;

/// A plugin that answers until the test's process ends.
#[derive(Debug, Clone)]
pub struct Plugin {
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Plugin {
    /// Starts a plugin on a socket, in the namespaces of the calling thread.
    ///
    /// # Panics
    /// When the socket can't be made.
    #[must_use]
    pub fn start(
        socket: &Path,
        mut answer: impl FnMut(&str, &Value) -> PluginAnswer + Send + 'static,
    ) -> Self {
        let listener = UnixListener::bind(socket).expect("bind the plugin's socket");
        let plugin = Self { asked: Arc::default() };
        let told = plugin.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                // A client that goes away is no concern of the next one.
                let _ = exchange(stream, |method, request| {
                    told.asked().push((method.to_owned(), request.clone()));
                    answer(method, request)
                });
            }
        });
        plugin
    }

    /// What it was asked so far, in its order: methods and their requests.
    #[must_use]
    pub fn seen(&self) -> Vec<(String, Value)> {
        self.asked().clone()
    }

    /// The methods that it was asked for so far.
    #[must_use]
    pub fn methods(&self) -> Vec<String> {
        self.asked().iter().map(|(method, _)| method.clone()).collect()
    }

    fn asked(&self) -> MutexGuard<'_, Vec<(String, Value)>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One HTTP exchange.
fn exchange(
    stream: UnixStream,
    answer: impl FnOnce(&str, &Value) -> PluginAnswer,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let method = line.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let (status, text) = match answer(&method, &request) {
        Ok(answer) => ("200 OK", answer.to_string()),
        Err(e) => ("500 Internal Server Error", serde_json::json!({ "Err": e }).to_string()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", text.len());
    reader.get_mut().write_all(format!("{head}{text}").as_bytes())
}
