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

use crate::Engine;
use crate::error::Result;
use crate::filters::Filters;

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

/// Which events a client wants.
#[derive(Debug, Clone, Default)]
pub struct EventsQuery {
    /// From when on; `None`: only new ones.
    pub since: Option<Timestamp>,
    /// Until when; `None`: without end.
    pub until: Option<Timestamp>,
    /// Docker's filters.
    pub filters: Filters,
}

/// The filters that `events` knows.
const FILTERS: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// The filters that match an object's id or name.
const OBJECTS: [&str; 9] =
    ["config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume"];

/// Actions whose name is followed by details.
const DETAILED: [&str; 3] = ["health_status", "exec_create", "exec_start"];

impl Engine {
    /// Events, past and to come. The stream ends at `until`.
    ///
    /// # Errors
    /// Unknown filters; `since` after `until`.
    pub fn events(&self, query: EventsQuery) -> Result<EventStream> {
        let EventsQuery { since, until, filters } = query;
        filters.validate(&FILTERS)?;
        if let (Some(since), Some(until)) = (since, until)
            && since > until
        {
            return Err(crate::EngineError::Invalid(
                "`since` time cannot be after `until` time".to_owned(),
            ));
        }
        let now = Timestamp::now();
        if let Some(until) = until.filter(|u| *u <= now) {
            // Nothing new can come: what is remembered is all there is.
            let past = since.map(|since| self.event_bus().past(since, until));
            let past = past.unwrap_or_default().into_iter();
            return Ok(stream::iter(past.filter(move |e| matches(&filters, e))).boxed());
        }
        let matching = self
            .event_bus()
            .subscribe(since)
            .filter(move |e| std::future::ready(matches(&filters, e)));
        let Some(until) = until else { return Ok(matching.boxed()) };
        let end = tokio::time::sleep(until.since(now));
        Ok(matching
            .take_while(move |e| std::future::ready(e.time <= until))
            .take_until(end)
            .boxed())
    }
}

/// Whether an event passes the filters, as dockerd's do.
fn matches(filters: &Filters, event: &Event) -> bool {
    let attribute = |name: &str| event.actor.attributes.get(name).map_or("", String::as_str);
    let action = if DETAILED.iter().any(|d| filters.get("event").any(|v| v == *d)) {
        filters.prefix("event", &event.action)
    } else {
        filters.exact("event", &event.action)
    };
    let objects = OBJECTS.iter().all(|kind| {
        filters.prefix(kind, &event.actor.id) || filters.prefix(kind, attribute("name"))
    });
    let image = || {
        let name = attribute(if event.kind == EventType::Image { "name" } else { "image" });
        [event.actor.id.as_str(), name]
            .iter()
            .any(|n| filters.exact("image", n) || filters.exact("image", without_tag(n)))
    };
    action
        && filters.exact("type", event.kind.as_str())
        && filters.exact("scope", "local")
        && objects
        && image()
        && filters.labels("label", |key| event.actor.attributes.get(key).map(String::as_str))
}

/// An image's name without its tag; a port of the registry is none.
fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((bare, tag)) if !tag.contains('/') => bare,
        _ => name,
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

    #[test]
    fn filters_match_as_dockerds() {
        let event = |kind, action: &str| Event {
            kind,
            action: action.to_owned(),
            actor: Actor {
                id: "abcdef".into(),
                attributes: [("name", "web"), ("image", "host:5000/nginx:1"), ("tier", "front")]
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .into(),
            },
            time: Timestamp::NEVER,
        };
        let with = |name: &str, value: &str| {
            let mut f = Filters::default();
            f.add(name, value);
            f
        };
        let start = event(EventType::Container, "start");
        for (name, value, yes) in [
            ("event", "start", true),
            ("event", "sta", false),
            ("type", "container", true),
            ("type", "network", false),
            ("container", "web", true),
            ("container", "abc", true),
            ("container", "db", false),
            ("image", "host:5000/nginx", true),
            ("image", "host:5000/nginx:1", true),
            ("image", "host", false),
            ("label", "tier=front", true),
            ("label", "tier=back", false),
            ("scope", "swarm", false),
        ] {
            assert_eq!(matches(&with(name, value), &start), yes, "{name}={value}");
        }
        let health = event(EventType::Container, "health_status: healthy");
        assert!(matches(&with("event", "health_status"), &health));
        assert!(matches(&with("event", "health_status: healthy"), &health));
        assert!(!matches(&with("event", "health_status: unhealthy"), &health));
    }
}
