//! Backups of volumes: made, listed, checked and restored.
//!
//! Be aware:
//! - The passphrase comes with each request or from a file of the daemon's
//!   host; it is in no record and no message.
//! - One operation at a time changes a repository; others wait for their turn.
//! - A client that goes away ends the operation. What a backup stored until
//!   then is used by the next one.

mod record;
mod restore;
mod schedule;
mod serve;
mod source;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sampan_backup::{
    About, Access, BackupError, Location, Made, Repository, Retention, S3Keys, Snapshot, Watch,
};
use sampan_image::{Progress, ProgressSink};
use sampan_types::{EventType, VolumeName};
use sampan_volume::{Volume, VolumeError};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use restore::RestoreRequest;
pub use sampan_backup::{FileName, Secret};
pub use serve::ServedRepository;

use crate::images::{Messages, messages};
use crate::{Engine, EngineError, Result};

/// How often a client is told how far an operation is.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Whether the users of a volume are held while its snapshot is taken, and
/// other things about backups that are under way.
#[derive(Debug, Default)]
pub(crate) struct Backups {
    /// One turn for each repository.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// What is known of the last backups, by volume.
    outcomes: Mutex<HashMap<String, record::Outcome>>,
    /// Wakes the schedule when volumes or outcomes change.
    changed: tokio::sync::Notify,
}

impl Backups {
    fn turn(&self, repository: &Location) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds or waits for are not kept.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(repository.to_string()).or_default())
    }
}

/// How a request names a repository.
#[derive(Debug, Clone)]
pub struct RepositoryRequest {
    /// `/directory`, `s3://bucket/prefix` …
    pub repository: String,
    /// The passphrase, from the client.
    pub secret: Option<Secret>,
    /// A file of the daemon's host that holds it.
    pub key_file: Option<PathBuf>,
    /// A file of the daemon's host with the keys of S3.
    pub s3_keys_file: Option<PathBuf>,
    /// A directory of the daemon's host with the certificates for another
    /// daemon.
    pub tls_dir: Option<PathBuf>,
}

impl RepositoryRequest {
    /// Reads the files. Blocks.
    fn access(&self, state: &Path) -> Result<Access> {
        let location: Location = self.repository.parse()?;
        let secret = match (&self.secret, &self.key_file) {
            (Some(secret), None) => secret.clone(),
            (None, Some(file)) => Secret::read(file)?,
            (Some(_), Some(_)) => {
                return Err(EngineError::Invalid(
                    "a passphrase and a key file are given: give one of them".to_owned(),
                ));
            }
            (None, None) => {
                return Err(EngineError::Invalid(format!(
                    "repository {location}: no passphrase is given: name a file that holds it"
                )));
            }
        };
        let keys = self.s3_keys_file.as_deref().map(S3Keys::read).transpose()?;
        let certificates = self.tls_dir.clone();
        Ok(Access { location, secret, keys, certificates, state: Some(state.to_owned()) })
    }
}

/// What a backup is asked to do.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// Where to.
    pub to: RepositoryRequest,
    /// Which older backups of the volume stay; all of them without it.
    pub keep: Option<String>,
    /// Whether the containers that write are held while the volume's snapshot
    /// is taken.
    pub freeze: bool,
}

/// A repository whose turn it is.
struct Turn {
    repository: Arc<Repository>,
    location: Location,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

impl Engine {
    /// Backs a volume up, and tells how far that is.
    ///
    /// # Errors
    /// No such volume; wrong options. What fails later is the last message.
    pub async fn volume_backup(&self, name: &str, request: BackupRequest) -> Result<Messages> {
        let volume = self.volume_store().get(name)?;
        let keep: Option<Retention> = request.keep.as_deref().map(str::parse).transpose()?;
        let engine = self.clone();
        messages::run(|sink| async move {
            sink.send(Progress::about(volume.name.as_str(), "Preparing")).await;
            let made = engine.make_backup(&volume, &request, keep, &sink).await?;
            sink.send(Progress { aux: Some(made), ..Progress::default() }).await;
            Ok(())
        })
        .await
    }

