//! The embedded store: one file, written by one thread.
//!
//! Be aware:
//! - The writer thread takes all transactions that wait, carries them out in
//!   one transaction of redb, synchronises once, then answers all of them.
//! - A file that can't be read is set aside under another name and a new one
//!   begun: the caller reports it and adopts what still runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

use redb::{Database, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition};
use sampan_types::Timestamp;
use tokio::sync::oneshot;

use crate::watch::{Change, Feed, Watch};
use crate::{BoxFuture, Listing, Op, Store, StoreError, Transaction, Versioned};

/// Key to (revision, value).
const ENTRIES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("entries");
/// The store's own numbers: `revision`, `format`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The layout of the two tables above.
const FORMAT: u64 = 1;
/// How much of the file redb may keep in memory, in bytes. Records are small
/// and read once; the kernel's page cache does the rest.
const CACHE_BYTES: usize = 1 << 20;

type Source = Box<dyn std::error::Error + Send + Sync>;
type Reply = oneshot::Sender<Result<u64, StoreError>>;

/// An open store, and what became of a file that could not be read.
#[derive(Debug)]
pub struct Opened {
    /// The store, ready for use.
    pub store: RedbStore,
    /// Where the unreadable file was moved, with the reason.
    pub set_aside: Option<(PathBuf, String)>,
}

/// The embedded store. Clones share it; it closes with the last of them.
#[derive(Debug, Clone)]
pub struct RedbStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    database: Arc<Database>,
    feed: Arc<Feed>,
    requests: Option<mpsc::Sender<(Transaction, Reply)>>,
    writer: Option<thread::JoinHandle<()>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.feed.close();
        drop(self.requests.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl RedbStore {
    /// Opens the store's file at `path`, made when it is absent. Blocks for
    /// the time that reading the whole file takes, since every entry is checked.
    ///
    /// # Errors
    /// When another process has it open, it was written by a later version, or
    /// the directory can't be written. A damaged file is no error; see [`Opened`].
    pub fn open(path: &Path) -> Result<Opened, StoreError> {
        match try_open(path) {
            Ok((database, revision)) => {
                Ok(Opened { store: Self::start(path, database, revision)?, set_aside: None })
            }
            Err(OpenFailure::Refused(error)) => Err(error),
            Err(OpenFailure::Damaged(reason)) => {
                let aside = aside_name(path);
                std::fs::rename(path, &aside).map_err(backend("set aside", path))?;
                let (database, revision) = try_open(path).map_err(|e| match e {
                    OpenFailure::Refused(error) => error,
                    OpenFailure::Damaged(reason) => backend("create", path)(reason),
                })?;
                let store = Self::start(path, database, revision)?;
                Ok(Opened { store, set_aside: Some((aside, reason)) })
            }
        }
    }

    fn start(path: &Path, database: Database, revision: u64) -> Result<Self, StoreError> {
        let database = Arc::new(database);
        let feed = Feed::new(revision);
        let (requests, inbox) = mpsc::channel();
        let mut writer = Writer {
            path: path.to_owned(),
            database: Arc::clone(&database),
            feed: Arc::clone(&feed),
            revision,
        };
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(&inbox))
            .map_err(backend("start the writer of", path))?;
        Ok(Self {
            shared: Arc::new(Shared {
                path: path.to_owned(),
                database,
                feed,
                requests: Some(requests),
                writer: Some(thread),
            }),
        })
    }

    fn read_one(&self, key: &str) -> Result<Option<Versioned>, redb::Error> {
        let table = self.shared.database.begin_read()?.open_table(ENTRIES)?;
        Ok(table.get(key)?.map(|entry| versioned(entry.value())))
    }

    fn read_all(&self, prefix: &str) -> Result<Listing, redb::Error> {
        let read = self.shared.database.begin_read()?;
        let revision = read.open_table(META)?.get("revision")?.map_or(0, |v| v.value());
        let table = read.open_table(ENTRIES)?;
        let mut entries = Vec::new();
        for entry in table.range(prefix..)? {
            let (key, value) = entry?;
            if !key.value().starts_with(prefix) {
                break;
            }
            entries.push((key.value().to_owned(), versioned(value.value())));
        }
        Ok(Listing { entries, revision })
    }
}

impl Store for RedbStore {
    // Reads come from redb's cache or the kernel's within microseconds, so
    // they are done in place instead of on another thread.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
        Box::pin(async move { self.read_one(key).map_err(backend("read", &self.shared.path)) })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move { self.read_all(prefix).map_err(backend("list", &self.shared.path)) })
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<u64, StoreError>> {
        let (reply, answer) = oneshot::channel();
        let sent =
            self.shared.requests.as_ref().is_some_and(|r| r.send((transaction, reply)).is_ok());
        Box::pin(async move {
            if !sent {
                return Err(StoreError::Closed);
            }
            answer.await.unwrap_or(Err(StoreError::Closed))
        })
    }

    fn watch(&self, prefix: &str, from: u64) -> Watch {
        Watch::new(Arc::clone(&self.shared.feed), prefix, from)
    }
}

