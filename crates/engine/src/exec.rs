//! Further processes in running containers.
//!
//! Be aware:
//! - What is prepared but not started lives in memory only and is gone with
//!   the daemon, as Docker's. What runs has its own shim and a record beside
//!   it: the next daemon goes on with it.
//! - What has ended is remembered for some minutes, for `inspect`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sampan_runtime::spec::{self, ExecInput};
use sampan_runtime::user;
use sampan_runtime::{AttachStream, ExecProcess, ExecRequest, IoConfig};
use sampan_types::docker::{ExecConfig, ExecInspectResponse, ProcessConfig};
use sampan_types::{ContainerId, ExecId};
use serde::{Deserialize, Serialize};

use crate::Engine;
use crate::attach::{self, Attachment};
use crate::container::Container;
use crate::container::state::Status;
use crate::error::{EngineError, Result};

/// How long an ended exec is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);

/// How an exec is started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecStartOptions {
    /// Do not attach; answer when it runs.
    pub detach: bool,
    /// Whether the client expects a terminal; the exec's own setting decides.
    pub tty: bool,
    /// The terminal's first size: rows, columns.
    pub console_size: Option<(u16, u16)>,
}

/// Where an exec is in its life.
#[derive(Debug, Clone)]
enum Stage {
    Prepared,
    Starting,
    Running(ExecProcess),
    Ended { code: i32, at: Instant },
}

/// One exec.
#[derive(Debug)]
pub(crate) struct Exec {
    id: ExecId,
    container: ContainerId,
    config: ExecConfig,
    /// Locked for a look or a step.
    stage: Mutex<Stage>,
}

/// What is kept beside a running exec, for the next daemon.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    version: u32,
    config: ExecConfig,
}

impl Exec {
    fn new(container: &ContainerId, config: ExecConfig) -> Arc<Self> {
        let (id, stage) = (ExecId::random(), Mutex::new(Stage::Prepared));
        Arc::new(Self { id, container: container.clone(), config, stage })
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tty(&self) -> bool {
        self.config.tty.unwrap_or(false)
    }

    /// The words of the command, as events show them.
    fn words(&self) -> String {
        self.config.cmd.as_deref().unwrap_or_default().join(" ")
    }

    /// Over when the exit code is known: clients ask for it as soon as the
    /// output ends.
    async fn ended(self: Arc<Self>) {
        let Stage::Running(process) = self.stage().clone() else { return };
        let status = process.wait().await;
        self.end(status.code);
    }

    fn end(&self, code: i32) {
        *self.stage() = Stage::Ended { code, at: Instant::now() };
    }
}

/// All execs by id. Locked for a look-up.
#[derive(Debug, Default)]
pub(crate) struct ExecTable(Mutex<HashMap<String, Arc<Exec>>>);

impl ExecTable {
    fn map(&self) -> MutexGuard<'_, HashMap<String, Arc<Exec>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, exec: &Arc<Exec>) {
        let mut map = self.map();
        map.retain(
            |_, e| !matches!(&*e.stage(), Stage::Ended { at, .. } if at.elapsed() > REMEMBERED),
        );
        map.insert(exec.id.to_string(), Arc::clone(exec));
    }

    fn get(&self, id: &str) -> Result<Arc<Exec>> {
        self.map().get(id).cloned().ok_or_else(|| EngineError::NoSuchExec(id.to_owned()))
    }
}

impl Engine {
    /// Prepares a process in a running container.
    ///
    /// # Errors
    /// No such container, not running, paused, an empty command, wrong keys.
    pub async fn exec_create(&self, id: &str, config: ExecConfig) -> Result<ExecId> {
        let c = self.container(id)?;
        check_running(&c)?;
        if config.cmd.as_ref().is_none_or(|cmd| cmd.first().is_none_or(String::is_empty)) {
            return Err(EngineError::Invalid("No exec command specified".to_owned()));
        }
        attach::scanner(config.detach_keys.as_deref(), false)?;
        if let Some(wrong) =
            config.env.iter().flatten().find(|e| e.is_empty() || e.starts_with('='))
        {
            return Err(EngineError::Invalid(format!("invalid environment variable: {wrong}")));
        }
        let dir = config.working_dir.as_deref().filter(|d| !d.is_empty() && !d.starts_with('/'));
        if let Some(dir) = dir {
            return Err(EngineError::Invalid(format!(
                "the working directory '{dir}' is invalid, it needs to be an absolute path"
            )));
        }
        let exec = self.exec_prepare(&c, config);
        Ok(exec.id.clone())
    }

