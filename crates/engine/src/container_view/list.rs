//! The list of containers, as `docker ps` shows it.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use sampan_types::{ContainerId, ImageId, Timestamp};
use serde_json::{Value, json};

use super::{json, status};
use crate::filters::{FilterError, Filters};
use crate::record::ContainerRecord;
use crate::{Engine, EngineError, Result};

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Also those that don't run.
    pub all: bool,
    /// Only the so many newest, running or not.
    pub limit: Option<usize>,
    /// With `SizeRw` and `SizeRootFs`.
    pub size: bool,
    /// Which.
    pub filters: Filters,
}

const ACCEPTED: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

const STATES: [&str; 7] =
    ["created", "dead", "exited", "paused", "removing", "restarting", "running"];

impl Engine {
    /// The containers that pass the filters, newest first: an array's items
    /// of type `ContainerSummary`.
    ///
    /// # Errors
    /// When a filter is wrong, or names a container that isn't there.
    pub async fn container_list(&self, options: ListOptions) -> Result<Vec<Value>> {
        let selection = self.selection(&options)?;
        let mut records: Vec<Arc<ContainerRecord>> =
            self.containers().iter().map(|c| c.record()).collect();
        records.sort_by_key(|r| (Reverse(r.created), r.id.clone()));
        let now = Timestamp::now();
        let mut out = Vec::new();
        for record in selection.choose(&records) {
            let mut summary = self.summary(record, now);
            if options.size {
                self.add_sizes(&record.id, &mut summary).await?;
            }
            out.push(summary);
            self.trim_after(record.wished_ports.size());
        }
        Ok(out)
    }

    /// The filters with all names looked up.
    fn selection<'a>(&self, options: &'a ListOptions) -> Result<Selection<'a>> {
        let filters = &options.filters;
        filters.validate(&ACCEPTED).map_err(EngineError::part)?;
        let mut selection = Selection::new(filters).map_err(EngineError::part)?;
        let limit = options.limit.filter(|l| *l > 0);
        selection.all = options.all || limit.is_some() || filters.has("status");
        selection.limit = limit.unwrap_or(usize::MAX);
        let find = |name: &str| -> Result<Option<ContainerId>> {
            match filters.get(name).last() {
                Some(text) => Ok(Some(self.container(text)?.id().clone())),
                None => Ok(None),
            }
        };
        selection.before = find("before")?;
        selection.since = find("since")?;
        if filters.has("ancestor") {
            // An image that isn't there has no containers; that is no error.
            let found = filters.get("ancestor").filter_map(|a| self.image_store().resolve(a).ok());
            selection.ancestors = Some(self.with_descendants(found.collect()));
        }
        Ok(selection)
    }

    /// Images and those that were made from them.
    fn with_descendants(&self, mut images: BTreeSet<ImageId>) -> BTreeSet<ImageId> {
        let all = self.image_store().list();
        loop {
            let children: Vec<ImageId> = all
                .iter()
                .filter(|i| i.parent.as_ref().is_some_and(|p| images.contains(p)))
                .map(|i| i.id.clone())
                .filter(|id| !images.contains(id))
                .collect();
            if children.is_empty() {
                return images;
            }
            images.extend(children);
        }
    }

    /// One `ContainerSummary`.
    fn summary(&self, record: &ContainerRecord, now: Timestamp) -> Value {
        let asked = record.config.image.clone().unwrap_or_default();
        // The name that was asked for, as long as it is that image's.
        let named = self.image_store().resolve(&asked).is_ok_and(|id| id == record.image);
        let image = if named { asked } else { record.image.to_string() };
        json!({
            "Id": record.id,
            "Names": [format!("/{}", record.name)],
            "Image": image,
            "ImageID": record.image,
            "Command": command(record),
            "Created": record.created.seconds(),
            "Ports": json::port_list(record),
            "Labels": record.config.labels.clone().unwrap_or_default(),
            "State": record.state.status.as_str(),
            "Status": status::status(&record.state, now),
            "HostConfig": { "NetworkMode": network_mode(record) },
            "NetworkSettings": { "Networks": json::networks(record) },
            "Mounts": json::mounts(record),
            "Health": {
                "Status": status::health(&record.state),
                "FailingStreak": record.state.health.as_ref().map_or(0, |h| h.failing_streak),
            },
        })
    }

    /// Puts `SizeRw` and `SizeRootFs` into a summary or an inspection.
    pub(super) async fn add_sizes(&self, id: &ContainerId, out: &mut Value) -> Result<()> {
        let images = self.image_store();
        let sizes = async { Ok((images.upper_size(id).await?, images.root_size(id).await?)) };
        let (rw, root) = sizes.await.map_err(EngineError::part::<sampan_image::ImageError>)?;
        out["SizeRw"] = json!(rw);
        out["SizeRootFs"] = json!(root);
        Ok(())
    }
}

