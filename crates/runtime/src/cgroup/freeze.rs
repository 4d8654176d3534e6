//! Stopping all processes of a group, and letting them go on.

use std::path::Path;
use std::time::Duration;

use sampan_sys::watch::{AddWatchFlags, Watch};
use tokio::time::{Instant, timeout_at};

use super::files::{io_error, keyed, parse_keyed, read, write};
use super::{Cgroup, CgroupError};

/// A process in an uninterruptible call freezes only after it.
const PATIENCE: Duration = Duration::from_secs(10);
/// v1 tells nobody when it is done: its state is read again after a pause.
const V1_PAUSE: Duration = Duration::from_millis(2);
const V1_LONGEST_PAUSE: Duration = Duration::from_millis(50);

impl Cgroup {
    /// Stops (or lets go on) all processes; returns when they are.
    ///
    /// # Errors
    /// [`CgroupError::Timeout`]: the change is taken back then.
    pub async fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let result = match (self.v1("freezer"), self.unified()) {
            (Some(dir), _) => freeze_v1(&dir, frozen).await,
            (None, Some(dir)) => freeze_v2(&dir, frozen).await,
            (None, None) => Err(CgroupError::NoController("freezer")),
        };
        if frozen && matches!(result, Err(CgroupError::Timeout { .. })) {
            self.set_frozen(false)?;
        }
        result
    }

    /// Whether the processes are frozen.
    ///
    /// # Errors
    /// When it can't be read; an absent cgroup is not frozen.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        match (self.v1("freezer"), self.unified()) {
            (Some(dir), _) => v1_is(&dir, "FROZEN"),
            (None, Some(dir)) => Ok(keyed(&dir.join("cgroup.events"))?.get("frozen") == Some(&1)),
            (None, None) => Ok(false),
        }
    }

    /// Asks for the state without waiting for it.
    pub(super) fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        match (self.v1("freezer"), self.unified()) {
            (Some(dir), _) => write(&dir.join("freezer.state"), v1_word(frozen)),
            (None, Some(dir)) => write(&dir.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
            (None, None) => Ok(()),
        }
    }
}

fn v1_word(frozen: bool) -> &'static str {
    if frozen { "FROZEN" } else { "THAWED" }
}

fn v1_is(dir: &Path, word: &str) -> Result<bool, CgroupError> {
    Ok(read(&dir.join("freezer.state"))?.is_some_and(|state| state.trim() == word))
}

async fn freeze_v1(dir: &Path, frozen: bool) -> Result<(), CgroupError> {
    let until = Instant::now() + PATIENCE;
    let mut pause = V1_PAUSE;
    loop {
        // Written each time: a process that forks meanwhile is caught by the next.
        write(&dir.join("freezer.state"), v1_word(frozen))?;
        if v1_is(dir, v1_word(frozen))? {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(timeout(dir, frozen));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(V1_LONGEST_PAUSE);
    }
}

async fn freeze_v2(dir: &Path, frozen: bool) -> Result<(), CgroupError> {
    let events = dir.join("cgroup.events");
    let watch = Watch::new()
        .and_then(|w| w.add(&events, AddWatchFlags::IN_MODIFY).map(|_| w))
        .map_err(|e| io_error("watching", &events, e))?;
    write(&dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
    let until = Instant::now() + PATIENCE;
    loop {
        let text = read(&events)?.unwrap_or_default();
        if parse_keyed(&text).get("frozen") == Some(&u64::from(frozen)) {
            return Ok(());
        }
        match timeout_at(until, watch.changed()).await {
            Err(_) => return Err(timeout(dir, frozen)),
            Ok(Err(e)) => return Err(io_error("watching", &events, e)),
            Ok(Ok(())) => {}
        }
    }
}

fn timeout(dir: &Path, frozen: bool) -> CgroupError {
    CgroupError::Timeout {
        operation: if frozen { "freezing" } else { "thawing" },
        path: dir.to_owned(),
        seconds: PATIENCE.as_secs(),
    }
}
