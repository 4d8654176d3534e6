//! Reading logs back: the end first, across rotated files, following.
//!
//! Be aware:
//! - Files are read on tokio's blocking threads, a batch at a time; a reader
//!   that does not take what it is given holds back its own thread only.
//! - Following watches the log's directory (inotify), so it sees rotations. A
//!   file that is renamed while it is read stays open and is read to its end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use sampan_sys::watch::{AddWatchFlags, Watch};
use sampan_types::{ErrorKind, Kind, Timestamp};
use thiserror::Error;
use tokio::sync::{mpsc, watch};

use super::rotate::rotated;
use super::scan::{Format, LogFile, Wanted};
use super::{LogSetup, StdStream};

/// Records on their way to the reader.
const QUEUE: usize = 256;
/// How often the files are opened anew because of a rotation meanwhile.
const ATTEMPTS: u32 = 100;

/// One record of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Where it came from.
    pub stream: StdStream,
    /// When.
    pub time: Timestamp,
    /// The text with its newline; a piece of a long line has none.
    pub line: Bytes,
    /// Labels, environment, tag.
    pub attrs: Arc<BTreeMap<String, String>>,
}

/// What to read.
#[derive(Debug, Clone)]
pub struct LogQuery {
    /// The log.
    pub setup: LogSetup,
    /// Whether to wait for more at the end.
    pub follow: bool,
    /// Only the last so many records (after `since` and `until`).
    pub tail: Option<usize>,
    /// Nothing before this.
    pub since: Option<Timestamp>,
    /// Nothing after this; ends a following read.
    pub until: Option<Timestamp>,
    /// Whether standard output is wanted.
    pub stdout: bool,
    /// Whether standard error is wanted.
    pub stderr: bool,
    /// Becomes true when the container has stopped and its log is complete:
    /// a following read ends after the rest. `None`: follows for ever.
    pub stopped: Option<watch::Receiver<bool>>,
}

/// Why a log can't be read.
#[derive(Debug, Error)]
pub enum LogReadError {
    /// The driver does not keep what it got.
    #[error("configured logging driver does not support reading")]
    Unreadable,
    /// The file can't be read.
    #[error("reading the log {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Kind for LogReadError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreadable => ErrorKind::NotImplemented,
            Self::Io { .. } => ErrorKind::System,
        }
    }
}

type Item = Result<LogEntry, LogReadError>;

/// Reads a log. The first item is the error when the driver keeps nothing.
/// Dropping the stream ends the reading. Needs a tokio runtime.
#[must_use]
pub fn read(query: LogQuery) -> BoxStream<'static, Item> {
    let (path, max_file, format) = match &query.setup {
        LogSetup::JsonFile { path, max_file, .. } => (path.clone(), *max_file, Format::Json),
        LogSetup::Local { path, max_file, .. } => (path.clone(), *max_file, Format::Local),
        LogSetup::None | LogSetup::Syslog { .. } => {
            return stream::iter([Err(LogReadError::Unreadable)]).boxed();
        }
    };
    let wanted = Wanted {
        since: query.since,
        until: query.until,
        stdout: query.stdout,
        stderr: query.stderr,
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let started = Timestamp::now();
    let log = Log { path, max_file, format, wanted, started, sender };
    tokio::spawn(log.run(query.tail, query.follow, query.stopped));
    stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
    .boxed()
}

/// A reading under way.
#[derive(Clone)]
struct Log {
    path: PathBuf,
    max_file: u32,
    format: Format,
    wanted: Wanted,
    started: Timestamp,
    sender: mpsc::Sender<Item>,
}

/// The file that is read now.
struct Current {
    file: LogFile,
    inode: u64,
    /// The time of the last record, to find the place again.
    last: Option<Timestamp>,
    /// Records up to this time were read from another file.
    after: Option<Timestamp>,
}

/// Nobody wants more.
struct Finished;

type Step<T> = io::Result<Result<T, Finished>>;

impl Log {
    async fn run(self, tail: Option<usize>, follow: bool, stopped: Option<watch::Receiver<bool>>) {
        // The watch comes first: what is written during the first reading is
        // noticed by it.
        let watch = if follow { Some(self.watch()) } else { None };
        let log = self.clone();
        let history = blocking(move || log.history(tail)).await;
        let result = match (history, watch) {
            (Ok(Ok(current)), Some(Ok(watch))) => self.follow(current, &watch, stopped).await,
            (Err(e), _) | (Ok(Ok(_)), Some(Err(e))) => Err(e),
            (Ok(_), _) => Ok(()),
        };
        if let Err(source) = result {
            let error = LogReadError::Io { path: self.path.clone(), source };
            let _ = self.sender.send(Err(error)).await;
        }
    }

