//! Volumes as repositories of others' backups: another daemon's, or restic's.
//!
//! Be aware: a volume is in use for a while after a request: the next one
//! comes soon, and some volumes are costly to mount.

use std::fs::File;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use nix::errno::Errno;
use sampan_backup::{FileName, Served};
use sampan_volume::VolumeSpec;

use super::blocking_engine;
use super::source::Source;
use crate::{Engine, EngineError, Result};

/// How long a volume stays mounted after a request.
const LINGER: Duration = Duration::from_secs(5);

/// How much is taken before it is written.
const PIECE: usize = 1 << 20;

/// A volume in which others keep a repository.
pub struct ServedRepository {
    engine: Engine,
    volume: String,
    files: Served,
    source: Option<Source>,
}

impl Engine {
    /// A volume as a repository; with `make` both are made where they are
    /// missing.
    ///
    /// # Errors
    /// No such volume; with `make`, one that holds something else.
    pub async fn served_repository(&self, volume: &str, make: bool) -> Result<ServedRepository> {
        if make {
            let spec = VolumeSpec { name: Some(volume.to_owned()), ..VolumeSpec::default() };
            self.make_volume(spec).await?;
        }
        let name = self.volume_store().get(volume)?.name;
        let source = self.mount_source(name, None).await?;
        let files = Served::new(&source.path);
        let repository = ServedRepository {
            engine: self.clone(),
            volume: volume.to_owned(),
            files,
            source: Some(source),
        };
        if make {
            repository.call("make the repository", Served::create).await?;
        }
        Ok(repository)
    }
}

impl Drop for ServedRepository {
    fn drop(&mut self) {
        let (engine, source) = (self.engine.clone(), self.source.take());
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(LINGER) => {}
                () = engine.inner.stop.cancelled() => {}
            }
            if let Some(source) = source {
                engine.release_source(source).await;
            }
        });
    }
}

impl ServedRepository {
    /// Names and sizes of the files of a kind; none when there is no such kind.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn list(&self, kind: String) -> Result<Option<Vec<(String, u64)>>> {
        self.call("list the files", move |files| files.list(&kind)).await
    }

    /// A file and its size; none when there is none.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn open(&self, name: FileName) -> Result<Option<(File, u64)>> {
        self.call("read a file", move |files| files.open(&name)).await
    }

    /// Removes a file; says whether there was one.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn remove(&self, name: FileName) -> Result<bool> {
        self.call("remove a file", move |files| files.remove(&name)).await
    }

    /// Takes a file: it is there, whole and durable, when this succeeds. A
    /// caller that goes away leaves nothing.
    ///
    /// # Errors
    /// A content that is not what the name says; a body that breaks off; those
    /// of the file system.
    pub async fn receive<S, E>(&self, name: FileName, mut body: S) -> Result<()>
    where
        S: Stream<Item = std::result::Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let mut incoming = self.call("write a file", move |files| files.receive(name)).await?;
        let mut piece = BytesMut::new();
        while let Some(more) = body.next().await {
            let more =
                more.map_err(|e| EngineError::Invalid(format!("the body broke off: {e}")))?;
            piece.extend_from_slice(&more);
            if piece.len() >= PIECE {
                let content = piece.split().freeze();
                incoming = self
                    .call("write a file", move |_| incoming.take(&content).map(|()| incoming))
                    .await?;
            }
        }
        let whole = self.call("write a file", move |_| {
            incoming.take(&piece)?;
            incoming.finish()
        });
        if whole.await? {
            return Ok(());
        }
        Err(EngineError::Invalid("the content is not what its name says: send it again".to_owned()))
    }

    /// Does something with the files on a thread that may block.
    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Served) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (files, volume) = (self.files.clone(), self.volume.clone());
        blocking_engine(move || work(&files).map_err(|error| failed(operation, &volume, &error)))
            .await
    }
}

fn failed(operation: &str, volume: &str, error: &io::Error) -> EngineError {
    let told = format!("repository in volume {volume}: can't {operation}: {error}");
    if error.kind() == io::ErrorKind::AlreadyExists {
        return EngineError::Conflict(format!("{told}: name another volume"));
    }
    // What a container put there instead: a file, or a link.
    if error.raw_os_error().is_some_and(|e| e == Errno::ENOTDIR as i32 || e == Errno::ELOOP as i32)
    {
        return EngineError::Conflict(format!("{told}: the volume holds something else"));
    }
    EngineError::Fault(told)
}
