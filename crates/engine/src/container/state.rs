//! A container's observed state and the one function that steps it.
//!
//! Be aware:
//! - A step that does not fit the present state is refused and changes
//!   nothing; callers turn the refusal into Docker's words.
//! - `Restarting` counts as running wherever Docker asks "is it running":
//!   see [`State::is_running`].

use sampan_types::{Timestamp, docker};
use serde::{Deserialize, Serialize};

/// The words that `docker ps` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started.
    #[default]
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It ended and the restart policy will start it again.
    Restarting,
    /// It is being removed.
    Removing,
    /// It ended.
    Exited,
    /// Its removal failed half-way.
    Dead,
}

impl Status {
    /// All words, in the order in which metrics and documentation list them.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Restarting,
        Self::Removing,
        Self::Exited,
        Self::Dead,
    ];

    /// The word that the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

/// How well a container feels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Not enough probes yet.
    #[default]
    Starting,
    /// The last probe succeeded.
    Healthy,
    /// As many probes as `retries` failed in a row.
    Unhealthy,
}

impl HealthStatus {
    /// The word that the API and events use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One health probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthResult {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// 0 healthy, 1 unhealthy, -1 it could not be run or took too long.
    pub exit_code: i64,
    /// Its output, cut at 4096 bytes.
    pub output: String,
}

/// The health of a running container that has a health check.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Health {
    /// The verdict.
    pub status: HealthStatus,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The last five probes, oldest first.
    pub log: Vec<HealthResult>,
}

/// What was last observed of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// The word for it.
    pub status: Status,
    /// The init process in the host's numbering; 0 when there is none.
    pub pid: u32,
    /// How it last ended; 0 while it runs.
    pub exit_code: i32,
    /// Why it could not be started or removed; empty when nothing is wrong.
    pub error: String,
    /// Whether the kernel killed it for lack of memory.
    pub oom_killed: bool,
    /// When it was last started.
    pub started: Timestamp,
    /// When it last ended.
    pub finished: Timestamp,
    /// Its health, when it has a health check and was started.
    pub health: Option<Health>,
}

/// What happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// Its process was started.
    Started {
        /// The init process.
        pid: u32,
        /// When.
        at: Timestamp,
        /// Whether it has a health check.
        health: bool,
    },
    /// It could not be started.
    Failed {
        /// Docker's exit code: 126, 127 or 128.
        code: i32,
        /// Why.
        error: String,
    },
    /// Its process ended.
    Ended {
        /// The exit code, 128 + n when signal n killed it.
        code: i32,
        /// When.
        at: Timestamp,
        /// Whether the kernel killed it for lack of memory.
        oom_killed: bool,
        /// Whether the restart policy will start it again.
        restarts: bool,
    },
    /// The restart policy was called off before it started the container.
    RestartCancelled,
    /// Its processes were frozen.
    Frozen,
    /// Its processes were thawed.
    Thawed,
    /// Its removal begins.
    RemovalBegan,
    /// Its removal failed.
    RemovalFailed {
        /// Why.
        error: String,
    },
}

/// A transition that does not fit the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a container that is {} cannot take this step", status.as_str())]
pub struct Refused {
    /// The state that it is in.
    pub status: Status,
}