    /// Makes a backup, and keeps its outcome for `volume inspect`.
    async fn make_backup(
        &self,
        volume: &Volume,
        request: &BackupRequest,
        keep: Option<Retention>,
        sink: &ProgressSink,
    ) -> Result<Value> {
        let stop = self.inner.stop.child_token();
        // When this future is dropped the work ends, and cleans up behind it.
        let _ends = stop.clone().drop_guard();
        let (engine, volume, request) = (self.clone(), volume.clone(), request.clone());
        let sink = sink.clone();
        self.detached(async move {
            let repository = request.to.repository.clone();
            let made = engine.backup_now(&volume, &request, keep, &sink, stop).await;
            engine.note_backup(&volume, &repository, &made).await;
            // Packs and indexes were in memory.
            engine.trim_after(usize::MAX);
            made.map(|made| made_json(&made))
        })
        .await
    }

    async fn backup_now(
        &self,
        volume: &Volume,
        request: &BackupRequest,
        keep: Option<Retention>,
        sink: &ProgressSink,
        stop: CancellationToken,
    ) -> Result<Made> {
        let turn = self.repository(&request.to).await?;
        let watch = Self::watch(volume.name.as_str(), "Backing up", sink, stop);
        let source = self.backup_source(volume, request.freeze).await?;
        let about = self.about(volume);
        let (repository, path, told) =
            (Arc::clone(&turn.repository), source.path.clone(), about.clone());
        let watching = watch.clone();
        crate::fault!("volume-backup:before-backup");
        let made = blocking(move || repository.backup(&path, &told, &watching)).await;
        crate::fault!("volume-backup:after-backup");
        self.release_source(source).await;
        let made = made?;
        if let Some(keep) = keep {
            let repository = Arc::clone(&turn.repository);
            let of = about.clone();
            blocking(move || repository.forget(&of.volume, &of.host, &keep, &watch)).await?;
        }
        Ok(made)
    }

    /// The backups in a repository, of one volume or all.
    ///
    /// # Errors
    /// A wrong passphrase, and what the storage refuses.
    pub async fn volume_backups(
        &self,
        of: RepositoryRequest,
        volume: Option<String>,
    ) -> Result<Value> {
        let repository = self.open_repository(&of).await?.0;
        let found = blocking(move || repository.list(volume.as_deref())).await?;
        Ok(found.iter().map(snapshot_json).collect())
    }

    /// Reads a repository whole, and says what is damaged in it.
    ///
    /// # Errors
    /// A wrong passphrase, and what the storage refuses.
    pub async fn volume_backup_check(&self, of: RepositoryRequest) -> Result<Messages> {
        let engine = self.clone();
        messages::run(|sink| async move {
            let stop = engine.inner.stop.child_token();
            let _ends = stop.clone().drop_guard();
            let (repository, location) = engine.open_repository(&of).await?;
            let watch = Self::watch(&location.to_string(), "Reading", &sink, stop);
            let checked = blocking(move || repository.check(&watch)).await?;
            let found = json!({ "Errors": checked.errors, "Warnings": checked.warnings });
            sink.send(Progress { aux: Some(found), ..Progress::default() }).await;
            Ok(())
        })
        .await
    }

    async fn open_repository(
        &self,
        request: &RepositoryRequest,
    ) -> Result<(Arc<Repository>, Location)> {
        let (request, state) = (request.clone(), self.config().data_root.join("backup"));
        let runtime = tokio::runtime::Handle::current();
        blocking_engine(move || {
            let access = request.access(&state)?;
            let location = access.location.clone();
            Ok((Arc::new(Repository::new(access, &runtime)?), location))
        })
        .await
    }

    /// A repository, when nobody else here uses it.
    async fn repository(&self, request: &RepositoryRequest) -> Result<Turn> {
        let (repository, location) = self.open_repository(request).await?;
        let turn = self.inner.backups.turn(&location).lock_owned().await;
        Ok(Turn { repository, location, _turn: turn })
    }

    /// What is kept with a backup of the volume.
    fn about(&self, volume: &Volume) -> About {
        About {
            volume: volume.name.to_string(),
            host: self.backup_host(),
            driver: volume.driver.clone(),
            labels: volume.labels.clone(),
            options: volume.options.clone(),
        }
    }