    pub(crate) fn exec_prepare(&self, c: &Container, config: ExecConfig) -> Arc<Exec> {
        let exec = Exec::new(c.id(), config);
        self.inner.execs.insert(&exec);
        self.exec_event(c, &exec, &format!("exec_create: {}", exec.words()), None);
        exec
    }

    /// Runs a prepared process; with `detach` there is nothing to attach to.
    /// What can't be run is told to an attached client in its output, as
    /// dockerd does, and by `inspect`'s exit code.
    ///
    /// # Errors
    /// No such exec, started before, container not running; with `detach`:
    /// no such program.
    pub async fn exec_start(
        &self,
        id: &str,
        options: ExecStartOptions,
    ) -> Result<Option<Attachment>> {
        let exec = self.inner.execs.get(id)?;
        let c = self
            .container_by_id(&exec.container)
            .ok_or_else(|| EngineError::NoSuchContainer(exec.container.to_string()))?;
        check_running(&c)?;
        {
            let mut stage = exec.stage();
            match &*stage {
                Stage::Prepared => *stage = Stage::Starting,
                Stage::Ended { .. } => {
                    return Err(EngineError::Conflict(format!(
                        "Error: Exec command {id} has already run"
                    )));
                }
                Stage::Starting | Stage::Running(_) => {
                    return Err(EngineError::Conflict(format!(
                        "Error: Exec command {id} is already running"
                    )));
                }
            }
        }
        let (tty, stdin) = (exec.tty(), exec.config.attach_stdin.unwrap_or(false));
        let scanner = attach::scanner(exec.config.detach_keys.as_deref(), tty)?;
        let (engine, attached) = (self.clone(), !options.detach);
        let running = Arc::clone(&exec);
        let run = self.detached(async move {
            engine.exec_run(&c, &running, attached, options.console_size).await
        });
        match run.await {
            Ok(Some(streams)) => {
                Ok(Some(Attachment::new(tty, streams, stdin, scanner, exec.ended())))
            }
            Ok(None) => Ok(None),
            Err(e @ EngineError::Start { .. }) if attached => {
                Ok(Some(Attachment::text(tty, format!("{e}\r\n"))))
            }
            Err(e) => Err(e),
        }
    }