impl State {
    /// Whether Docker counts it as running: running, paused or restarting.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused | Status::Restarting)
    }

    /// Whether it has a process: running or paused.
    #[must_use]
    pub fn has_process(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused)
    }

    /// Steps to the next state; see [`Transition`].
    ///
    /// # Errors
    /// When the step does not fit the present state, which is kept.
    pub fn step(&mut self, transition: Transition) -> Result<(), Refused> {
        use Status::{Created, Dead, Exited, Paused, Removing, Restarting, Running};
        let refused = Err(Refused { status: self.status });
        match transition {
            Transition::Started { pid, at, health } => {
                if !matches!(self.status, Created | Exited | Restarting) {
                    return refused;
                }
                *self = Self {
                    status: Running,
                    pid,
                    started: at,
                    finished: self.finished,
                    health: health.then(Health::default),
                    ..Self::default()
                };
            }
            Transition::Failed { code, error } => {
                if !matches!(self.status, Created | Exited | Restarting) {
                    return refused;
                }
                self.status = if self.started.is_never() { Created } else { Exited };
                self.pid = 0;
                self.exit_code = code;
                self.error = error;
            }
            Transition::Ended { code, at, oom_killed, restarts } => {
                if !self.has_process() {
                    return refused;
                }
                self.status = if restarts { Restarting } else { Exited };
                self.pid = 0;
                self.exit_code = code;
                self.finished = at;
                self.oom_killed = oom_killed;
            }
            Transition::RestartCancelled => {
                if self.status != Restarting {
                    return refused;
                }
                self.status = Exited;
            }
            Transition::Frozen => {
                if self.status != Running {
                    return refused;
                }
                self.status = Paused;
            }
            Transition::Thawed => {
                if self.status != Paused {
                    return refused;
                }
                self.status = Running;
            }
            Transition::RemovalBegan => {
                if self.has_process() {
                    return refused;
                }
                self.status = Removing;
                self.pid = 0;
            }
            Transition::RemovalFailed { error } => {
                if self.status != Removing {
                    return refused;
                }
                self.status = Dead;
                self.error = error;
            }
        }
        Ok(())
    }

    /// The state as the API's type, without `Health` when there is none.
    #[must_use]
    pub fn to_docker(&self) -> docker::ContainerState {
        use docker::ContainerStateStatusEnum as S;
        let status = match self.status {
            Status::Created => S::CREATED,
            Status::Running => S::RUNNING,
            Status::Paused => S::PAUSED,
            Status::Restarting => S::RESTARTING,
            Status::Removing => S::REMOVING,
            Status::Exited => S::EXITED,
            Status::Dead => S::DEAD,
        };
        docker::ContainerState {
            status: Some(status),
            running: Some(self.is_running()),
            paused: Some(self.status == Status::Paused),
            restarting: Some(self.status == Status::Restarting),
            oom_killed: Some(self.oom_killed),
            dead: Some(self.status == Status::Dead),
            pid: Some(i64::from(self.pid)),
            exit_code: Some(i64::from(self.exit_code)),
            error: Some(self.error.clone()),
            started_at: Some(self.started.to_string()),
            finished_at: Some(self.finished.to_string()),
            health: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(pid: u32) -> Transition {
        Transition::Started { pid, at: Timestamp::from_nanos(5), health: false }
    }

    fn ended(code: i32, restarts: bool) -> Transition {
        let at = Timestamp::from_nanos(9);
        Transition::Ended { code, at, oom_killed: false, restarts }
    }

    #[test]
    fn a_life() {
        let mut s = State::default();
        s.step(started(7)).unwrap();
        assert_eq!((s.status, s.pid), (Status::Running, 7));
        s.step(Transition::Frozen).unwrap();
        assert!(s.is_running());
        assert!(s.step(Transition::RemovalBegan).is_err());
        s.step(Transition::Thawed).unwrap();
        s.step(ended(3, true)).unwrap();
        assert_eq!((s.status, s.pid, s.exit_code), (Status::Restarting, 0, 3));
        s.step(started(8)).unwrap();
        assert_eq!(s.exit_code, 0);
        s.step(ended(0, false)).unwrap();
        s.step(Transition::RemovalBegan).unwrap();
        assert!(s.step(started(9)).is_err());
        s.step(Transition::RemovalFailed { error: "busy".into() }).unwrap();
        assert_eq!(s.status, Status::Dead);
        s.step(Transition::RemovalBegan).unwrap();
    }

    #[test]
    fn a_failed_start_stays_created_until_it_ran() {
        let mut s = State::default();
        s.step(Transition::Failed { code: 127, error: "no".into() }).unwrap();
        assert_eq!((s.status, s.exit_code), (Status::Created, 127));
        s.step(started(1)).unwrap();
        assert_eq!(s.error, "");
        s.step(ended(0, true)).unwrap();
        s.step(Transition::Failed { code: 128, error: "no".into() }).unwrap();
        assert_eq!(s.status, Status::Exited);
    }

    #[test]
    fn steps_that_do_not_fit_change_nothing() {
        let mut s = State::default();
        for t in [ended(1, false), Transition::Frozen, Transition::Thawed] {
            assert_eq!(s.step(t), Err(Refused { status: Status::Created }));
        }
        assert_eq!(s, State::default());
        assert!(s.step(Transition::RestartCancelled).is_err());
    }
}