    /// The name of this host in backups.
    fn backup_host(&self) -> String {
        let named = self.config().node_name.clone();
        named.unwrap_or_else(|| {
            nix::sys::utsname::uname().map_or_else(
                |_| "localhost".to_owned(),
                |name| name.nodename().to_string_lossy().into_owned(),
            )
        })
    }

    /// Tells `sink` how far an operation is.
    fn watch(
        id: &str,
        status: &'static str,
        sink: &ProgressSink,
        stop: CancellationToken,
    ) -> Watch {
        let (id, sink) = (id.to_owned(), sink.clone());
        let told = Mutex::new(None::<Instant>);
        Watch::new(stop, move |progress| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.is_some_and(|at| at.elapsed() < TELL_EVERY) {
                return;
            }
            *told = Some(Instant::now());
            let total = Some(progress.total).filter(|t| *t > 0);
            sink.try_send(Progress::bytes(id.clone(), status, progress.done, total));
        })
    }

    /// Keeps what became of a backup, and tells of it.
    async fn note_backup(&self, volume: &Volume, repository: &str, made: &Result<Made>) {
        let name = volume.name.as_str();
        let mut carried = vec![
            ("driver".to_owned(), volume.driver.clone()),
            ("repository".to_owned(), repository.to_owned()),
        ];
        match made {
            Ok(made) => {
                self.inner.metrics.backed_up("ok");
                carried.push(("snapshot".to_owned(), made.snapshot.id.clone()));
            }
            Err(error) => {
                self.inner.metrics.backed_up("error");
                carried.push(("error".to_owned(), error.to_string()));
                tracing::warn!(volume = name, repository, %error, "the backup failed");
            }
        }
        let action = if made.is_ok() { "backup" } else { "backup-failed" };
        self.event_bus().publish(EventType::Volume, action, name, carried);
        if let Err(error) = self.keep_outcome(&volume.name, repository, made).await {
            tracing::warn!(volume = name, %error, "the backup's outcome is not kept");
        }
        crate::fault!("volume-backup:after-outcome");
    }
}

/// A name for a volume that lies beside `to` for a while, which no user would
/// choose.
fn beside(what: &str, to: &VolumeName) -> Result<VolumeName> {
    let name = format!("{what}.{}.{to}", random()?);
    name.parse().map_err(|_| VolumeError::InvalidName { name }.into())
}

/// Whether it has such a name.
pub(super) fn is_beside(name: &VolumeName) -> bool {
    let mut parts = name.as_str().splitn(3, '.');
    let what = parts.next();
    let random =
        parts.next().is_some_and(|r| r.len() == 16 && r.chars().all(|c| c.is_ascii_hexdigit()));
    matches!(what, Some("backup" | "restore")) && random && parts.next().is_some()
}

fn random() -> Result<String> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(|e| EngineError::Fault(e.to_string()))?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

/// Runs a call that blocks.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> std::result::Result<T, BackupError> + Send + 'static,
) -> Result<T> {
    blocking_engine(move || Ok(call()?)).await
}

async fn blocking_engine<T: Send + 'static>(
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let joined = tokio::task::spawn_blocking(call).await;
    joined.map_err(|e| EngineError::Fault(e.to_string()))?
}

fn snapshot_json(snapshot: &Snapshot) -> Value {
    json!({
        "Id": snapshot.id,
        "Time": snapshot.time.to_string(),
        "Volume": snapshot.about.volume,
        "Host": snapshot.about.host,
        "Driver": snapshot.about.driver,
        "Labels": snapshot.about.labels,
        "Options": snapshot.about.options,
        "Files": snapshot.files,
        "Size": snapshot.bytes,
        "Added": snapshot.added,
        "Unreadable": snapshot.unreadable,
    })
}

fn made_json(made: &Made) -> Value {
    let mut value = snapshot_json(&made.snapshot);
    value["Sent"] = json!(made.sent);
    value["Changed"] = json!(made.changed);
    value["Notes"] = json!(made.notes);
    value["Resumed"] = json!(made.resumed);
    value
}
