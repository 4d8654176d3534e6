//! Images as the API shows them.

use sampan_image::{HistoryItem, ImageRecord, ListFilters, Reference};
use sampan_types::Timestamp;
use serde_json::{Value, json};

use crate::container_view::{config, null_if_empty};
use crate::filters::Filters;
use crate::{Engine, Result};

impl Engine {
    /// The images that pass the filters: items of type `ImageSummary`.
    ///
    /// # Errors
    /// When a filter is wrong.
    pub async fn image_list(
        &self,
        all: bool,
        shared_size: bool,
        filters: &Filters,
    ) -> Result<Vec<Value>> {
        filters.validate(&["before", "dangling", "label", "reference", "since", "until"])?;
        let list = |name: &str| filters.get(name).map(str::to_owned).collect();
        let chosen = self.image_store().list_filtered(&ListFilters {
            all,
            dangling: filters.flag("dangling")?,
            references: list("reference"),
            before: list("before"),
            since: list("since"),
            labels: list("label"),
            until: filters.time("until", Timestamp::now())?,
        })?;
        let shared =
            |image: &ImageRecord| shared_size.then(|| self.image_store().shared_size(&image.id));
        Ok(chosen.iter().map(|image| summary(image, shared(image), None)).collect())
    }

    /// All images with what they share and how many containers use each.
    pub(crate) fn images_with_usage(&self) -> Vec<Value> {
        let store = self.image_store();
        let all = store.list();
        all.iter()
            .map(|image| {
                let uses = self.image_uses(&image.id).len();
                summary(image, Some(store.shared_size(&image.id)), Some(uses))
            })
            .collect()
    }

    /// One image.
    ///
    /// # Errors
    /// No such image.
    pub async fn image_inspect(&self, name: &str) -> Result<Value> {
        let id = self.image_store().resolve(name)?;
        Ok(inspect(&*self.image_store().inspect(&id)?))
    }

    /// How an image came about, newest step first.
    ///
    /// # Errors
    /// No such image.
    pub async fn image_history(&self, name: &str) -> Result<Value> {
        let id = self.image_store().resolve(name)?;
        let history = self.image_store().history(&id)?;
        Ok(Value::Array(history.iter().map(history_item).collect()))
    }
}

fn names(references: &[Reference]) -> Vec<String> {
    references.iter().map(Reference::familiar).collect()
}

/// One `ImageSummary`. `-1` means "not counted".
fn summary(image: &ImageRecord, shared: Option<u64>, containers: Option<usize>) -> Value {
    json!({
        "Containers": containers.map_or(json!(-1), |n| json!(n)),
        "Created": image.created.seconds(),
        "Id": image.id,
        "Labels": image.run_config().labels,
        "ParentId": image.parent.as_ref().map_or("", |p| p.as_str()),
        "RepoDigests": names(&image.digests),
        "RepoTags": names(&image.tags),
        "SharedSize": shared.map_or(json!(-1), |n| json!(n)),
        "Size": image.size,
    })
}

/// What `docker image inspect` shows.
fn inspect(image: &ImageRecord) -> Value {
    let file = json!(image.config);
    let text = |key: &str| file[key].as_str().unwrap_or_default().to_owned();
    let comment = file["history"].as_array().and_then(|h| h.last()).map(|h| h["comment"].clone());
    let layers = file.pointer("/rootfs/diff_ids").cloned().unwrap_or_else(|| json!([]));
    let mut out = json!({
        "Id": image.id,
        "RepoTags": names(&image.tags),
        "RepoDigests": names(&image.digests),
        "Parent": image.parent.as_ref().map_or("", |p| p.as_str()),
        "Comment": comment.filter(Value::is_string).unwrap_or_else(|| json!("")),
        "Created": image.created.to_string(),
        "DockerVersion": text("docker_version"),
        "Author": text("author"),
        "Config": config(&image.run_config(), Value::Null),
        // Gone from Docker's answer; docker-compose 1 can't recreate without.
        "ContainerConfig": config(&image.run_config(), Value::Null),
        "Architecture": text("architecture"),
        "Os": text("os"),
        "Size": image.size,
        "GraphDriver": { "Data": null, "Name": "overlay2" },
        "RootFS": { "Type": "layers", "Layers": layers },
        "Metadata": { "LastTagTime": image.last_tagged.to_string() },
    });
    for (shown, key) in [("Variant", "variant"), ("OsVersion", "os.version")] {
        if !text(key).is_empty() {
            out[shown] = json!(text(key));
        }
    }
    out
}

fn history_item(item: &HistoryItem) -> Value {
    json!({
        "Comment": item.comment,
        "Created": item.created.seconds(),
        "CreatedBy": item.created_by,
        "Id": item.id.as_ref().map_or("<missing>", |i| i.as_str()),
        "Size": item.size,
        "Tags": null_if_empty(&names(&item.tags)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageRecord {
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Cmd": ["sh"], "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", "c".repeat(64))] },
            "history": [{ "created_by": "x", "comment": "made" }],
        });
        ImageRecord {
            id: format!("sha256:{}", "a".repeat(64)).parse().unwrap(),
            tags: vec!["busybox:1".parse().unwrap()],
            digests: Vec::new(),
            parent: None,
            created: Timestamp::from_nanos(1_700_000_000_000_000_000),
            last_tagged: Timestamp::NEVER,
            config: serde_json::from_value(config).unwrap(),
            manifest: format!("sha256:{}", "b".repeat(64)).parse().unwrap(),
            layers: Vec::new(),
            size: 7,
        }
    }

    #[test]
    fn a_summary_has_dockerds_shape() {
        assert_eq!(
            summary(&image(), None, None),
            json!({
                "Containers": -1,
                "Created": 1_700_000_000,
                "Id": format!("sha256:{}", "a".repeat(64)),
                "Labels": null,
                "ParentId": "",
                "RepoDigests": [],
                "RepoTags": ["busybox:1"],
                "SharedSize": -1,
                "Size": 7,
            })
        );
    }

    #[test]
    fn an_inspection_has_dockerds_shape() {
        let out = inspect(&image());
        let mut keys: Vec<&str> = out.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(
            keys.join(" "),
            "Architecture Author Comment Config ContainerConfig Created DockerVersion GraphDriver Id \
             Metadata Os Parent RepoDigests RepoTags RootFS Size"
        );
        assert_eq!(out["Config"]["Cmd"], json!(["sh"]));
        assert_eq!(out["Config"]["Volumes"], json!(null));
        assert!(out["Config"].get("ExposedPorts").is_none());
        assert_eq!(out["Comment"], "made");
        assert_eq!(out["RootFS"]["Layers"][0], format!("sha256:{}", "c".repeat(64)));
    }
}