    fn watch(&self) -> io::Result<Watch> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        // The directory of a `local` log is made by its writer; this may be
        // before the first start.
        if self.format == Format::Local {
            match std::fs::create_dir(dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        let watch = Watch::new()?;
        let events =
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        watch.add(dir, events)?;
        Ok(watch)
    }

    async fn follow(
        &self,
        mut current: Option<Current>,
        watch: &Watch,
        mut stopped: Option<watch::Receiver<bool>>,
    ) -> io::Result<()> {
        let until = self.wanted.until.map(|until| until.since(Timestamp::now()));
        let deadline = tokio::time::sleep(until.unwrap_or(Duration::MAX));
        tokio::pin!(deadline);
        loop {
            // Looked at before the file: what was written before the end is read.
            let last_time = stopped.as_mut().is_some_and(|s| *s.borrow_and_update());
            let log = self.clone();
            current = match blocking(move || log.read_new(current)).await? {
                Ok(current) => current,
                Err(Finished) => return Ok(()),
            };
            if last_time {
                return Ok(());
            }
            let end = async {
                match &mut stopped {
                    // Nobody is left who could say so: that is an end as well.
                    Some(receiver) => receiver.changed().await.is_err(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = watch.changed() => changed?,
                gone = end => if gone { return self.read_rest(current).await },
                () = &mut deadline, if until.is_some() => return self.read_rest(current).await,
                () = self.sender.closed() => return Ok(()),
            }
        }
    }

    async fn read_rest(&self, current: Option<Current>) -> io::Result<()> {
        let log = self.clone();
        blocking(move || log.read_new(current)).await.map(|_| ())
    }

    /// Everything that is there, oldest first; gives the newest file back.
    fn history(&self, tail: Option<usize>) -> Step<Option<Current>> {
        let mut files = self.open_all()?;
        if let Some(since) = self.wanted.since {
            // Files that were written last before that are not read at all.
            let old = |f: &Current| f.file.modified().is_some_and(|m| m < since);
            if let Some(first) = files.iter().skip(1).position(old) {
                files.truncate(first + 1);
            }
        }
        let mut skip = 0;
        if let Some(want) = tail {
            let mut left = want;
            let mut keep = files.len();
            for (i, current) in files.iter_mut().enumerate() {
                let found = current.file.seek_tail(left, &self.wanted)?;
                left -= found.found;
                skip = found.skip;
                if found.complete {
                    keep = i + 1;
                    break;
                }
            }
            files.truncate(keep);
        }
        // Newest first until here.
        while let Some(mut current) = files.pop() {
            if self.send_all(&mut current, &mut skip)?.is_err() {
                return Ok(Err(Finished));
            }
            if files.is_empty() {
                return Ok(Ok(Some(current)));
            }
        }
        Ok(Ok(None))
    }

    /// What was written since the last time, in as many files as it takes.
    fn read_new(&self, current: Option<Current>) -> Step<Option<Current>> {
        let Some(mut current) = current else { return self.history(None) };
        current.file.restart_if_emptied()?;
        if self.send_all(&mut current, &mut 0)?.is_err() {
            return Ok(Err(Finished));
        }
        match inode(&self.path)? {
            // Absent: between the two steps of a rotation, the second is seen.
            Some(inode) if inode != current.inode => {}
            _ => return Ok(Ok(Some(current))),
        }
        // Rotated. What came between the last look and the renaming first.
        if self.send_all(&mut current, &mut 0)?.is_err() {
            return Ok(Err(Finished));
        }
        let mut files = self.open_all()?;
        match files.iter().position(|f| f.inode == current.inode) {
            Some(known) => files.truncate(known),
            // Compressed or removed meanwhile: what is newer by its time.
            None => {
                let after = current.last.or(Some(self.started));
                files.iter_mut().for_each(|f| f.after = after);
            }
        }
        let mut newest = current;
        while let Some(mut next) = files.pop() {
            if self.send_all(&mut next, &mut 0)?.is_err() {
                return Ok(Err(Finished));
            }
            newest = next;
        }
        Ok(Ok(Some(newest)))
    }

    /// All files, newest first, each once. Files only move to higher numbers,
    /// the way this goes, so one pass sees each of them as long as the current
    /// one stays the same meanwhile.
    fn open_all(&self) -> io::Result<Vec<Current>> {
        let mut files = Vec::new();
        for _ in 0..ATTEMPTS {
            let before = inode(&self.path)?;
            files = self.open_once()?;
            if inode(&self.path)? == before {
                break;
            }
        }
        Ok(files)
    }

    fn open_once(&self) -> io::Result<Vec<Current>> {
        let mut files: Vec<Current> = Vec::new();
        for n in 0..self.max_file.max(1) {
            for compressed in [false, true] {
                let path = rotated(&self.path, n, compressed);
                let file = match File::open(&path) {
                    Ok(file) => file,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                };
                let inode = file.metadata()?.ino();
                // It was moved on between two openings.
                if files.iter().all(|f| f.inode != inode) {
                    let file = LogFile::new(file, compressed, self.format);
                    files.push(Current { file, inode, last: None, after: None });
                }
                break;
            }
        }
        Ok(files)
    }

    /// Sends what is wanted, but for the first `skip`, to the end of the file.
    fn send_all(&self, current: &mut Current, skip: &mut usize) -> Step<()> {
        while let Some(entry) = current.file.next()? {
            if self.wanted.is_past(entry.time) {
                return Ok(Err(Finished));
            }
            if current.after.is_some_and(|after| entry.time <= after) {
                continue;
            }
            current.after = None;
            current.last = Some(entry.time);
            if !self.wanted.matches(entry.stream, entry.time) {
                continue;
            }
            if *skip > 0 {
                *skip -= 1;
                continue;
            }
            if self.sender.blocking_send(Ok(entry)).is_err() {
                return Ok(Err(Finished));
            }
        }
        Ok(Ok(()))
    }
}

fn inode(path: &Path) -> io::Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(meta) => Ok(Some(meta.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Runs `work` on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(io::Error::other(e)),
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
