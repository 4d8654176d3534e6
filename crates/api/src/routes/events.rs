//! Events, past and live.
//!
//! Be aware: the bus keeps the last events only. A query that reaches further
//! back gets what is there, as from dockerd.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use futures_util::{Stream, StreamExt, stream as streams};
use sampan_engine::EventBus;
use sampan_engine::filters::Filters;
use sampan_types::{Event, EventType, Timestamp};
use serde_json::{Value, json};

use super::{Answer, Api, filters, stream};
use crate::query::Query;

/// The filters that exist. Those on what this engine has not match nothing.
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
/// Events that carry more behind a colon: `health_status: healthy`.
const WITH_DETAIL: [&str; 3] = ["health_status", "exec_create", "exec_start"];

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/events", get(events))
}

async fn events(State(api): State<Api>, query: Query) -> Answer {
    let (since, until) = (query.time("since")?, query.time("until")?);
    let filters = filters(&query)?;
    filters.validate(&FILTERS)?;
    let wanted = select(api.engine.event_bus(), since, until)
        .filter(move |e| std::future::ready(matches(&filters, e)))
        .map(|e| shape(&e));
    Ok(stream::lines(api.stop, wanted))
}

/// The events of a span of time: past ones only with `since`, and no live
/// ones when `until` is past.
fn select(
    bus: &EventBus,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
) -> impl Stream<Item = Event> + Send + use<> {
    let Some(until) = until else { return bus.subscribe(since) };
    let left = until_in(until);
    if left.is_zero() {
        let past = since.map(|since| bus.past(since, until)).unwrap_or_default();
        return streams::iter(past).boxed();
    }
    bus.subscribe(since).take_until(tokio::time::sleep(left)).boxed()
}

/// How long it is to a point in time; zero when it has passed.
fn until_in(then: Timestamp) -> Duration {
    let then = Duration::from_nanos(u64::try_from(then.nanos()).unwrap_or_default());
    (UNIX_EPOCH + then).duration_since(SystemTime::now()).unwrap_or_default()
}

/// Whether an event passes, as moby's `daemon/events/filter.go` decides.
fn matches(filters: &Filters, event: &Event) -> bool {
    let attribute = |name: &str| event.actor.attributes.get(name).map(String::as_str);
    let names_it = |filter: &str| {
        filters.prefix(filter, &event.actor.id)
            || attribute("name").is_some_and(|name| filters.prefix(filter, name))
    };
    let action = if filters.get("event").any(|e| WITH_DETAIL.contains(&e)) {
        filters.prefix("event", &event.action)
    } else {
        filters.exact("event", &event.action)
    };
    let nouns = ["config", "container", "daemon", "network", "node", "plugin", "secret", "service"];
    action
        && filters.exact("type", event.kind.as_str())
        && filters.exact("scope", "local")
        && nouns.into_iter().all(names_it)
        && names_it("volume")
        && matches_image(filters, event)
        && filters.labels("label", attribute)
}

/// By the id or name of the event's image, with or without its tag.
fn matches_image(filters: &Filters, event: &Event) -> bool {
    let key = if event.kind == EventType::Image { "name" } else { "image" };
    let name = event.actor.attributes.get(key).map_or("", String::as_str);
    let id = event.actor.id.as_str();
    [id, name, without_tag(id), without_tag(name)].iter().any(|n| filters.exact("image", n))
}

/// `r:5000/a/b:1` without `:1`.
fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((repo, tag)) if !tag.contains('/') => repo,
        _ => name,
    }
}

/// An event as dockerd writes it, with the fields of old clients.
fn shape(event: &Event) -> Value {
    let mut value = json!({
        "Type": event.kind.as_str(),
        "Action": event.action,
        "Actor": {"ID": event.actor.id, "Attributes": event.actor.attributes},
        "scope": "local",
        "time": event.time.seconds(),
        "timeNano": event.time.nanos(),
    });
    if matches!(event.kind, EventType::Container | EventType::Image) {
        value["status"] = json!(event.action);
        value["id"] = json!(event.actor.id);
    }
    if let (EventType::Container, Some(image)) = (event.kind, event.actor.attributes.get("image")) {
        value["from"] = json!(image);
    }
    value
}

