//! What the store keeps about backups and restorings, in versioned envelopes.
//!
//! Be aware: nothing secret is in them.

use std::sync::PoisonError;

use sampan_backup::Made;
use sampan_store::{Store, Transaction};
use sampan_types::{Timestamp, VolumeName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Backups;
use crate::envelope::{Envelope, RecordError};
use crate::{Engine, Result};

const OUTCOMES: &str = "volume-backups/";
const RESTORINGS: &str = "volume-restorings/";

const OUTCOME: Envelope = Envelope { noun: "volume-backup", version: 1 };
const RESTORING: Envelope = Envelope { noun: "volume-restoring", version: 1 };

/// What became of a volume's last backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) volume: VolumeName,
    /// Where to.
    pub(super) repository: String,
    /// When the last one ended, well or not.
    pub(super) attempted: Timestamp,
    /// When the last good one ended.
    pub(super) succeeded: Option<Timestamp>,
    /// The id of the last good one.
    pub(super) snapshot: Option<String>,
    /// Why the last one failed, when it did.
    pub(super) error: Option<String>,
    /// How many failed since a good one.
    pub(super) failures: u32,
}

impl Outcome {
    pub(super) fn shown(&self) -> Value {
        json!({
            "Repository": self.repository,
            "LastAttempt": self.attempted.to_string(),
            "LastSuccess": self.succeeded.map(|at| at.to_string()),
            "Snapshot": self.snapshot,
            "Error": self.error,
        })
    }
}

/// A volume that is being restored beside the one that it shall become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Restoring {
    /// What is being filled.
    pub(super) beside: VolumeName,
    /// The name that it gets.
    pub(super) to: VolumeName,
    /// Whether it is whole: then it takes the other one's place.
    pub(super) whole: bool,
}

impl Restoring {
    fn key(&self) -> String {
        format!("{RESTORINGS}{}", self.beside)
    }
}

impl Backups {
    /// Reads the outcomes from the store. Damaged records are reported and
    /// left.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn open(store: &dyn Store) -> Result<Self> {
        let backups = Self::default();
        for (key, value) in store.list(OUTCOMES).await?.entries {
            match OUTCOME.decode::<Outcome>(&key, &value.value) {
                Ok(outcome) => {
                    let mut known = backups.known();
                    known.insert(outcome.volume.to_string(), outcome);
                }
                Err(error) => tracing::error!(%error, "the outcome of a backup is forgotten"),
            }
        }
        Ok(backups)
    }

    pub(super) fn known(
        &self,
    ) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, Outcome>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn outcome(&self, volume: &str) -> Option<Outcome> {
        self.known().get(volume).cloned()
    }
}

impl Engine {
    /// Keeps what became of a backup.
    pub(super) async fn keep_outcome(
        &self,
        volume: &VolumeName,
        repository: &str,
        made: &Result<Made>,
    ) -> Result<()> {
        let before = self.inner.backups.outcome(volume.as_str());
        let now = Timestamp::now();
        let (succeeded, snapshot) = match made {
            Ok(made) => (Some(now), Some(made.snapshot.id.clone())),
            Err(_) => before.as_ref().map_or((None, None), |b| (b.succeeded, b.snapshot.clone())),
        };
        let failed = before.map_or(0, |b| b.failures);
        let outcome = Outcome {
            volume: volume.clone(),
            repository: repository.to_owned(),
            attempted: now,
            succeeded,
            snapshot,
            error: made.as_ref().err().map(ToString::to_string),
            failures: if made.is_ok() { 0 } else { failed.saturating_add(1) },
        };
        let key = format!("{OUTCOMES}{volume}");
        let bytes = OUTCOME.encode(|| key.clone(), &outcome)?;
        // Known at once: the schedule goes by it, whatever the store says.
        self.inner.backups.known().insert(volume.to_string(), outcome);
        self.inner.backups.changed.notify_one();
        self.store().commit(Transaction::put(&key, bytes)).await?;
        Ok(())
    }

    /// Forgets what is known of a volume's backups: it is gone.
    pub(crate) async fn forget_outcome(&self, volume: &str) -> Result<()> {
        if self.inner.backups.known().remove(volume).is_some() {
            self.store().commit(Transaction::delete(format!("{OUTCOMES}{volume}"))).await?;
        }
        Ok(())
    }

    pub(super) async fn put_restoring(&self, restoring: &Restoring) -> Result<()> {
        let key = restoring.key();
        let bytes = RESTORING.encode(|| key.clone(), restoring)?;
        self.store().commit(Transaction::put(key, bytes)).await?;
        Ok(())
    }

    pub(super) async fn delete_restoring(&self, restoring: &Restoring) -> Result<()> {
        self.store().commit(Transaction::delete(restoring.key())).await?;
        Ok(())
    }

    /// What an earlier daemon was restoring.
    pub(super) async fn restorings(&self) -> Result<Vec<Restoring>> {
        let entries = self.store().list(RESTORINGS).await?.entries;
        let read = |(key, value): (String, sampan_store::Versioned)| {
            let decoded: std::result::Result<Restoring, RecordError> =
                RESTORING.decode(&key, &value.value);
            decoded.inspect_err(|error| tracing::error!(%error, "a restoring is left")).ok()
        };
        Ok(entries.into_iter().filter_map(read).collect())
    }
}
