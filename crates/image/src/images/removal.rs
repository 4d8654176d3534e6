//! Names given and taken away, images removed: the rules and words of Docker's
//! `rmi` (moby `daemon/images/image_delete.go`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sampan_types::docker::ImageDeleteResponseItem;
use sampan_types::{ImageId, Timestamp};

use super::query::has_labels;
use super::register::tag_of;
use super::state::{Stored, View};
use super::{ImageUse, Images, PruneReport, Pruning, RemoveOptions};
use crate::stream::blocking;
use crate::{Digest, ImageError, Reference};

/// What is gone so far, in the order in which it is told.
struct Removal<'a> {
    stored: &'a mut Stored,
    view: &'a View,
    uses: &'a HashMap<ImageId, Vec<ImageUse>>,
    items: Vec<ImageDeleteResponseItem>,
}

/// Why an image can't be deleted.
struct Obstacle {
    /// Not even with force.
    hard: bool,
    /// A container uses it.
    used: bool,
    text: String,
}

impl Obstacle {
    fn into_error(self, id: &ImageId) -> ImageError {
        let how = if self.hard { "cannot be forced" } else { "must be forced" };
        let Self { text, .. } = self;
        ImageError::Conflict(format!("conflict: unable to delete {} ({how}) - {text}", id.short()))
    }
}

/// Which obstacles count.
#[derive(Clone, Copy)]
struct Regard {
    references: bool,
    stopped: bool,
}

impl Removal<'_> {
    fn uses(&self, id: &ImageId) -> &[ImageUse] {
        self.uses.get(id).map_or(&[], Vec::as_slice)
    }

    fn untag(&mut self, name: &Reference) {
        self.stored.forget(name);
        self.items.push(ImageDeleteResponseItem { untagged: Some(name.familiar()), deleted: None });
    }

    /// By a name: the name goes, and with the last one the image.
    fn by_name(
        &mut self,
        id: &ImageId,
        given: &str,
        name: &Reference,
        force: bool,
        prune: bool,
    ) -> Result<(), ImageError> {
        let references = self.stored.references(id);
        if !force
            && is_single(&references)
            && let Some(using) = self.uses(id).first()
        {
            return Err(ImageError::Conflict(format!(
                "conflict: unable to remove repository reference {given:?} (must force) - \
                 container {} is using its referenced image {}",
                using.container.short(),
                id.short()
            )));
        }
        self.untag(name);
        let mut left = self.stored.references(id);
        let tagged = left.iter().any(|r| r.digest().is_none() && r.same_repository(name));
        if name.digest().is_none() && !tagged {
            // Digests alone don't keep an image in a repository.
            for digest in left.iter().filter(|r| r.same_repository(name)) {
                self.untag(digest);
            }
            left = self.stored.references(id);
        }
        if !left.is_empty() {
            return Ok(());
        }
        self.delete(id, force, prune, true)
    }

    /// By its id: all names go, if they are of one repository.
    fn by_id(&mut self, id: &ImageId, force: bool, prune: bool) -> Result<(), ImageError> {
        let references = self.stored.references(id);
        if is_single(&references) {
            let regard = Regard { references: false, stopped: !force };
            if let Some(obstacle) = self.obstacle(id, regard) {
                return Err(obstacle.into_error(id));
            }
            for name in &references {
                self.untag(name);
            }
        }
        self.delete(id, force, prune, false)
    }

    fn delete(
        &mut self,
        id: &ImageId,
        force: bool,
        prune: bool,
        quiet: bool,
    ) -> Result<(), ImageError> {
        let regard = Regard { references: !force, stopped: !force };
        if let Some(obstacle) = self.obstacle(id, regard) {
            let dangling = self.stored.references(id).is_empty() && !self.stored.has_children(id);
            if quiet && (!dangling || obstacle.used) {
                return Ok(());
            }
            return Err(obstacle.into_error(id));
        }
        for name in self.stored.references(id) {
            self.untag(&name);
        }
        let removed = self.stored.images.remove(id);
        let deleted =
            |what: String| ImageDeleteResponseItem { untagged: None, deleted: Some(what) };
        self.items.push(deleted(id.to_string()));
        self.items.extend(self.lost_layers(id).into_iter().map(|c| deleted(c.to_string())));
        match removed.and_then(|i| i.parent) {
            Some(parent) if prune && self.stored.images.contains_key(&parent) => {
                self.delete(&parent, false, true, true)
            }
            _ => Ok(()),
        }
    }

    /// The chain ids that only this image had, topmost first.
    fn lost_layers(&self, id: &ImageId) -> Vec<Digest> {
        let chains =
            |id: &ImageId| self.view.images.get(id).map_or_else(Vec::new, |r| r.config.chain_ids());
        let left: HashSet<Digest> = self.stored.images.keys().flat_map(chains).collect();
        chains(id).into_iter().rev().filter(|c| !left.contains(c)).collect()
    }

    fn obstacle(&self, id: &ImageId, regard: Regard) -> Option<Obstacle> {
        let hard = |used, text| Some(Obstacle { hard: true, used, text });
        let soft = |used, text| Some(Obstacle { hard: false, used, text });
        if self.stored.has_children(id) {
            return hard(false, "image has dependent child images".to_owned());
        }
        if let Some(using) = self.uses(id).iter().find(|u| u.running) {
            let container = using.container.short();
            return hard(true, format!("image is being used by running container {container}"));
        }
        if regard.references && !self.stored.references(id).is_empty() {
            return soft(false, "image is referenced in multiple repositories".to_owned());
        }
        if regard.stopped
            && let Some(using) = self.uses(id).iter().find(|u| !u.running)
        {
            let container = using.container.short();
            return soft(true, format!("image is being used by stopped container {container}"));
        }
        None
    }
}

