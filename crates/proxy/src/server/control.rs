//! The process's life: its beginning, the daemon's requests, its end.
//!
//! ```text
//! daemon ──starts it, with a connection──> Hello, Restore ──> sockets are open
//!        ──> an older process is told to quit ──> listens at <exec-root>/proxy.sock
//! ```
//!
//! Be aware:
//! - It listens at the path only when it answers for everything; until then
//!   an older process does, and a daemon that dies meanwhile changes nothing.
//! - Requests of one connection are carried out one after the other.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_sys::watch::{AddWatchFlags, Watch};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::Server;
use crate::protocol::{self, Request, Response};
use crate::{host, paths};

/// How long the process waits for a daemon with nothing to answer for.
const LONELY: Duration = Duration::from_secs(10);
/// How long an older process may take to quit.
const QUIT_PATIENCE: Duration = Duration::from_secs(2);
/// How often a process that quits looks whether it is done.
const QUIT_STEP: Duration = Duration::from_millis(10);

/// What the process is told when it is started.
#[derive(Debug)]
pub struct Options {
    /// Where its socket is.
    pub exec_root: PathBuf,
    /// The host's resolver configuration.
    pub resolv_conf: PathBuf,
}

struct Process {
    server: Server,
    options: Options,
    build: String,
    /// Whether this process listens at the path.
    owns: Cell<bool>,
    connections: Cell<usize>,
    /// Something that the end depends on changed.
    changed: Notify,
    quit: Cell<bool>,
}

/// Runs until nobody needs the process any more. `daemon` is the connection to
/// who started it.
///
/// # Errors
/// When it can't begin.
pub async fn run(options: Options, daemon: Option<OwnedFd>) -> io::Result<()> {
    let process = Rc::new(Process {
        server: Server::new(),
        build: protocol::build(Path::new("/proc/self/exe"))?,
        options,
        owns: Cell::new(false),
        connections: Cell::new(0),
        changed: Notify::new(),
        quit: Cell::new(false),
    });
    raise_limits();
    process.server.reload_host(&process.options.resolv_conf);
    tokio::task::spawn_local(follow_host(Rc::clone(&process)));
    match daemon {
        Some(socket) => {
            let stream = std::os::unix::net::UnixStream::from(socket);
            stream.set_nonblocking(true)?;
            Process::attend(&process, UnixStream::from_std(stream)?);
        }
        None => Process::take_over(&process).await?,
    }
    process.lonely().await;
    if process.quit.get() {
        process.drain().await;
    } else if process.owns.get() {
        let _ = std::fs::remove_file(paths::socket(&process.options.exec_root));
    }
    tracing::info!("the name service ends");
    Ok(())
}

/// As many descriptors as may be had: each sandbox takes a few.
fn raise_limits() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

async fn follow_host(process: Rc<Process>) {
    let path = process.options.resolv_conf.clone();
    let changed = || process.server.reload_host(&path);
    if let Err(error) = host::watch(path.clone(), changed).await {
        tracing::error!(%error, path = %path.display(), "changes of the file are not seen");
    }
}

