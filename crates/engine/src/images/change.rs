//! Naming and removing images.

use sampan_image::{Pruning, Reference, ReferenceError, RemoveOptions};
use sampan_types::docker::ImageDeleteResponseItem;
use sampan_types::{EventType, ImageId, Timestamp};
use serde_json::{Value, json};

use crate::container_view::null_if_empty;
use crate::filters::Filters;
use crate::{Engine, EngineError, Result};

impl Engine {
    /// Gives an image another name.
    ///
    /// # Errors
    /// No such image, a wrong name.
    pub async fn image_tag(&self, source: &str, repo: &str, tag: &str) -> Result<()> {
        let mut name: Reference = repo.parse().map_err(EngineError::part::<ReferenceError>)?;
        if !tag.is_empty() {
            name = name.with_tag(tag).map_err(EngineError::part)?;
        }
        let id = self.image_store().tag(source, &name).await?;
        self.image_event("tag", id.as_str(), &name.or_latest().familiar(), Some(&id));
        Ok(())
    }

    /// Takes a name away, and the image with the last.
    ///
    /// # Errors
    /// No such image; containers use it.
    pub async fn image_remove(
        &self,
        name: &str,
        force: bool,
        noprune: bool,
    ) -> Result<Vec<ImageDeleteResponseItem>> {
        let id = self.image_store().resolve(name)?;
        let in_use = |image: &ImageId| self.image_uses(image);
        let options = RemoveOptions { force, noprune, in_use: &in_use };
        let gone = self.image_store().remove(name, options).await?;
        self.removal_events(&id, &gone);
        Ok(gone)
    }

    fn removal_events(&self, id: &ImageId, gone: &[ImageDeleteResponseItem]) {
        for item in gone {
            if item.untagged.is_some() {
                self.image_event("untag", id.as_str(), id.as_str(), None);
            }
            if let Some(deleted) = &item.deleted {
                self.image_event("delete", deleted, deleted, None);
            }
        }
    }

    /// Removes the images that nothing needs: those without a tag, with the
    /// filter `dangling=false` all that no container uses.
    ///
    /// # Errors
    /// When a filter is wrong.
    pub async fn image_prune(&self, filters: &Filters) -> Result<Value> {
        filters.validate(&["dangling", "label", "label!", "until"])?;
        let list = |name: &str| filters.get(name).map(str::to_owned).collect();
        let in_use = |image: &ImageId| self.image_uses(image);
        let what = Pruning {
            dangling: filters.flag("dangling")?.unwrap_or(true),
            until: filters.time("until", Timestamp::now())?,
            labels: list("label"),
            not_labels: list("label!"),
            in_use: &in_use,
        };
        let report = self.image_store().prune(what).await?;
        for item in &report.deleted {
            if let Some(deleted) = &item.deleted {
                self.image_event("delete", deleted, deleted, None);
            }
        }
        let carried = [("reclaimed", report.reclaimed.to_string())];
        self.event_bus().publish(EventType::Image, "prune", "", carried);
        Ok(json!({
            "ImagesDeleted": null_if_empty(&report.deleted),
            "SpaceReclaimed": report.reclaimed,
        }))
    }
}