    /// Starts a prepared exec and watches over it.
    pub(crate) async fn exec_run(
        &self,
        c: &Arc<Container>,
        exec: &Arc<Exec>,
        attached: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Option<AttachStream>> {
        let started = self.exec_launch(c, exec, attached, size).await;
        match started {
            Ok((process, streams)) => {
                *exec.stage() = Stage::Running(process.clone());
                self.inner.metrics.execs.inc();
                self.exec_event(c, exec, &format!("exec_start: {}", exec.words()), None);
                self.exec_supervise(c, exec, process);
                Ok(streams)
            }
            Err(e) => {
                let code =
                    if let EngineError::Start { exit_code, .. } = &e { *exit_code } else { 126 };
                exec.end(code);
                Err(e)
            }
        }
    }

    async fn exec_launch(
        &self,
        c: &Arc<Container>,
        exec: &Exec,
        attached: bool,
        size: Option<(u16, u16)>,
    ) -> Result<(ExecProcess, Option<AttachStream>)> {
        let record = c.record();
        let rootfs = self.image_store().snapshot(c.id())?.merged;
        let groups = record.host_config.group_add.clone().unwrap_or_default();
        let own = exec.config.user.clone().filter(|u| !u.is_empty());
        let who = own.or_else(|| record.config.user.clone()).unwrap_or_default();
        let user = self.blocking(move || Ok(user::resolve(&rootfs, &who, &groups)?)).await?;
        let process = spec::exec_process(&ExecInput {
            config: &self.linked_config(&record),
            host: &record.host_config,
            exec: &exec.config,
            user: &user,
            hostname: record.config.hostname.as_deref().unwrap_or_default(),
            default_ulimits: &self.default_ulimits(),
            facts: self.host_facts(),
        })?;
        let own_size = exec.config.console_size.as_deref().and_then(|s| match s {
            [rows, columns] => Some((u16::try_from(*rows).ok()?, u16::try_from(*columns).ok()?)),
            _ => None,
        });
        let size = size.or(own_size).filter(|(rows, columns)| *rows > 0 && *columns > 0);
        let stdin = attached && exec.config.attach_stdin.unwrap_or(false);
        let io =
            IoConfig { tty: exec.tty(), open_stdin: stdin, stdin_once: true, console_size: size };
        let request = ExecRequest { id: exec.id.clone(), process, io };
        let process = self
            .inner
            .runtime
            .exec(c.id(), request)
            .await
            .map_err(crate::container::start_failure)?;
        crate::fault!("exec:after-create");
        let ready = async {
            self.exec_keep(exec).await?;
            let streams = if attached {
                let wanted = sampan_runtime::AttachOptions {
                    stdin,
                    stdout: exec.config.attach_stdout.unwrap_or(false),
                    stderr: exec.config.attach_stderr.unwrap_or(false),
                };
                Some(process.attach(wanted).await?)
            } else {
                None
            };
            process.start().await.map_err(crate::container::start_failure)?;
            crate::fault!("exec:after-start");
            Ok(streams)
        };
        match ready.await {
            Ok(streams) => Ok((process, streams)),
            Err(e) => {
                self.exec_remove(&exec.container, &exec.id).await;
                Err(e)
            }
        }
    }

    fn exec_dir(&self, container: &ContainerId) -> PathBuf {
        let exec_root = &self.inner.config.exec_root;
        exec_root.join("containers").join(container.as_str()).join("exec")
    }

    /// Writes what the next daemon needs to know, beside the exec's shim.
    async fn exec_keep(&self, exec: &Exec) -> Result<()> {
        let dir = self.exec_dir(&exec.container).join(exec.id.as_str());
        let kept = Kept { version: 1, config: exec.config.clone() };
        self.blocking(move || {
            let path = dir.join("record.json");
            let failed = |e| EngineError::io("write", path.display(), e);
            let bytes = serde_json::to_vec(&kept).map_err(|e| failed(std::io::Error::other(e)))?;
            std::fs::create_dir_all(&dir)
                .and_then(|()| sampan_sys::file::write_replace(&path, &bytes, 0o600))
                .map_err(failed)
        })
        .await
    }

    fn exec_supervise(&self, c: &Arc<Container>, exec: &Arc<Exec>, process: ExecProcess) {
        let (engine, c, exec) = (self.clone(), Arc::clone(c), Arc::clone(exec));
        self.inner.tasks.spawn(async move {
            let status = tokio::select! {
                status = process.wait() => status,
                () = engine.inner.stop.cancelled() => return,
            };
            exec.end(status.code);
            engine.exec_event(&c, &exec, "exec_die", Some(status.code));
            engine.exec_remove(&exec.container, &exec.id).await;
        });
    }

    /// Takes away the shim of an exec and what lies on the disk for it. What
    /// stays goes with the container's run.
    async fn exec_remove(&self, container: &ContainerId, exec: &ExecId) {
        if let Err(error) = self.inner.runtime.remove_exec(container, exec).await {
            tracing::warn!(exec = exec.short(), %error, "exec is not removed");
        }
    }

    fn exec_event(&self, c: &Container, exec: &Exec, action: &str, code: Option<i32>) {
        let code = code.map(|c| c.to_string());
        let mut more = vec![("execID", exec.id.as_str())];
        if let Some(code) = &code {
            more.push(("exitCode", code));
        }
        self.container_event(c, action, &more);
    }

    /// Gives the terminal of an exec a new size.
    ///
    /// # Errors
    /// No such exec, not running, no terminal.
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let exec = self.inner.execs.get(id)?;
        let Stage::Running(process) = exec.stage().clone() else {
            return Err(EngineError::Conflict(format!("exec {id} is not running")));
        };
        Ok(process.resize(rows, columns).await?)
    }

