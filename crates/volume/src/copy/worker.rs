//! The threads that copy, and the queue of what there is to do.
//!
//! Be aware:
//! - A small tree is copied by the calling thread alone; others are started
//!   when there is something for them to do.
//! - The queue is a stack: deep things first, so that directories are finished
//!   and closed early.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::Duration;

use rustix::fs::{self as rfs, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::attributes::{self, Fresh};
use super::entry::{Copier, Links, Outcome};
use super::node::{Node, OpenError, Pair};
use super::watch::Watch;
use crate::VolumeError;

/// As many names of one directory are handed over at once.
const BATCH: usize = 64;
/// With so many things waiting another thread is worth its start.
const WORTH_A_THREAD: usize = 8;
/// Copies that take longer are worth knowing how much there is.
const COUNT_AFTER: Duration = Duration::from_secs(1);

/// One copy.
pub(super) struct Job<'a> {
    /// The source's name in errors.
    pub(super) shown: &'a Path,
    pub(super) watch: &'a Watch,
    pub(super) threads: usize,
}

type Names = Vec<(CString, FileType)>;

enum Unit {
    Directory(Arc<Node>),
    Files(Arc<Node>, Names),
}

struct Queue {
    units: Vec<Unit>,
    /// Threads that have taken something.
    busy: usize,
    threads: usize,
    error: Option<VolumeError>,
    done: bool,
}

/// What the threads share.
struct Shared<'a> {
    job: &'a Job<'a>,
    /// What files have that are made now.
    fresh: Fresh,
    links: Links,
    reflink: super::content::Reflink,
    /// Locked to take something, and to add.
    queue: Mutex<Queue>,
    /// Something was added, or all is done.
    changed: Condvar,
}

/// Copies the directory `from` to the empty directory `to`.
pub(super) fn run(from: OwnedFd, to: OwnedFd, job: &Job<'_>) -> Result<(), VolumeError> {
    let failed = |e: Errno| VolumeError::io("examine", job.shown)(e.into());
    let counted = from.try_clone().map_err(VolumeError::io("open", job.shown))?;
    let root = Node::root(Pair::given(from, to).map_err(failed)?);
    let queue =
        Queue { units: vec![Unit::Directory(root)], busy: 0, threads: 1, error: None, done: false };
    let shared = Shared {
        job,
        fresh: Fresh::here(),
        links: Links::default(),
        reflink: super::content::Reflink::default(),
        queue: Mutex::new(queue),
        changed: Condvar::new(),
    };
    thread::scope(|scope| {
        if job.watch.wants_total() {
            scope.spawn(|| shared.count(counted));
        }
        Worker::new(&shared, scope).run();
    });
    match shared.queue.into_inner().unwrap_or_else(PoisonError::into_inner).error {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

impl Shared<'_> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Unit> {
        let mut queue = self.queue();
        loop {
            if queue.done {
                return None;
            }
            if let Some(unit) = queue.units.pop() {
                queue.busy += 1;
                return Some(unit);
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, result: Result<(), VolumeError>) {
        let mut queue = self.queue();
        queue.busy -= 1;
        if let Err(error) = result {
            queue.error.get_or_insert(error);
            queue.done = true;
        }
        queue.done |= queue.busy == 0 && queue.units.is_empty();
        if queue.done {
            self.changed.notify_all();
        }
    }

    /// Tells the watcher how much there is, when the copy takes its time.
    fn count(&self, root: OwnedFd) {
        let queue = self.queue();
        let waited = self.changed.wait_timeout_while(queue, COUNT_AFTER, |q| !q.done);
        let is_done = waited.map_or_else(|e| e.into_inner().0.done, |(queue, _)| queue.done);
        if is_done {
            return;
        }
        let mut total = 0;
        let mut rest = vec![(PathBuf::from("."), 0)];
        while let Some((path, depth)) = rest.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let Ok(dir) = rfs::openat2(&root, &path, flags, Mode::empty(), inside) else {
                continue;
            };
            let Ok(entries) = Dir::read_from(&dir) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name();
                if is_dot(name) {
                    continue;
                }
                if self.queue().done {
                    return;
                }
                let Ok(stat) = rfs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => total += u64::try_from(stat.st_size).unwrap_or(0),
                    FileType::Directory if depth < BATCH => {
                        let name = std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes());
                        rest.push((path.join::<&std::ffi::OsStr>(name), depth + 1));
                    }
                    _ => {}
                }
            }
        }
        self.job.watch.set_total(total);
    }
}

fn is_dot(name: &CStr) -> bool {
    name == c"." || name == c".."
}

struct Worker<'scope, 'env> {
    shared: &'scope Shared<'env>,
    scope: &'scope Scope<'scope, 'env>,
    copier: Copier,
}

/// Ends a unit of work, also when it panics.
struct Turn<'a, 'b> {
    shared: &'a Shared<'b>,
    result: Option<Result<(), VolumeError>>,
}

impl Drop for Turn<'_, '_> {
    fn drop(&mut self) {
        let died = || {
            let source = std::io::Error::other("a copying thread ended by a fault");
            Err(VolumeError::io("copy", self.shared.job.shown)(source))
        };
        self.shared.finish(self.result.take().unwrap_or_else(died));
    }
}

impl<'scope, 'env> Worker<'scope, 'env> {
    fn new(shared: &'scope Shared<'env>, scope: &'scope Scope<'scope, 'env>) -> Self {
        Self { shared, scope, copier: Copier::new(shared.fresh) }
    }

