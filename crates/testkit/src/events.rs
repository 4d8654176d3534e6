//! The daemon's event stream, to wait on instead of sleeping.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A running `GET /events`, from the moment of its opening.
#[derive(Debug)]
pub struct EventStream {
    child: Child,
    events: mpsc::Receiver<Value>,
    seen: Vec<Value>,
}

impl EventStream {
    pub(crate) fn open(mut curl: Command) -> Self {
        curl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = curl.spawn().unwrap_or_else(|e| panic!("start curl: {e}"));
        let (tell, events) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let lines = BufReader::new(stdout).lines().map_while(Result::ok);
                for event in lines.filter_map(|l| serde_json::from_str(&l).ok()) {
                    if tell.send(event).is_err() {
                        break;
                    }
                }
            });
        }
        Self { child, events, seen: Vec::new() }
    }

    /// Waits for an event `action` (its first word) of the object whose name
    /// or id is `object`; what came before it stays in [`EventStream::seen`].
    ///
    /// # Panics
    /// When it does not come within `limit`.
    #[track_caller]
    pub fn wait(&mut self, action: &str, object: &str, limit: Duration) -> Value {
        let began = Instant::now();
        loop {
            let left = limit.saturating_sub(began.elapsed());
            let Ok(event) = self.events.recv_timeout(left) else {
                panic!(
                    "no event {action} of {object} within {limit:?}; seen: {:#?}",
                    self.actions()
                )
            };
            self.seen.push(event.clone());
            let is_action = event["Action"].as_str().is_some_and(|a| {
                a == action || a.split_once(':').is_some_and(|(head, _)| head == action)
            });
            let actor = &event["Actor"];
            if is_action && (actor["ID"] == object || actor["Attributes"]["name"] == object) {
                return event;
            }
        }
    }

    /// All events so far, as `type action name`.
    #[must_use]
    pub fn actions(&self) -> Vec<String> {
        let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let line = |e: &Value| {
            let name = word(&e["Actor"]["Attributes"]["name"]);
            format!("{} {} {name}", word(&e["Type"]), word(&e["Action"]))
        };
        self.seen.iter().map(line).collect()
    }

    /// All events so far.
    #[must_use]
    pub fn seen(&self) -> &[Value] {
        &self.seen
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