    /// The shape that `GET /exec/{id}/json` answers.
    ///
    /// # Errors
    /// No such exec.
    pub fn exec_inspect(&self, id: &str) -> Result<ExecInspectResponse> {
        let exec = self.inner.execs.get(id)?;
        let (running, code, pid) = match &*exec.stage() {
            Stage::Prepared => (false, None, 0),
            Stage::Starting => (true, None, 0),
            Stage::Running(process) => (true, None, process.pid().unwrap_or(0)),
            Stage::Ended { code, .. } => (false, Some(*code), 0),
        };
        let mut words = exec.config.cmd.clone().unwrap_or_default();
        let entrypoint = if words.is_empty() { String::new() } else { words.remove(0) };
        Ok(ExecInspectResponse {
            can_remove: Some(false),
            detach_keys: Some(exec.config.detach_keys.clone().unwrap_or_default()),
            id: Some(exec.id.to_string()),
            running: Some(running),
            exit_code: code.map(i64::from),
            process_config: Some(ProcessConfig {
                privileged: Some(exec.config.privileged.unwrap_or(false)),
                user: exec.config.user.clone(),
                tty: Some(exec.tty()),
                entrypoint: Some(entrypoint),
                arguments: Some(words),
            }),
            open_stdin: Some(exec.config.attach_stdin.unwrap_or(false)),
            open_stderr: Some(exec.config.attach_stderr.unwrap_or(false)),
            open_stdout: Some(exec.config.attach_stdout.unwrap_or(false)),
            container_id: Some(exec.container.to_string()),
            pid: Some(i64::from(pid)),
        })
    }

    /// The ids of a container's execs that have not ended, for `inspect`.
    #[must_use]
    pub fn exec_ids(&self, id: &ContainerId) -> Vec<ExecId> {
        let map = self.inner.execs.map();
        let mut ids: Vec<ExecId> = map
            .values()
            .filter(|e| e.container == *id && !matches!(&*e.stage(), Stage::Ended { .. }))
            .map(|e| e.id.clone())
            .collect();
        ids.sort();
        ids
    }

    /// Forgets the execs of a container that is gone.
    pub(crate) fn forget_execs(&self, id: &ContainerId) {
        self.inner.execs.map().retain(|_, e| e.container != *id);
    }

    /// Forgets one exec: a health probe's.
    pub(crate) fn forget_exec(&self, exec: &Exec) {
        self.inner.execs.map().remove(exec.id.as_str());
    }

    /// Takes over the execs of an adopted container.
    pub(crate) async fn adopt_execs(&self, c: &Arc<Container>) {
        let dir = self.exec_dir(c.id());
        let found = self.blocking(move || Ok(kept_execs(&dir))).await.unwrap_or_default();
        for (id, config) in found {
            let Some(config) = config else {
                self.exec_remove(c.id(), &id).await;
                continue;
            };
            let stage = match self.inner.runtime.connect_exec(c.id(), &id).await {
                Ok(Some(process)) if process.pid().is_some() => Stage::Running(process),
                Ok(Some(_)) => {
                    // It was never run: its client is gone with the old daemon.
                    self.exec_remove(c.id(), &id).await;
                    continue;
                }
                Ok(None) => {
                    let exit = self.inner.runtime.recorded_exec_exit(c.id(), &id).ok().flatten();
                    self.exec_remove(c.id(), &id).await;
                    Stage::Ended { code: exit.map_or(137, |e| e.code), at: Instant::now() }
                }
                Err(error) => {
                    tracing::warn!(exec = id.short(), %error, "exec is not adopted");
                    continue;
                }
            };
            let running = if let Stage::Running(p) = &stage { Some(p.clone()) } else { None };
            let container = c.id().clone();
            let exec = Arc::new(Exec { id, container, config, stage: Mutex::new(stage) });
            self.inner.execs.insert(&exec);
            if let Some(process) = running {
                self.exec_supervise(c, &exec, process);
            }
        }
    }
}

impl Exec {
    /// The process while it runs.
    pub(crate) fn process(&self) -> Option<ExecProcess> {
        match &*self.stage() {
            Stage::Running(process) => Some(process.clone()),
            _ => None,
        }
    }

    /// How it ended.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        match &*self.stage() {
            Stage::Ended { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// The execs that an earlier daemon left below `dir`; without a configuration
/// when it died before it had kept one.
fn kept_execs(dir: &std::path::Path) -> Vec<(ExecId, Option<ExecConfig>)> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let id: ExecId = entry.file_name().to_str()?.parse().ok()?;
            let kept = || -> Option<ExecConfig> {
                let bytes = std::fs::read(entry.path().join("record.json")).ok()?;
                let kept: Kept = serde_json::from_slice(&bytes).ok()?;
                (kept.version == 1).then_some(kept.config)
            };
            Some((id, kept()))
        })
        .collect()
}

fn check_running(c: &Container) -> Result<()> {
    match c.record().state.status {
        Status::Running => Ok(()),
        Status::Paused => Err(EngineError::PausedExec(c.id().to_string())),
        Status::Restarting => Err(EngineError::Restarting(c.id().to_string())),
        _ => Err(EngineError::NotRunning(c.id().to_string())),
    }
}