    fn run(mut self) {
        while let Some(unit) = self.shared.take() {
            let mut turn = Turn { shared: self.shared, result: None };
            turn.result = Some(match unit {
                Unit::Directory(node) => self.directory(&node),
                Unit::Files(node, names) => self.handed_over(&node, names),
            });
        }
    }

    /// Gives something to whoever has time.
    fn push(&self, units: impl IntoIterator<Item = Unit>) {
        let mut queue = self.shared.queue();
        let before = queue.units.len();
        queue.units.extend(units);
        let waiting = queue.units.len();
        if waiting == before {
            return;
        }
        if waiting >= WORTH_A_THREAD && queue.threads < self.shared.job.threads {
            let (shared, scope) = (self.shared, self.scope);
            let start = move || Worker::new(shared, scope).run();
            // Without another thread it only takes longer.
            if thread::Builder::new().spawn_scoped(scope, start).is_ok() {
                queue.threads += 1;
            }
        }
        drop(queue);
        if waiting - before == 1 {
            self.shared.changed.notify_one();
        } else {
            self.shared.changed.notify_all();
        }
    }

    /// Whether another thread would take files from a large directory.
    fn others_have_time(&self) -> bool {
        let queue = self.shared.queue();
        self.shared.job.threads > 1 && queue.units.len() < 2 * WORTH_A_THREAD
    }

    fn directory(&mut self, node: &Arc<Node>) -> Result<(), VolumeError> {
        let pair = match node.make() {
            Ok(pair) => pair,
            Err(OpenError::Vanished) => return self.one_done(node),
            Err(OpenError::Failed(e)) => return Err(self.failed("open", node.path())(e)),
        };
        let failed = |e| self.failed("read", node.path())(e);
        let entries = Dir::read_from(pair.from()).map_err(failed)?;
        let mut files = Names::new();
        let mut below = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| self.failed("read", node.path())(e))?;
            let name = entry.file_name();
            match entry.file_type() {
                _ if is_dot(name) => {}
                FileType::Directory => {
                    below.push(Unit::Directory(Node::child(node, name.to_owned())));
                }
                kind => files.push((name.to_owned(), kind)),
            }
            if files.len() < BATCH {
                continue;
            }
            let batch = std::mem::take(&mut files);
            if self.others_have_time() {
                node.wait_for_one();
                self.push([Unit::Files(Arc::clone(node), batch)]);
            } else {
                self.files(node, &pair, batch, &mut below)?;
            }
        }
        self.files(node, &pair, files, &mut below)?;
        self.push(below);
        drop(pair);
        self.one_done(node)
    }

    fn handed_over(&mut self, node: &Arc<Node>, names: Names) -> Result<(), VolumeError> {
        match node.pair() {
            Ok(pair) => {
                let mut below = Vec::new();
                self.files(node, &pair, names, &mut below)?;
                self.push(below);
            }
            Err(OpenError::Vanished) => {}
            Err(OpenError::Failed(e)) => return Err(self.failed("open", node.path())(e)),
        }
        self.one_done(node)
    }

    /// Copies what is no directory; what turns out to be one goes `below`.
    fn files(
        &mut self,
        node: &Arc<Node>,
        pair: &Pair,
        names: Names,
        below: &mut Vec<Unit>,
    ) -> Result<(), VolumeError> {
        let Shared { job, links, reflink, .. } = self.shared;
        for (name, kind) in names {
            if job.watch.is_stopped() {
                job.watch.check(job.shown)?;
            }
            match self.copier.entry((node, pair), &name, kind, links, reflink, job.watch) {
                Ok(Outcome::Copied) => {}
                Ok(Outcome::Vanished) => {
                    tracing::debug!(path = %node.path_of(job.shown, &name).display(), "vanished");
                }
                Ok(Outcome::IsDirectory) => {
                    below.push(Unit::Directory(Node::child(node, name)));
                }
                Err(Errno::CANCELED) if job.watch.is_stopped() => job.watch.check(job.shown)?,
                Err(e) => return Err(error("copy", node.path_of(job.shown, &name), e)),
            }
        }
        Ok(())
    }

    /// Something that `node` waits for is done; directories that wait for
    /// nothing more get their attributes.
    fn one_done(&mut self, node: &Arc<Node>) -> Result<(), VolumeError> {
        let mut at = node;
        while at.one_done() {
            match at.pair() {
                Ok(pair) => self.seal(at, pair.from(), pair.to())?,
                Err(OpenError::Vanished) => {}
                Err(OpenError::Failed(e)) => return Err(self.failed("open", at.path())(e)),
            }
            at.close();
            let Some(parent) = at.parent() else { break };
            at = parent;
        }
        Ok(())
    }

    fn seal(
        &mut self,
        node: &Node,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
    ) -> Result<(), VolumeError> {
        let sealed = rfs::fstat(from)
            .and_then(|stat| attributes::copy(from, to, &stat, None, &mut self.copier.scratch));
        self.shared.job.watch.add(0, 1);
        sealed.map_err(self.failed("copy the attributes of", node.path()))
    }

    fn failed(&self, operation: &'static str, path: PathBuf) -> impl FnOnce(Errno) -> VolumeError {
        let path = self.shared.job.shown.join(path);
        move |e| error(operation, path, e)
    }
}

fn error(operation: &'static str, path: PathBuf, e: Errno) -> VolumeError {
    match e {
        Errno::NOSPC | Errno::DQUOT => VolumeError::Full { path, source: e.into() },
        e => VolumeError::io(operation, path)(e.into()),
    }
}