impl Process {
    /// Listens to a daemon on a task of its own.
    fn attend(this: &Rc<Self>, stream: UnixStream) {
        let own = nix::unistd::geteuid().as_raw();
        let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0);
        if !allowed {
            tracing::warn!("a connection of another user is refused");
            return;
        }
        let this = Rc::clone(this);
        this.connections.set(this.connections.get() + 1);
        tokio::task::spawn_local(async move {
            if let Err(error) = Self::converse(&this, stream).await {
                tracing::warn!(%error, "a connection ends");
            }
            this.connections.set(this.connections.get() - 1);
            this.changed.notify_one();
        });
    }

    async fn converse(this: &Rc<Self>, mut stream: UnixStream) -> io::Result<()> {
        while let Some(request) = protocol::receive::<Request>(&mut stream).await? {
            // Before it is told everything, an older one answers better.
            let complete = matches!(request, Request::Restore(_));
            let response = match request {
                Request::Hello { build } => {
                    if build != this.build {
                        tracing::info!(build, "a daemon of another build is there");
                    }
                    let pid = i32::try_from(std::process::id()).unwrap_or_default();
                    Response::Hello { build: this.build.clone(), pid }
                }
                Request::Set(names) => done(this.server.set(*names).await),
                Request::Remove(sandbox) => {
                    Response::Done { changed: this.server.remove(&sandbox) }
                }
                Request::Restore(all) => done(this.server.restore(all).await),
                Request::Verify(sandboxes) => match this.server.verify(sandboxes).await {
                    Ok(restored) => Response::Verified { restored },
                    Err(reason) => Response::Failed { reason },
                },
                Request::Fill(sets) => {
                    this.server.fill(sets);
                    Response::Done { changed: false }
                }
                Request::Status => Response::Status(this.server.status()),
                Request::Quit => {
                    this.quit.set(true);
                    this.changed.notify_one();
                    Response::Done { changed: false }
                }
            };
            if complete && !this.owns.get() {
                Self::take_over(this).await?;
            }
            protocol::send(&mut stream, &response).await?;
            this.changed.notify_one();
        }
        Ok(())
    }

    /// Becomes the one process of this exec-root.
    async fn take_over(this: &Rc<Self>) -> io::Result<()> {
        if let Ok(older) = paths::connect(&this.options.exec_root).await {
            dismiss(older).await;
        }
        let listener = paths::listen(&this.options.exec_root)?;
        this.owns.set(true);
        tokio::task::spawn_local(guard_path(Rc::clone(this)));
        tokio::task::spawn_local(accept(Rc::clone(this), listener));
        Ok(())
    }

    /// Returns when the process shall end.
    async fn lonely(&self) {
        let mut since: Option<Instant> = None;
        loop {
            let alone = self.connections.get() == 0;
            if self.quit.get() || (alone && !self.owns.get()) {
                return;
            }
            if !(alone && self.server.is_idle()) {
                since = None;
                self.changed.notified().await;
                continue;
            }
            let began = *since.get_or_insert_with(Instant::now);
            if began.elapsed() >= LONELY {
                return;
            }
            let left = LONELY.saturating_sub(began.elapsed());
            let _ = timeout(left, self.changed.notified()).await;
        }
    }

    /// Answers what has come, and what is under way, and nothing new.
    async fn drain(&self) {
        self.server.turn_away();
        let end = Instant::now() + QUIT_PATIENCE;
        sleep(QUIT_STEP).await;
        self.server.answer_rest();
        while self.server.status().waiting > 0 && Instant::now() < end {
            sleep(QUIT_STEP).await;
        }
    }
}

fn done<E: std::fmt::Display>(result: Result<bool, E>) -> Response {
    match result {
        Ok(changed) => Response::Done { changed },
        Err(error) => Response::Failed { reason: error.to_string() },
    }
}

/// Ends the process when its socket is gone from the path: no daemon would find
/// it again, and one that is there starts another.
async fn guard_path(process: Rc<Process>) {
    let path = paths::socket(&process.options.exec_root);
    let inode = || std::fs::metadata(&path).ok().map(|m| m.ino());
    let watched = async {
        let watch = Watch::new()?;
        watch.add(
            &process.options.exec_root,
            AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_MOVE
                | AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_MOVE_SELF,
        )?;
        let own = inode();
        while own.is_some() && inode() == own {
            watch.changed().await?;
        }
        io::Result::Ok(())
    };
    if let Err(error) = watched.await {
        tracing::warn!(%error, path = %path.display(), "the removal of the socket is not seen");
        return;
    }
    if !process.quit.get() {
        tracing::warn!(path = %path.display(), "the socket is gone");
        process.owns.set(false);
        process.quit.set(true);
        process.changed.notify_one();
    }
}

async fn accept(process: Rc<Process>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => Process::attend(&process, stream),
            Err(error) => {
                tracing::warn!(%error, "a connection is not accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Tells an older process to quit, and ends it when it does not listen.
async fn dismiss(mut older: UnixStream) {
    let pid = older.peer_cred().ok().and_then(|peer| peer.pid());
    let told = async {
        protocol::send(&mut older, &Request::Quit).await?;
        protocol::receive::<Response>(&mut older).await
    };
    if let Ok(Ok(Some(Response::Done { .. }))) = timeout(QUIT_PATIENCE, told).await {
        return;
    }
    // As long as the connection is open the process has not ended, so that
    // its id is its own.
    if let Some(pid) = pid.filter(|pid| *pid > 1) {
        tracing::warn!(pid, "an older process does not quit and is ended");
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
