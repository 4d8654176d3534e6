//! An image made from a container, as `docker commit` does.

use sampan_image::{Change, CommitRequest, Reference};
use sampan_types::{EventType, ImageId, docker};
use serde_json::{Map, Value};

use super::attributes;
use crate::record::Status;
use crate::{Engine, EngineError, Result};

/// How to make the image.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// The repository to name it; empty for none.
    pub repo: String,
    /// The tag; empty for `latest`.
    pub tag: String,
    /// A remark.
    pub comment: String,
    /// Who.
    pub author: String,
    /// Whether the container is paused meanwhile.
    pub pause: bool,
    /// Dockerfile instructions, one each.
    pub changes: Vec<String>,
    /// Configuration that replaces the container's where it is set.
    pub config: Option<docker::ContainerConfig>,
}

impl Engine {
    /// Makes an image from what a container changed.
    ///
    /// # Errors
    /// No such container, a wrong name, wrong changes, a full disk.
    pub async fn container_commit(&self, id: &str, options: CommitOptions) -> Result<ImageId> {
        let container = self.container(id)?;
        let record = container.record();
        if matches!(record.state.status, Status::Removing | Status::Dead) {
            return Err(EngineError::Conflict(format!(
                "You cannot commit container {} which is {}",
                record.id,
                record.state.status.as_str()
            )));
        }
        let reference = reference(&options.repo, &options.tag)?;
        let changes: Result<Vec<Change>, _> =
            options.changes.iter().map(|c| c.parse::<Change>()).collect();
        let changes = changes.map_err(|e| EngineError::Invalid(e.to_string()))?;
        let request = CommitRequest {
            container: record.id.clone(),
            image: record.image.clone(),
            config: image_config(&record.whole().config, options.config.as_ref())?,
            reference: reference.clone(),
            changes,
            author: options.author,
            message: options.comment.clone(),
        };
        let paused = options.pause && record.state.status == Status::Running;
        if paused {
            self.container_pause(id).await?;
        }
        let engine = self.clone();
        let committed = self.image_store().commit(request).await;
        if paused && let Err(error) = engine.container_unpause(record.id.as_str()).await {
            tracing::warn!(container = record.id.short(), %error, "it stays paused after commit");
        }
        let image = committed.map_err(EngineError::part)?;
        let mut carried = attributes(&record);
        carried.insert("comment".to_owned(), options.comment);
        carried.insert("imageID".to_owned(), image.to_string());
        if let Some(reference) = reference {
            carried.insert("imageRef".to_owned(), reference.or_latest().to_string());
        }
        self.event_bus().publish(EventType::Container, "commit", record.id.as_str(), carried);
        Ok(image)
    }
}

/// The name for a new image: none when there is no repository.
pub(crate) fn reference(repo: &str, tag: &str) -> Result<Option<Reference>> {
    if repo.is_empty() {
        return Ok(None);
    }
    let reference: Reference =
        repo.parse().map_err(EngineError::part::<sampan_image::ReferenceError>)?;
    if reference.digest().is_some() {
        return Err(EngineError::Invalid(
            "refusing to create a tag with a digest reference".to_owned(),
        ));
    }
    if tag.is_empty() {
        return Ok(Some(reference));
    }
    reference.with_tag(tag).map(Some).map_err(EngineError::part)
}

/// The container's configuration as an image's, with what the request sets
/// put over it.
fn image_config(
    own: &docker::ContainerConfig,
    over: Option<&docker::ContainerConfig>,
) -> Result<docker::ImageConfig> {
    let fields = |config: &docker::ContainerConfig| match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let mut merged = fields(own);
    if let Some(over) = over {
        merge(&mut merged, fields(over));
    }
    // What is about one container only is not the image's.
    for key in ["Hostname", "Domainname", "Image"] {
        merged.remove(key);
    }
    serde_json::from_value(Value::Object(merged))
        .map_err(|e| EngineError::Invalid(format!("the configuration can't be an image's: {e}")))
}

fn merge(into: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (into.get_mut(&key), value) {
            (_, Value::Null | Value::Bool(false)) => {}
            (_, Value::String(text)) if text.is_empty() => {}
            (_, Value::Array(list)) if list.is_empty() => {}
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
            (Some(Value::Array(old)), Value::Array(new)) if key == "Env" => merge_env(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Variables by name: the new ones win.
fn merge_env(old: &mut Vec<Value>, new: Vec<Value>) {
    let name = |v: &Value| v.as_str().and_then(|t| t.split('=').next()).map(str::to_owned);
    old.retain(|o| new.iter().all(|n| name(n) != name(o)));
    old.extend(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(reference("", "x").unwrap(), None);
        assert_eq!(reference("app", "v1").unwrap().unwrap().familiar(), "app:v1");
        assert_eq!(reference("app:v2", "").unwrap().unwrap().familiar(), "app:v2");
        assert!(reference("App", "").is_err());
        assert!(reference("app", "a b").is_err());
        assert!(reference(&format!("app@sha256:{}", "a".repeat(64)), "").is_err());
    }

    #[test]
    fn the_request_goes_over_the_containers_configuration() {
        let own = docker::ContainerConfig {
            hostname: Some("h".to_owned()),
            env: Some(vec!["A=1".to_owned(), "B=2".to_owned()]),
            cmd: Some(vec!["sh".to_owned()]),
            labels: Some([("x".to_owned(), "1".to_owned())].into()),
            exposed_ports: Some(vec!["80/tcp".to_owned()]),
            ..Default::default()
        };
        let over = docker::ContainerConfig {
            env: Some(vec!["A=3".to_owned()]),
            cmd: Some(Vec::new()),
            user: Some("www".to_owned()),
            labels: Some([("y".to_owned(), "2".to_owned())].into()),
            ..Default::default()
        };
        let config = image_config(&own, Some(&over)).unwrap();
        assert_eq!(config.env.unwrap(), ["B=2", "A=3"]);
        assert_eq!(config.cmd.unwrap(), ["sh"]);
        assert_eq!(config.user.as_deref(), Some("www"));
        assert_eq!(config.labels.unwrap().len(), 2);
        assert_eq!(config.exposed_ports.unwrap(), ["80/tcp"]);
    }
}
