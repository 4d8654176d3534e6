//! Holding still who writes to a volume while it is copied.
//!
//! A container that has the volume mounted read-write is paused for that time,
//! or, when it has one of the labels [`PRE`] and [`POST`], runs the command in
//! it before and after: a database that can make its files consistent needs
//! no pause.
//!
//! Be aware:
//! - Who is held is written down first: what dies in between leaves a record,
//!   and the next daemon lets go of them. So `post` may run where `pre` did
//!   not, or twice.
//! - A container that its user has paused stays so.
//! - One volume is held at a time: a container may have several.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sampan_store::Transaction;
use sampan_types::{ContainerId, VolumeName};
use sampan_volume::Watch;
use serde::{Deserialize, Serialize};

use crate::container::Container;
use crate::container::state::Status;
use crate::envelope::Envelope;
use crate::exec_once::Ended;
use crate::record::ContainerRecord;
use crate::{Engine, EngineError, Result};

/// The label with the command that is run in the container before a copy.
pub const PRE: &str = "sampan.volume.freeze.pre";
/// The label with the command that is run in the container after a copy.
pub const POST: &str = "sampan.volume.freeze.post";

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of its output is shown.
const OUTPUT: usize = 2048;
/// The store's prefix of those that are held.
const PREFIX: &str = "volume-freezes/";
const ENVELOPE: Envelope = Envelope { noun: "freeze", version: 1 };

/// Who is held still for a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Freeze {
    volume: VolumeName,
    held: Vec<Held>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    container: ContainerId,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum How {
    Paused,
    Hooks,
}

/// How a container is to be held; `None` when it need not be.
fn how(record: &ContainerRecord, volume: &VolumeName) -> Option<How> {
    let writes = record.mounts.iter().any(|m| m.rw && m.volume.as_ref() == Some(volume));
    if !writes || record.state.status != Status::Running {
        return None;
    }
    let has = |label| command(record, label).is_some();
    Some(if has(PRE) || has(POST) { How::Hooks } else { How::Paused })
}

/// The command of a label: a list in JSON, or text for the shell.
fn command(record: &ContainerRecord, label: &str) -> Option<Vec<String>> {
    let text = record.config.labels.as_ref()?.get(label)?.trim();
    if text.is_empty() {
        return None;
    }
    let words = serde_json::from_str::<Vec<String>>(text).ok().filter(|w| !w.is_empty());
    Some(words.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), text.to_owned()]))
}

impl Engine {
    /// Runs `work`, which `watch` can stop, while nobody writes to the volume;
    /// as it is when `freeze` is not set. Goes on to its end when the caller
    /// goes away.
    pub(crate) async fn while_still<T, F>(
        &self,
        volume: &VolumeName,
        freeze: bool,
        watch: &Watch,
        work: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let guard = watch.stop_on_drop();
        let (engine, volume, watch) = (self.clone(), volume.clone(), watch.clone());
        let done = self
            .detached(async move {
                if !freeze {
                    return engine.or_stopped(&watch, work).await;
                }
                let _one = engine.inner.freezing.lock().await;
                let freeze = engine.hold(&volume).await?;
                crate::fault!("freeze:after-hold");
                let done = engine.or_stopped(&watch, work).await;
                let let_go = engine.let_go(&freeze).await;
                done.and_then(|value| let_go.map(|()| value))
            })
            .await;
        guard.disarm();
        done
    }

    /// Runs `work`; tells it to stop when the daemon does. Survives its panic.
    async fn or_stopped<T, F>(&self, watch: &Watch, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut work = tokio::spawn(work);
        let done = tokio::select! {
            done = &mut work => done,
            () = self.inner.stop.cancelled() => {
                watch.stop();
                work.await
            }
        };
        done.map_err(|e| EngineError::Fault(e.to_string()))?
    }

    async fn hold(&self, volume: &VolumeName) -> Result<Freeze> {
        let containers = self.containers();
        let held = containers.iter().filter_map(|c| {
            let container = c.id().clone();
            how(&c.record(), volume).map(|how| Held { container, how })
        });
        let freeze = Freeze { volume: volume.clone(), held: held.collect() };
        let bytes = ENVELOPE.encode(|| key(volume), &freeze)?;
        self.store().commit(Transaction::put(key(volume), bytes)).await?;
        crate::fault!("freeze:after-record");
        let held = async {
            for held in &freeze.held {
                self.hold_one(held).await?;
            }
            self.synchronise(volume).await
        };
        if let Err(error) = held.await {
            if let Err(error) = self.let_go(&freeze).await {
                tracing::error!(volume = volume.as_str(), %error, "a container is still held");
            }
            return Err(error);
        }
        Ok(freeze)
    }