/// The network mode as the API shows it.
pub(super) fn network_mode(record: &ContainerRecord) -> String {
    let mode = record.host_config.network_mode.clone().filter(|m| !m.is_empty());
    mode.unwrap_or_else(|| "default".to_owned())
}

/// Program and arguments in one line; arguments with blanks are quoted.
fn command(record: &ContainerRecord) -> String {
    let mut line = record.path.clone();
    for arg in &record.args {
        line.push(' ');
        if arg.contains(' ') {
            line.push('\'');
            line.push_str(arg);
            line.push('\'');
        } else {
            line.push_str(arg);
        }
    }
    line
}

/// Which containers to list: filters that are checked and looked up.
struct Selection<'a> {
    filters: &'a Filters,
    all: bool,
    limit: usize,
    exited: Vec<i32>,
    is_task: Option<bool>,
    before: Option<ContainerId>,
    since: Option<ContainerId>,
    ancestors: Option<BTreeSet<ImageId>>,
    publish: Vec<PortRange>,
    expose: Vec<PortRange>,
}

impl<'a> Selection<'a> {
    fn new(filters: &'a Filters) -> Result<Self, FilterError> {
        let exited: Option<Vec<i32>> = filters.get("exited").map(|v| v.parse().ok()).collect();
        filters.validate_values("status", |v| STATES.contains(&v))?;
        let healths = ["starting", "healthy", "unhealthy", "none"];
        filters.validate_values("health", |v| healths.contains(&v))?;
        let ports = |name: &str| -> Result<Vec<PortRange>, FilterError> {
            let ranges: Option<Vec<_>> = filters.get(name).map(PortRange::parse).collect();
            ranges.ok_or_else(|| filters.wrong_value(name))
        };
        Ok(Self {
            filters,
            all: false,
            limit: usize::MAX,
            exited: exited.ok_or_else(|| filters.wrong_value("exited"))?,
            is_task: filters.flag("is-task")?,
            before: None,
            since: None,
            ancestors: None,
            publish: ports("publish")?,
            expose: ports("expose")?,
        })
    }

    /// Those of `records` (newest first) that are wanted.
    fn choose<'r>(
        &'r self,
        records: &'r [Arc<ContainerRecord>],
    ) -> impl Iterator<Item = &'r ContainerRecord> {
        let before = self.before.as_ref();
        let skipped = before.map_or(0, |id| {
            records.iter().position(|r| r.id == *id).map_or(records.len(), |at| at + 1)
        });
        records
            .iter()
            .map(AsRef::as_ref)
            .skip(skipped)
            .take_while(|r| self.since.as_ref() != Some(&r.id))
            .filter(|r| self.matches(r))
            .take(self.limit)
    }

    fn matches(&self, record: &ContainerRecord) -> bool {
        let f = self.filters;
        let state = &record.state;
        let labels = record.config.labels.as_ref();
        let name = format!("/{}", record.name);
        (self.all || state.is_running())
            && self.is_task != Some(true)
            && f.prefix("id", record.id.as_str())
            && (f.pattern("name", &name) || f.pattern("name", &name[1..]))
            && f.labels("label", |key| labels.and_then(|l| l.get(key)).map(String::as_str))
            && f.exact("status", state.status.as_str())
            && f.exact("health", status::health(state))
            && f.exact("isolation", "default")
            && self.exit_matches(record)
            && self.ancestors.as_ref().is_none_or(|images| images.contains(&record.image))
            && self.volume_matches(record)
            && self.network_matches(record)
            && self.ports_match(record)
    }

    fn exit_matches(&self, record: &ContainerRecord) -> bool {
        let state = &record.state;
        let ended = !state.is_running() && !state.started.is_never();
        self.exited.is_empty() || (ended && self.exited.contains(&state.exit_code))
    }

    fn volume_matches(&self, record: &ContainerRecord) -> bool {
        let mut wanted = self.filters.get("volume").peekable();
        if wanted.peek().is_none() {
            return true;
        }
        wanted.any(|text| {
            record.mounts.iter().any(|m| match &m.volume {
                Some(name) => name.as_str() == text || m.destination.as_os_str() == text,
                None => m.source.as_os_str() == text || m.destination.as_os_str() == text,
            })
        })
    }

    fn network_matches(&self, record: &ContainerRecord) -> bool {
        let f = self.filters;
        f.get("network").next().is_none()
            || record.networking.endpoints.iter().any(|(name, e)| {
                f.exact("network", name) || f.prefix("network", e.network.as_str())
            })
    }

    fn ports_match(&self, record: &ContainerRecord) -> bool {
        if self.publish.is_empty() && self.expose.is_empty() {
            return true;
        }
        json::port_list(record).iter().any(|p| {
            let proto = p.typ.map(|t| t.to_string()).unwrap_or_default();
            let within = |ranges: &[PortRange], port| ranges.iter().any(|r| r.has(port, &proto));
            p.public_port.is_some_and(|port| within(&self.publish, port))
                || within(&self.expose, p.private_port)
        })
    }
}

