//! Backups by the clock, as the volumes' labels say.
//!
//! ```text
//! sampan.backup=@daily                  when: @hourly …, or cron's five fields
//! sampan.backup.to=/srv/backup          where
//! sampan.backup.key-file=/etc/…/key     the passphrase, on the daemon's host
//! sampan.backup.s3-keys-file=/etc/…     the keys of S3, where it lies there
//! sampan.backup.tls-dir=/etc/…          certificates, where it lies at another daemon
//! sampan.backup.keep=7d,4w              which older ones stay
//! sampan.backup.freeze=true             whether users are held for a moment
//! ```
//!
//! Be aware:
//! - What was missed while the daemon was down is made up for once.
//! - One that failed is tried again after a while, and at its next time.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp as Moment;
use sampan_backup::{Retention, Schedule};
use sampan_image::ProgressSink;
use sampan_types::Timestamp;
use sampan_volume::Volume;
use serde_json::{Value, json};

use super::{BackupRequest, RepositoryRequest};
use crate::{Engine, EngineError, Result};

const LABEL: &str = "sampan.backup";

/// The first wait after a failure; each further one doubles it.
const RETRY: Duration = Duration::from_secs(5 * 60);
/// The longest wait after failures.
const LONGEST_RETRY: Duration = Duration::from_secs(60 * 60);

/// The clock may be set, and the machine may sleep: no timer is longer.
const LONGEST_SLEEP: Duration = Duration::from_secs(15 * 60);

/// A volume's labels, read.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    schedule: Schedule,
    keep: Option<Retention>,
    request: BackupRequest,
}

impl Plan {
    /// The plan of a volume with these labels; `None` when they have none.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn of(labels: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let prefix = format!("{LABEL}.");
        let known = ["to", "key-file", "s3-keys-file", "tls-dir", "keep", "freeze"];
        for label in labels.keys() {
            if let Some(rest) = label.strip_prefix(&prefix)
                && !known.contains(&rest)
            {
                return Err(EngineError::Invalid(format!(
                    "label {label} is not known; those of backups are {LABEL} and {prefix}{}",
                    known.join(&format!(", {prefix}"))
                )));
            }
        }
        let Some(when) = labels.get(LABEL) else { return Ok(None) };
        let value = |name: &str| labels.get(&format!("{prefix}{name}"));
        let needed = |name: &str| {
            value(name).cloned().ok_or_else(|| {
                EngineError::Invalid(format!("label {LABEL} needs label {prefix}{name} beside it"))
            })
        };
        let freeze = match value("freeze").map(String::as_str) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                return Err(EngineError::Invalid(format!(
                    "label {prefix}freeze={other}: write true or false"
                )));
            }
        };
        let to = needed("to")?;
        // Refused when the volume is made, not at midnight.
        let _: sampan_backup::Location = to.parse()?;
        let keep: Option<Retention> = value("keep").map(|k| k.parse()).transpose()?;
        Ok(Some(Self {
            schedule: when.parse()?,
            keep,
            request: BackupRequest {
                to: RepositoryRequest {
                    repository: to,
                    secret: None,
                    key_file: Some(needed("key-file")?.into()),
                    s3_keys_file: value("s3-keys-file").map(Into::into),
                    tls_dir: value("tls-dir").map(Into::into),
                },
                keep: value("keep").cloned(),
                freeze,
            },
        }))
    }

    /// When the next backup is due: `last` is when the last one ended, well or
    /// after so many `failures`, or when the volume was made.
    fn due(&self, last: Timestamp, failures: u32) -> Option<Moment> {
        let last = Moment::from_nanosecond(i128::from(last.nanos())).ok()?;
        let regular = self.schedule.next_after(last);
        if failures == 0 {
            return regular;
        }
        let wait = RETRY.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LONGEST_RETRY);
        let again = last.checked_add(wait).ok();
        [regular, again].into_iter().flatten().min()
    }
}