fn versioned((revision, value): (u64, &[u8])) -> Versioned {
    Versioned { value: value.to_vec(), revision }
}

fn backend<E: Into<Source>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Backend { operation, path, source: source.into() }
}

fn aside_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{}", Timestamp::now().nanos()));
    PathBuf::from(name)
}

enum OpenFailure {
    Refused(StoreError),
    Damaged(String),
}

/// Opens and reads everything once. redb asserts on some damages, so a panic
/// counts as damage too.
fn try_open(path: &Path) -> Result<(Database, u64), OpenFailure> {
    let opened = catch_unwind(AssertUnwindSafe(|| -> Result<(Database, u64, u64), redb::Error> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        let write = database.begin_write()?;
        let (revision, format);
        {
            let mut meta = write.open_table(META)?;
            format = meta.get("format")?.map_or(FORMAT, |v| v.value());
            revision = meta.get("revision")?.map_or(0, |v| v.value());
            meta.insert("format", format)?;
            for entry in write.open_table(ENTRIES)?.iter()? {
                entry?;
            }
        }
        write.commit()?;
        Ok((database, revision, format))
    }));
    match opened {
        Ok(Ok((_, _, found))) if found > FORMAT => Err(OpenFailure::Refused(StoreError::TooNew {
            path: path.to_owned(),
            found,
            supported: FORMAT,
        })),
        Ok(Ok((database, revision, _))) => Ok((database, revision)),
        Ok(Err(error)) => Err(classify(path, error)),
        Err(_) => Err(OpenFailure::Damaged("the file's structure is inconsistent".to_owned())),
    }
}

fn classify(path: &Path, error: redb::Error) -> OpenFailure {
    match &error {
        redb::Error::DatabaseAlreadyOpen => {
            OpenFailure::Refused(StoreError::InUse { path: path.to_owned() })
        }
        // A file that isn't ours at all is reported as invalid data.
        redb::Error::Io(e)
            if e.kind() != std::io::ErrorKind::InvalidData
                && e.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            OpenFailure::Refused(backend("open", path)(error))
        }
        _ => OpenFailure::Damaged(error.to_string()),
    }
}

struct Writer {
    path: PathBuf,
    database: Arc<Database>,
    feed: Arc<Feed>,
    revision: u64,
}

impl Writer {
    fn run(&mut self, inbox: &mpsc::Receiver<(Transaction, Reply)>) {
        while let Ok(first) = inbox.recv() {
            let mut batch = vec![first];
            batch.extend(inbox.try_iter());
            self.commit_batch(batch);
        }
    }

    fn commit_batch(&mut self, batch: Vec<(Transaction, Reply)>) {
        let (transactions, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        match self.carry_out(transactions) {
            Ok((results, changes)) => {
                self.feed.publish(changes);
                for (reply, result) in replies.into_iter().zip(results) {
                    // A caller that went away does not take its commit back.
                    let _ = reply.send(result);
                }
            }
            Err(error) => {
                let message = error.to_string();
                for reply in replies {
                    let _ = reply.send(Err(backend("write", &self.path)(message.clone())));
                }
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn carry_out(
        &mut self,
        transactions: Vec<Transaction>,
    ) -> Result<(Vec<Result<u64, StoreError>>, Vec<Change>), redb::Error> {
        let write = self.database.begin_write()?;
        let (mut results, mut changes) = (Vec::new(), Vec::new());
        let mut revision = self.revision;
        {
            let mut table = write.open_table(ENTRIES)?;
            for transaction in transactions {
                if let Some(conflict) = first_conflict(&table, &transaction)? {
                    results.push(Err(conflict));
                    continue;
                }
                revision += 1;
                for op in transaction.ops {
                    changes.push(apply(&mut table, op, revision)?);
                }
                results.push(Ok(revision));
            }
            write.open_table(META)?.insert("revision", revision)?;
        }
        write.commit()?;
        self.revision = revision;
        Ok((results, changes))
    }
}

type Entries<'t> = Table<'t, &'static str, (u64, &'static [u8])>;

fn first_conflict(
    table: &Entries<'_>,
    transaction: &Transaction,
) -> Result<Option<StoreError>, StorageError> {
    for condition in &transaction.conditions {
        let found = table.get(condition.key.as_str())?.map(|entry| entry.value().0);
        if found != condition.revision {
            return Ok(Some(StoreError::Conflict {
                key: condition.key.clone(),
                expected: condition.revision,
                found,
            }));
        }
    }
    Ok(None)
}

fn apply(table: &mut Entries<'_>, op: Op, revision: u64) -> Result<Change, StorageError> {
    match op {
        Op::Put { key, value } => {
            table.insert(key.as_str(), (revision, value.as_slice()))?;
            Ok(Change { revision, key, value: Some(value.into()) })
        }
        Op::Delete { key } => {
            table.remove(key.as_str())?;
            Ok(Change { revision, key, value: None })
        }
    }
}
