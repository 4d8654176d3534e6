//! The event bus: what happened, to whoever listens, with a short memory.
//!
//! Be aware:
//! - Publishing never waits. A listener that is more than [`KEPT`] events
//!   behind loses the oldest and goes on with what is there.
//! - The memory is the daemon's: it begins anew with each start, as Docker's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use futures_util::stream::{self, BoxStream, StreamExt};
use sampan_types::{Actor, Event, EventType, Timestamp};
use tokio::sync::broadcast;

/// How many events are kept for `--since` and for slow listeners.
pub const KEPT: usize = 1024;

/// The bus.
#[derive(Debug)]
pub struct EventBus {
    /// The last events, oldest first. Locked by publishers and by those who
    /// subscribe, for as long as a push or a copy takes: publishing under the
    /// same lock is what keeps replay and live events without gap or double.
    ring: Mutex<VecDeque<Event>>,
    live: broadcast::Sender<Event>,
}

impl Default for EventBus {
    fn default() -> Self {
        let (live, _) = broadcast::channel(KEPT);
        Self { ring: Mutex::default(), live }
    }
}

/// What a listener gets.
pub type EventStream = BoxStream<'static, Event>;

impl EventBus {
    /// Publishes something that happened now.
    pub fn publish<I, K, V>(&self, kind: EventType, action: &str, id: &str, attributes: I)
    where
        I: IntoIterator<Item = (K, V)>,
        K: Into<String>,
        V: Into<String>,
    {
        let attributes: BTreeMap<String, String> =
            attributes.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        self.send(Event {
            kind,
            action: action.to_owned(),
            actor: Actor { id: id.to_owned(), attributes },
            time: Timestamp::now(),
        });
    }

    /// Publishes an event.
    pub fn send(&self, event: Event) {
        tracing::debug!(kind = event.kind.as_str(), action = %event.action, id = %event.actor.id, "event");
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(event.clone());
        // Nobody listening is no error.
        let _ = self.live.send(event);
    }

    /// Events from `since` on (`None`: only new ones), without end. Whoever
    /// has an `until` ends the stream itself.
    #[must_use]
    pub fn subscribe(&self, since: Option<Timestamp>) -> EventStream {
        let (past, live) = {
            let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            let past: Vec<Event> = match since {
                Some(since) => ring.iter().filter(|e| e.time >= since).cloned().collect(),
                None => Vec::new(),
            };
            (past, self.live.subscribe())
        };
        let live = stream::unfold(live, |mut live| async move {
            loop {
                match live.recv().await {
                    Ok(event) => return Some((event, live)),
                    Err(broadcast::error::RecvError::Lagged(lost)) => {
                        tracing::warn!(lost, "a listener of events is too slow");
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        stream::iter(past).chain(live).boxed()
    }

    /// The remembered events of a span of time, oldest first.
    #[must_use]
    pub fn past(&self, since: Timestamp, until: Timestamp) -> Vec<Event> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().filter(|e| e.time >= since && e.time <= until).cloned().collect()
    }

    /// How many listen, for `info`.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.live.receiver_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> [(String, String); 0] {
        []
    }

    #[tokio::test]
    async fn replay_and_live_have_no_gap() {
        let bus = EventBus::default();
        for i in 0..3 {
            bus.publish(EventType::Container, &format!("a{i}"), "x", none());
        }
        let stream = bus.subscribe(Some(Timestamp::NEVER));
        bus.publish(EventType::Container, "a3", "x", none());
        let seen: Vec<String> = stream.take(4).map(|e| e.action).collect().await;
        assert_eq!(seen, ["a0", "a1", "a2", "a3"]);
    }

    #[tokio::test]
    async fn the_memory_is_bounded() {
        let bus = EventBus::default();
        for i in 0..KEPT + 10 {
            bus.publish(EventType::Image, &i.to_string(), "x", [("k", "v")]);
        }
        let all = bus.past(Timestamp::NEVER, Timestamp::now());
        assert_eq!(all.len(), KEPT);
        assert_eq!(all[0].action, "10");
        assert_eq!(all[0].actor.attributes["k"], "v");
    }
}
