//! Writing container records to the store.
//!
//! Be aware:
//! - What a user wished is written before the world is touched
//!   ([`Engine::commit_change`]). What was observed is written afterwards and
//!   in the background ([`Engine::persist_later`]): after a crash the shim and
//!   the kernel are asked again.
//! - Each write takes the record as it is then, under the container's
//!   `persist` lock: writes of one container never overtake each other.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sampan_store::Transaction;

use super::Container;
use crate::Engine;
use crate::error::Result;
use crate::record::{self, ContainerRecord};

impl Engine {
    /// Writes a container's record as it is now; durable on return.
    pub(crate) async fn persist(&self, c: &Container) -> Result<()> {
        let deleted = c.persist.lock().await;
        if *deleted {
            return Ok(());
        }
        c.dirty.store(false, Ordering::Release);
        let record = c.record();
        let written = match record::encode(&record) {
            Ok(bytes) => {
                self.trim_after(bytes.len());
                let put = Transaction::put(record::key(c.id()), bytes);
                self.store().commit(put).await.map_err(Into::into)
            }
            Err(e) => Err(e.into()),
        };
        if written.is_err() {
            c.dirty.store(true, Ordering::Release);
        }
        written.map(|_| ())
    }

    /// Changes a record and writes it; on failure the record is as before.
    pub(crate) async fn commit_change(
        &self,
        c: &Container,
        f: impl FnOnce(&mut ContainerRecord),
    ) -> Result<()> {
        let before = c.record();
        c.change(f);
        let written = self.persist(c).await;
        if written.is_err() {
            c.restore(before);
        }
        written
    }

    /// Writes a container's record soon. A failure is logged; the next write
    /// carries the change.
    pub(crate) fn persist_later(&self, c: &Arc<Container>) {
        c.dirty.store(true, Ordering::Release);
        let (engine, c) = (self.clone(), Arc::clone(c));
        self.inner.tasks.spawn(async move {
            if !c.dirty.load(Ordering::Acquire) {
                return;
            }
            if let Err(error) = engine.persist(&c).await {
                tracing::error!(container = c.id().short(), %error, "state is not written");
            }
        });
    }

    /// Removes a container's record from the store, for good.
    pub(crate) async fn delete_record(&self, c: &Container) -> Result<()> {
        let mut deleted = c.persist.lock().await;
        self.store().commit(Transaction::delete(record::key(c.id()))).await?;
        *deleted = true;
        self.trim_after(c.record().wished_ports.size());
        Ok(())
    }
}
