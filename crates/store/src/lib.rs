//! Desired state: a small key-value store with transactions and watches.
//!
//! The daemon keeps what users asked for here and nowhere else; everything
//! that can be observed in the world is compared with it. Keys are paths such
//! as `containers/<id>`, values are bytes that their owner versions.
//!
//! Be aware:
//! - `commit` returns when the change is durable. Concurrent commits share one
//!   synchronisation of the disk, so a hundred at once cost little more than one.
//! - Revisions grow by one with every commit that changes something, and never
//!   go back. A watch that asks for changes older than the store remembers is
//!   told so and has to list again.
#![forbid(unsafe_code)]

mod redb;
mod watch;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

pub use self::redb::{Opened, RedbStore};
pub use self::watch::{Change, Watch, WatchError};

/// A future that can be named behind `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A value with the revision of its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The bytes that were put.
    pub value: Vec<u8>,
    /// The revision of the commit that put them.
    pub revision: u64,
}

/// All keys below a prefix at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Keys and values, in the order of the keys.
    pub entries: Vec<(String, Versioned)>,
    /// The store's revision at the moment of reading: watch from here.
    pub revision: u64,
}

/// One change in a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Removes a key; its absence is success.
    Delete {
        /// The key.
        key: String,
    },
}

/// What must hold for a transaction to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The key that is looked at.
    pub key: String,
    /// The revision that its value must have; `None`: it must be absent.
    pub revision: Option<u64>,
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// Carried out in order.
    pub ops: Vec<Op>,
}

impl Transaction {
    /// A transaction that sets one key without condition.
    #[must_use]
    pub fn put(key: impl Into<String>, value: Vec<u8>) -> Self {
        Self { conditions: Vec::new(), ops: vec![Op::Put { key: key.into(), value }] }
    }

    /// A transaction that removes one key without condition.
    #[must_use]
    pub fn delete(key: impl Into<String>) -> Self {
        Self { conditions: Vec::new(), ops: vec![Op::Delete { key: key.into() }] }
    }

    /// Adds the condition that `key` is at `revision` (`None`: absent).
    #[must_use]
    pub fn when(mut self, key: impl Into<String>, revision: Option<u64>) -> Self {
        self.conditions.push(Condition { key: key.into(), revision });
        self
    }

    /// Adds a change.
    #[must_use]
    pub fn and(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }
}

/// Why the store did not do as asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A condition of a transaction did not hold; nothing was changed.
    #[error(
        "store: {key} was changed by somebody else (expected revision {expected:?}, found {found:?})"
    )]
    Conflict {
        /// The key whose condition failed.
        key: String,
        /// The revision that was asked for.
        expected: Option<u64>,
        /// The revision that is there.
        found: Option<u64>,
    },
    /// The store's file is used by another process.
    #[error("store: {path} is in use by another daemon; stop it or choose another --data-root")]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// The store was written by a later version.
    #[error(
        "store: {path} has format {found}, this version reads up to {supported}; use the newer version"
    )]
    TooNew {
        /// The store's file.
        path: PathBuf,
        /// The format in the file.
        found: u64,
        /// The newest format that is understood.
        supported: u64,
    },
    /// Reading or writing failed.
    #[error("store: {operation} {path}: {source}")]
    Backend {
        /// What was tried.
        operation: &'static str,
        /// The store's file.
        path: PathBuf,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store was closed while the request waited.
    #[error("store: closed")]
    Closed,
}

impl Kind for StoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Conflict { .. } => ErrorKind::Conflict,
            _ => ErrorKind::System,
        }
    }
}

/// What every engine of the store offers.
pub trait Store: Send + Sync + fmt::Debug {
    /// The value of `key`.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>>;

    /// All keys that begin with `prefix`, at one revision.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>>;

    /// Carries a transaction out; returns its revision once it is durable.
    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Changes of keys that begin with `prefix`, after revision `from`.
    fn watch(&self, prefix: &str, from: u64) -> Watch;
}
