//! Collection: what nothing refers to goes.

use std::collections::HashSet;
use std::path::PathBuf;

use super::Inner;
use crate::content::writing;
use crate::remove::remove_deep;
use crate::{Digest, ImageError};

/// What is needed: blobs, layers by diff id, and init layers by chain id.
#[derive(Default)]
struct Live {
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
    inits: HashSet<Digest>,
}

impl Inner {
    /// Removes blobs and layers that no image, snapshot or lease needs. Blocks.
    /// Gives the bytes of the layers.
    pub(crate) fn collect(&self) -> Result<u64, ImageError> {
        let (trash, reclaimed) = self.take_away_garbage()?;
        let mut first_error = None;
        for path in trash {
            if let Err(e) = remove_deep(&path) {
                first_error.get_or_insert(ImageError::io("remove", &path)(e));
            }
        }
        first_error.map_or(Ok(reclaimed), Err)
    }

    /// Everything is taken out of reach under the locks; the work of removing
    /// comes after.
    fn take_away_garbage(&self) -> Result<(Vec<PathBuf>, u64), ImageError> {
        // Pins first: who pins while this runs waits, and finds what it pinned
        // either whole or absent.
        let pins = self.pins.lock();
        let live = self.live();
        let (mut trash, mut reclaimed) = (Vec::new(), 0);
        let free = |digest: &Digest, live: &HashSet<Digest>| {
            !live.contains(digest) && !pins.contains_key(digest)
        };
        for diff_id in self.layers.list()? {
            if free(&diff_id, &live.layers) {
                reclaimed += self.layers.info(&diff_id).map_or(0, |i| i.size);
                trash.push(self.layers.take_away(&diff_id)?);
            }
        }
        for chain in self.inits.list()? {
            if free(&chain, &live.inits) {
                trash.push(self.inits.take_away(&chain)?);
            }
        }
        for digest in self.content.list()? {
            if free(&digest, &live.blobs) {
                let path = self.content.path(&digest);
                sampan_sys::file::remove_file(&path).map_err(writing(&path))?;
            }
        }
        Ok((trash, reclaimed))
    }

    fn live(&self) -> Live {
        let mut live = Live::default();
        for record in self.state.view().images.values() {
            live.blobs.insert(record.manifest.clone());
            live.blobs.insert(Digest::from(&record.id));
            live.blobs.extend(record.layers.iter().map(|l| l.digest.clone()));
            live.layers.extend(record.config.rootfs.diff_ids.iter().cloned());
            live.inits.insert(self.inits.key(&record.config));
        }
        for snapshot in self.snapshots.all() {
            live.blobs.insert(Digest::from(&snapshot.image));
            live.layers.extend(snapshot.diff_ids.iter().cloned());
            live.inits.insert(snapshot.init.clone());
            for (image, diff_ids) in snapshot.views().iter() {
                live.blobs.insert(Digest::from(image));
                live.layers.extend(diff_ids.iter().cloned());
            }
        }
        for diff_id in &live.layers {
            if let Some(info) = self.layers.info(diff_id) {
                live.blobs.insert(info.blob.digest.clone());
            }
        }
        live
    }
}
