//! Events, past and live.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use futures_util::StreamExt;
use sampan_engine::events::EventsQuery;
use sampan_types::{Event, EventType, Timestamp};
use serde_json::{Value, json};

use super::{Answer, Api, filters, stream};
use crate::query::Query;

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/events", get(events))
}

async fn events(State(api): State<Api>, query: Query) -> Answer {
    // `since=0` is the beginning, not "unset".
    let beginning = query.text("since").is_some().then(|| Timestamp::from_nanos(1));
    let wanted = EventsQuery {
        since: query.time("since")?.or(beginning),
        until: query.time("until")?,
        filters: filters(&query)?,
    };
    let events = api.engine.events(wanted)?;
    Ok(stream::lines(api.stop, events.map(|e| shape(&e))))
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

    #[test]
    fn events_have_old_and_new_fields() {
        let event = Event {
            kind: EventType::Container,
            action: "start".into(),
            actor: Actor {
                id: "c1".into(),
                attributes: [("image".to_owned(), "busybox".to_owned())].into(),
            },
            time: Timestamp::from_nanos(1_700_000_000_000_000_005),
        };
        assert_eq!(
            shape(&event),
            json!({
                "Type": "container", "Action": "start", "scope": "local",
                "Actor": {"ID": "c1", "Attributes": {"image": "busybox"}},
                "time": 1_700_000_000, "timeNano": 1_700_000_000_000_000_005_i64,
                "status": "start", "id": "c1", "from": "busybox",
            })
        );
        let network = Event { kind: EventType::Network, ..event };
        assert_eq!(shape(&network).get("status"), None);
    }
}