#[cfg(test)]
mod tests {
    use sampan_types::Actor;

    use super::*;

    fn event(kind: EventType, action: &str, id: &str, attributes: &[(&str, &str)]) -> Event {
        let attributes =
            attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Event {
            kind,
            action: action.to_owned(),
            actor: Actor { id: id.to_owned(), attributes },
            time: Timestamp::from_nanos(1_700_000_000_000_000_005),
        }
    }

    #[test]
    fn events_have_old_and_new_fields() {
        let start = event(EventType::Container, "start", "c1", &[("image", "busybox")]);
        assert_eq!(
            shape(&start),
            json!({
                "Type": "container", "Action": "start", "scope": "local",
                "Actor": {"ID": "c1", "Attributes": {"image": "busybox"}},
                "time": 1_700_000_000, "timeNano": 1_700_000_000_000_000_005_i64,
                "status": "start", "id": "c1", "from": "busybox",
            })
        );
        let network = event(EventType::Network, "connect", "n", &[]);
        assert_eq!(shape(&network).get("status"), None);
    }

    #[test]
    fn filters_match_as_mobys() {
        let pass = |filters: &str, event: &Event| {
            let filters = Filters::parse(filters).unwrap();
            filters.validate(&FILTERS).unwrap();
            matches(&filters, event)
        };
        let healthy = event(
            EventType::Container,
            "health_status: healthy",
            "c1f00",
            &[("image", "r:5000/web:1"), ("name", "shop"), ("tier", "front")],
        );
        for yes in [
            "",
            r#"{"event":["health_status"]}"#,
            r#"{"event":{"health_status: healthy":true}}"#,
            r#"{"container":["shop"]}"#,
            r#"{"container":["c1f"]}"#,
            r#"{"container":["other","shop"]}"#,
            r#"{"image":["r:5000/web"]}"#,
            r#"{"image":["r:5000/web:1"]}"#,
            r#"{"type":["container"],"label":["tier=front"],"scope":["local"]}"#,
            r#"{"label":["tier"]}"#,
        ] {
            assert!(pass(yes, &healthy), "{yes}");
        }
        for no in [
            r#"{"event":["start"]}"#,
            r#"{"container":["x"]}"#,
            r#"{"image":["web"]}"#,
            r#"{"type":["network"]}"#,
            r#"{"label":["tier=back"]}"#,
            r#"{"scope":["swarm"]}"#,
            r#"{"volume":["v"]}"#,
        ] {
            assert!(!pass(no, &healthy), "{no}");
        }
        let pull = event(EventType::Image, "pull", "busybox:latest", &[("name", "busybox")]);
        assert!(pass(r#"{"image":["busybox"]}"#, &pull));
        assert!(Filters::parse(r#"{"x":["y"]}"#).unwrap().validate(&FILTERS).is_err());
    }

    #[tokio::test]
    async fn spans_of_time() {
        let bus = EventBus::default();
        bus.send(event(EventType::Container, "old", "c", &[]));
        let at = |t: &str| Some(Timestamp::parse(t).unwrap());
        let actions = |since, until| {
            let found = select(&bus, since, until);
            async move { found.map(|e| e.action).collect::<Vec<_>>().await }
        };
        assert_eq!(actions(at("1600000000"), at("1700000001")).await, ["old"]);
        assert!(actions(at("1600000000"), at("1699999999")).await.is_empty());
        assert!(actions(None, at("1700000001")).await.is_empty());
        let soon = Timestamp::from_nanos(Timestamp::now().nanos() + 50_000_000);
        assert_eq!(actions(at("1600000000"), Some(soon)).await, ["old"]);
    }
}