/// Whether all names are one tag, and digests of its repository.
fn is_single(references: &[Reference]) -> bool {
    if references.len() <= 1 {
        return true;
    }
    let mut tags = references.iter().filter(|r| r.digest().is_none());
    let single = tags.next();
    if tags.next().is_some() {
        return false;
    }
    let of = single.unwrap_or(&references[0]);
    references.iter().all(|r| r.same_repository(of))
}

/// What a user's name for an image is.
enum Named {
    Id,
    Reference(Reference),
}

fn kind_of_name(id: &ImageId, given: &str) -> Result<Named, ImageError> {
    if id.as_str().starts_with(given) || id.hex().starts_with(given) {
        return Ok(Named::Id);
    }
    let reference = given.parse::<Reference>()?;
    Ok(Named::Reference(match reference.digest().cloned() {
        Some(digest) => reference.with_digest(digest),
        None => tag_of(&reference),
    }))
}

impl Images {
    /// Gives the image `source` another name; without a tag, `latest`.
    ///
    /// # Errors
    /// As [`Images::resolve`]; [`ImageError::Invalid`] when the name holds a
    /// digest; those of the file system.
    pub async fn tag(&self, source: &str, name: &Reference) -> Result<ImageId, ImageError> {
        if name.digest().is_some() {
            return Err(ImageError::Invalid(
                "refusing to create a tag with a digest reference".into(),
            ));
        }
        let (inner, source, name) = (Arc::clone(&self.0), source.to_owned(), tag_of(name));
        blocking(move || {
            inner.state.change(&inner.content, &inner.layers, |stored, view| {
                let id = view.resolve(&source)?;
                if let Some(image) = stored.images.get_mut(&id) {
                    image.last_tagged = Timestamp::now();
                }
                stored.tags.insert(name, id.clone());
                Ok(id)
            })
        })
        .await
    }

    /// Takes a name away and, when it was the last, removes the image with the
    /// layers and blobs that nothing else has. Gives what Docker's `rmi`
    /// answers, in order.
    ///
    /// # Errors
    /// [`ImageError::NotFound`]; [`ImageError::Conflict`] with Docker's texts.
    pub async fn remove(
        &self,
        name: &str,
        options: RemoveOptions<'_>,
    ) -> Result<Vec<ImageDeleteResponseItem>, ImageError> {
        let view = self.0.state.view();
        let mut uses = HashMap::new();
        let mut next = Some(view.resolve(name)?);
        while let Some(id) = next {
            next = view.images.get(&id).and_then(|r| r.parent.clone());
            uses.insert(id.clone(), (options.in_use)(&id));
        }
        let (inner, name) = (Arc::clone(&self.0), name.to_owned());
        let (force, prune) = (options.force, !options.noprune);
        blocking(move || {
            let items = inner.state.change(&inner.content, &inner.layers, |stored, view| {
                let id = view.resolve(&name)?;
                let mut removal = Removal { stored, view, uses: &uses, items: Vec::new() };
                match kind_of_name(&id, &name)? {
                    Named::Id => removal.by_id(&id, force, prune)?,
                    Named::Reference(r) => removal.by_name(&id, &name, &r, force, prune)?,
                }
                Ok(removal.items)
            })?;
            if items.iter().any(|i| i.deleted.is_some()) {
                inner.collect()?;
            }
            Ok(items)
        })
        .await
    }

    /// Removes the images that nothing needs.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn prune(&self, what: Pruning<'_>) -> Result<PruneReport, ImageError> {
        let view = self.0.state.view();
        let uses: HashMap<ImageId, Vec<ImageUse>> =
            view.images.keys().map(|id| (id.clone(), (what.in_use)(id))).collect();
        let chosen: Vec<ImageId> = view
            .images
            .values()
            .filter(|r| {
                let named = !(r.tags.is_empty() && r.digests.is_empty());
                let unused = uses.get(&r.id).is_none_or(Vec::is_empty);
                unused
                    && (named || !view.stored.has_children(&r.id))
                    && (!what.dangling || r.tags.is_empty())
                    && what.until.is_none_or(|t| r.created < t)
                    && has_labels(r, &what.labels)
                    && !what.not_labels.iter().any(|l| has_labels(r, std::slice::from_ref(l)))
            })
            .map(|r| r.id.clone())
            .collect();
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let deleted = inner.state.change(&inner.content, &inner.layers, |stored, view| {
                let mut removal = Removal { stored, view, uses: &uses, items: Vec::new() };
                for id in chosen.iter().filter(|id| view.images.contains_key(id)) {
                    // Removed as another's parent, or needed by a child after all.
                    if !removal.stored.images.contains_key(id) || removal.stored.has_children(id) {
                        continue;
                    }
                    for name in removal.stored.references(id) {
                        removal.untag(&name);
                    }
                    removal.delete(id, false, true, true)?;
                }
                Ok(removal.items)
            })?;
            let reclaimed = inner.collect()?;
            inner.content.sweep_ingest(std::time::Duration::ZERO)?;
            Ok(PruneReport { deleted, reclaimed })
        })
        .await
    }
}
