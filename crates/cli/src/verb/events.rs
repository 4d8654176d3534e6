//! `events`: what happens at the daemon, as it happens.

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;
use tokio::io::AsyncBufReadExt;

use crate::app::App;
use crate::query::{Query, parse_filter};
use crate::template::{Missing, Template};
use crate::{out, time};

/// Show what happens at the daemon
#[derive(Debug, Args)]
pub struct Events {
    /// Show only what matches: type=…, event=…, container=… (may be repeated)
    #[arg(short, long, value_parser = parse_filter)]
    filter: Vec<String>,
    /// How to print: json or TEMPLATE
    #[arg(long)]
    format: Option<String>,
    /// Begin with what happened since this time: 42m ago, or 2025-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End at this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl Events {
    /// Prints the events until the daemon, or the user, ends it.
    pub async fn run(self, app: &App) -> Result<()> {
        let now = Timestamp::now();
        let moment =
            |text: &Option<String>| text.as_ref().map(|t| time::for_api(t, now)).transpose();
        let query = Query::new()
            .opt("since", moment(&self.since)?)
            .opt("until", moment(&self.until)?)
            .filters(&self.filter);
        let format = self.format.as_deref().unwrap_or_default();
        let template = match format {
            "" | "json" => None,
            template => Some(Template::parse(template, Missing::Error)?),
        };
        let client = app.client().await?;
        let mut lines = client.get_stream("/events", &query).await?.lines();
        while let Some(text) = lines.next_line().await? {
            if text.trim().is_empty() {
                continue;
            }
            if format == "json" {
                out::line(text.trim())?;
                continue;
            }
            let event: Value = serde_json::from_str(&text)?;
            match &template {
                Some(template) => out::line(&template.render(&with_go_names(event))?)?,
                None => out::line(&line(&event))?,
            }
        }
        Ok(())
    }
}

/// Templates name fields as docker's program does, the API in small letters.
fn with_go_names(mut event: Value) -> Value {
    let names = [
        ("time", "Time"),
        ("timeNano", "TimeNano"),
        ("status", "Status"),
        ("id", "ID"),
        ("from", "From"),
        ("scope", "Scope"),
    ];
    for (name, go) in names {
        let value = event[name].clone();
        event[go] = if value.is_null() { "".into() } else { value };
    }
    event
}

/// `TIME container start ID (image=busybox, name=web)`
fn line(event: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nanos = event["timeNano"].as_i64().map(i128::from);
    let seconds = event["time"].as_i64().unwrap_or_default();
    let at = time::rfc3339_nano(nanos.unwrap_or(i128::from(seconds) * 1_000_000_000));
    let actor = &event["Actor"];
    let kind = word(&event["Type"]);
    let head = if kind.is_empty() {
        format!("{at} {} {}", word(&event["status"]), word(&event["id"]))
    } else {
        format!("{at} {kind} {} {}", word(&event["Action"]), word(&actor["ID"]))
    };
    let attributes: Vec<String> = actor["Attributes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", word(value)))
        .collect();
    if attributes.is_empty() { head } else { format!("{head} ({})", attributes.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line() {
        let event = json!({"Type": "container", "Action": "start", "timeNano": 1,
            "Actor": {"ID": "abc", "Attributes": {"name": "web", "image": "busybox"}}});
        let line = line(&event);
        assert!(line.ends_with(" container start abc (image=busybox, name=web)"), "{line}");
        assert!(line.contains(".000000001"), "{line}");
    }
}