/// `80`, `80/udp`, `80-90/tcp`.
#[derive(Debug, PartialEq, Eq)]
struct PortRange {
    first: u16,
    last: u16,
    proto: String,
}

impl PortRange {
    fn parse(text: &str) -> Option<Self> {
        let (ports, proto) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let known = matches!(proto, "tcp" | "udp" | "sctp") && first <= last;
        known.then(|| Self { first, last, proto: proto.to_owned() })
    }

    fn has(&self, port: u16, proto: &str) -> bool {
        (self.first..=self.last).contains(&port) && self.proto == proto
    }
}

#[cfg(test)]
mod tests {
    use sampan_net::Protocol;

    use super::*;
    use crate::container::tests::record as blank;
    use crate::record::{PortRecord, Status};

    fn record(id: &str, name: &str, f: impl FnOnce(&mut ContainerRecord)) -> Arc<ContainerRecord> {
        let mut record = blank(&format!("{id:0<64}"), name);
        f(&mut record);
        Arc::new(record)
    }

    fn running(r: &mut ContainerRecord) {
        r.state.status = Status::Running;
        r.state.started = Timestamp::from_nanos(1);
    }

    fn names(records: &[Arc<ContainerRecord>], filters: &str, all: bool) -> Vec<String> {
        let filters = Filters::parse(filters).unwrap();
        let mut selection = Selection::new(&filters).unwrap();
        selection.all = all;
        selection.choose(records).map(|r| r.name.to_string()).collect()
    }

    fn some() -> Vec<Arc<ContainerRecord>> {
        vec![
            record("ab1", "web", |r| {
                running(r);
                r.config.labels = Some([("tier".to_owned(), "front".to_owned())].into());
                r.networking.ports.push(PortRecord {
                    proto: Protocol::Tcp,
                    container_port: 80,
                    host_ip: "0.0.0.0".parse().unwrap(),
                    host_port: 8080,
                });
            }),
            record("ab2", "db", |r| {
                running(r);
                r.state.status = Status::Exited;
                r.state.exit_code = 3;
            }),
            record("c", "fresh", |_| ()),
        ]
    }

    #[test]
    fn only_running_ones_unless_all() {
        assert_eq!(names(&some(), "", false), ["web"]);
        assert_eq!(names(&some(), "", true), ["web", "db", "fresh"]);
    }

    #[test]
    fn filters_select() {
        let all = some();
        assert_eq!(names(&all, r#"{"name":["^/d"]}"#, true), ["db"]);
        assert_eq!(names(&all, r#"{"name":["^d"]}"#, true), ["db"]);
        assert_eq!(names(&all, r#"{"id":["ab"]}"#, true), ["web", "db"]);
        assert_eq!(names(&all, r#"{"label":["tier=front"]}"#, true), ["web"]);
        assert_eq!(names(&all, r#"{"exited":["3"]}"#, true), ["db"]);
        assert_eq!(names(&all, r#"{"exited":["0"]}"#, true), [""; 0]);
        assert_eq!(names(&all, r#"{"status":["exited","created"]}"#, true), ["db", "fresh"]);
        assert_eq!(names(&all, r#"{"health":["none"]}"#, true).len(), 3);
        assert_eq!(names(&all, r#"{"publish":["8000-8090"]}"#, true), ["web"]);
        assert_eq!(names(&all, r#"{"expose":["80/tcp"]}"#, true), ["web"]);
        assert_eq!(names(&all, r#"{"expose":["80/udp"]}"#, true), [""; 0]);
        assert_eq!(names(&all, r#"{"is-task":["true"]}"#, true), [""; 0]);
        for wrong in [
            r#"{"exited":["x"]}"#,
            r#"{"status":["lost"]}"#,
            r#"{"health":["well"]}"#,
            r#"{"publish":["1:2"]}"#,
            r#"{"is-task":["perhaps"]}"#,
        ] {
            assert!(Selection::new(&Filters::parse(wrong).unwrap()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn before_since_and_limit() {
        let (all, filters) = (some(), Filters::default());
        let chosen = |f: &dyn Fn(&mut Selection<'_>)| {
            let mut selection = Selection::new(&filters).unwrap();
            selection.all = true;
            f(&mut selection);
            selection.choose(&all).map(|r| r.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(chosen(&|s| s.before = Some(all[0].id.clone())), ["db", "fresh"]);
        assert_eq!(chosen(&|s| s.since = Some(all[2].id.clone())), ["web", "db"]);
        assert_eq!(chosen(&|s| s.limit = 1), ["web"]);
    }

    #[test]
    fn commands_are_joined() {
        let r = record("a", "aa", |r| {
            r.path = "sh".to_owned();
            r.args = vec!["-c".to_owned(), "echo hi".to_owned()];
        });
        assert_eq!(command(&r), "sh -c 'echo hi'");
    }
}