/// Whether a label is about backups.
pub(super) fn is_label(key: &str) -> bool {
    key.strip_prefix(LABEL).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Engine {
    /// Refuses labels of backups that can't be followed.
    pub(crate) fn check_backup_labels(labels: &BTreeMap<String, String>) -> Result<()> {
        Plan::of(labels).map(drop)
    }

    /// Starts the schedule.
    pub(crate) fn start_backup_schedule(&self) {
        let engine = self.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                () = engine.inner.stop.cancelled() => {}
                () = engine.follow_backup_schedule() => {}
            }
        });
    }

    /// A volume came, went or changed.
    pub(crate) fn reschedule_backups(&self) {
        self.inner.backups.changed.notify_one();
    }

    async fn follow_backup_schedule(&self) {
        loop {
            let mut next = None::<Moment>;
            for volume in self.volume_store().list() {
                let Some((plan, due)) = self.due_backup(&volume) else { continue };
                if due > Moment::now() {
                    next = Some(next.map_or(due, |n| n.min(due)));
                    continue;
                }
                // The outcome is kept, and tells when it is due again.
                let sink = ProgressSink::none();
                let made = self.make_backup(&volume, &plan.request, plan.keep, &sink).await;
                if let Err(EngineError::ShuttingDown) = made {
                    return;
                }
                next = Some(Moment::now());
            }
            let wait = next.map_or(LONGEST_SLEEP, until).min(LONGEST_SLEEP);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.inner.backups.changed.notified() => {}
            }
        }
    }

    fn due_backup(&self, volume: &Volume) -> Option<(Plan, Moment)> {
        if super::is_beside(&volume.name) {
            return None;
        }
        // Wrong labels were refused; those of an older volume are shown.
        let plan = Plan::of(&volume.labels).ok()??;
        let outcome = self.inner.backups.outcome(volume.name.as_str());
        let (last, failures) = outcome.map_or((volume.created, 0), |o| (o.attempted, o.failures));
        let due = plan.due(last, failures)?;
        Some((plan, due))
    }

    /// What `volume inspect` says of a volume's backups; nothing when there
    /// are none.
    pub(crate) fn backup_status(&self, volume: &Volume) -> Option<Value> {
        let outcome = self.inner.backups.outcome(volume.name.as_str());
        let plan = Plan::of(&volume.labels);
        if outcome.is_none() && matches!(plan, Ok(None)) {
            return None;
        }
        let mut shown = outcome.map_or_else(|| json!({}), |o| o.shown());
        match plan {
            Ok(None) => {}
            Ok(Some(plan)) => {
                shown["Schedule"] = json!(plan.schedule.to_string());
                shown["Repository"] = json!(plan.request.to.repository);
                let due = self.due_backup(volume).map(|(_, due)| due.to_string());
                shown["Next"] = json!(due);
            }
            Err(error) => shown["Error"] = json!(error.to_string()),
        }
        Some(shown)
    }
}

fn until(moment: Moment) -> Duration {
    Duration::try_from(moment.duration_since(Moment::now())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn plan() -> Plan {
        let of = [
            ("sampan.backup", "0 3 * * * UTC"),
            ("sampan.backup.to", "/srv/backup"),
            ("sampan.backup.key-file", "/etc/key"),
            ("sampan.backup.keep", "7d,4w"),
        ];
        Plan::of(&labels(&of)).unwrap().unwrap()
    }

    #[test]
    fn wrong_labels_are_refused_by_name() {
        assert!(Plan::of(&labels(&[("other", "x")])).unwrap().is_none());
        for (wrong, named) in [
            (vec![("sampan.backup", "@daily")], "sampan.backup.to"),
            (vec![("sampan.backup.kep", "7d")], "sampan.backup.kep"),
            (vec![("sampan.backup", "@daily"), ("sampan.backup.to", "/b")], "key-file"),
            (vec![("sampan.backup", "@daily"), ("sampan.backup.to", "b")], "repository"),
        ] {
            let error = Plan::of(&labels(&wrong)).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_missed_one_is_due_once_and_a_failed_one_soon() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let due = |last, failures| plan().due(at(last), failures).unwrap().to_string();
        // However long the daemon was down, one is due: the first missed.
        assert_eq!(due("2026-11-01T12:00:00Z", 0), "2026-11-02T03:00:00Z");
        assert_eq!(due("2026-11-21T03:00:20Z", 0), "2026-11-22T03:00:00Z");
        assert_eq!(due("2026-11-21T03:00:00Z", 1), "2026-11-21T03:05:00Z");
        assert_eq!(due("2026-11-21T03:00:00Z", 2), "2026-11-21T03:10:00Z");
        assert_eq!(due("2026-11-21T03:00:00Z", 40), "2026-11-21T04:00:00Z");
        // Not later than its next time.
        assert_eq!(due("2026-11-21T02:30:00Z", 40), "2026-11-21T03:00:00Z");
    }
}