    async fn hold_one(&self, held: &Held) -> Result<()> {
        let Some(c) = self.container_by_id(&held.container) else { return Ok(()) };
        match held.how {
            How::Hooks => self.hook(&c, PRE).await,
            How::Paused => match self.container_pause(c.id().as_str()).await {
                // It ended meanwhile: it writes no more.
                Err(_) if c.record().state.status != Status::Running => Ok(()),
                paused => paused,
            },
        }
    }

    /// Writes what is not on the disk yet.
    async fn synchronise(&self, volume: &VolumeName) -> Result<()> {
        let path = self.volume_store().get(volume.as_str())?.mountpoint;
        self.blocking(move || {
            sampan_sys::file::sync_fs(&path)
                .map_err(|e| EngineError::io("write to the disk", path.display(), e))
        })
        .await
    }

    /// Lets all go; the first failure is told, the others are logged.
    async fn let_go(&self, freeze: &Freeze) -> Result<()> {
        let mut first = None;
        for held in &freeze.held {
            let Some(c) = self.container_by_id(&held.container) else { continue };
            let done = match held.how {
                How::Hooks if c.record().state.status == Status::Running => {
                    self.hook(&c, POST).await
                }
                How::Hooks => Ok(()),
                How::Paused if c.record().state.status == Status::Paused => {
                    self.container_unpause(c.id().as_str()).await
                }
                How::Paused => Ok(()),
            };
            if let Err(error) = done {
                tracing::error!(container = c.id().short(), %error, "it is not let go");
                first.get_or_insert(error.context(format!(
                    "container {} was held still for a copy of volume {}, which is done, and is \
                     not let go",
                    c.record().name,
                    freeze.volume
                )));
            }
        }
        self.store().commit(Transaction::delete(key(&freeze.volume))).await?;
        first.map_or(Ok(()), Err)
    }

    /// Lets go of those that an earlier daemon held when it died.
    pub(crate) async fn let_go_of_all(&self) -> Result<()> {
        for (key, value) in self.store().list(PREFIX).await?.entries {
            let freeze: Freeze = match ENVELOPE.decode(&key, &value.value) {
                Ok(freeze) => freeze,
                Err(error) => {
                    tracing::error!(%error, "containers may be paused that a copy held still");
                    continue;
                }
            };
            let engine = self.clone();
            let has_hooks = freeze.held.iter().any(|h| h.how == How::Hooks);
            let let_go = async move {
                let _one = engine.inner.freezing.lock().await;
                // A failure is logged there.
                let _ = engine.let_go(&freeze).await;
            };
            // A hook may take its time, which the daemon's start must not.
            if has_hooks {
                self.inner.tasks.spawn(let_go);
            } else {
                let_go.await;
            }
        }
        Ok(())
    }

    async fn hook(&self, c: &Arc<Container>, label: &str) -> Result<()> {
        let record = c.record();
        let Some(command) = command(&record, label) else { return Ok(()) };
        let why = match self.exec_once(c, command, PATIENCE, OUTPUT).await {
            Ended::Exited { code: 0, .. } => return Ok(()),
            Ended::Exited { code, output } => {
                format!("it ended with code {code}: {}", output.trim_end())
            }
            Ended::Failed(error) => error,
            Ended::TimedOut => format!("it took more than {} s", PATIENCE.as_secs()),
        };
        Err(EngineError::Conflict(format!(
            "container {}: the command of its label {label} failed: {why}",
            record.name
        )))
    }
}

fn key(volume: &VolumeName) -> String {
    format!("{PREFIX}{volume}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(labels: &[(&str, &str)]) -> ContainerRecord {
        let mut record = crate::container::tests::record(&"ab".repeat(32), "web");
        let mut mount =
            crate::record::MountRecord::new(crate::record::MountKind::Volume, "/d".into(), true);
        mount.volume = Some("data".parse().unwrap());
        record.mounts.push(mount);
        record.state.status = Status::Running;
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        record.config.labels = Some(labels.collect());
        record
    }

    #[test]
    fn writers_are_paused_or_run_their_hooks() {
        let data = "data".parse().unwrap();
        let mut record = writer(&[]);
        assert_eq!(how(&record, &data), Some(How::Paused));
        assert_eq!(how(&record, &"other".parse().unwrap()), None);
        record.mounts[0].rw = false;
        assert_eq!(how(&record, &data), None);
        let mut record = writer(&[(POST, "true")]);
        assert_eq!(how(&record, &data), Some(How::Hooks));
        record.state.status = Status::Paused;
        assert_eq!(how(&record, &data), None);
    }

    #[test]
    fn commands_are_lists_or_for_the_shell() {
        let record = writer(&[(PRE, r#"["pg", "a b"]"#), (POST, " echo [1] ")]);
        assert_eq!(command(&record, PRE).unwrap(), ["pg", "a b"]);
        assert_eq!(command(&record, POST).unwrap(), ["/bin/sh", "-c", "echo [1]"]);
        assert_eq!(command(&writer(&[(PRE, " ")]), PRE), None);
    }
}
