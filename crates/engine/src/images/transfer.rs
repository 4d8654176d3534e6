//! Images from and to registries and archives.

use sampan_image::registry::{AuthConfig, PullRequest, PushRequest};
use sampan_image::{
    ByteStream, Change, ImportRequest, LoadOptions, Platform, Progress, Reference, ReferenceError,
};
use sampan_types::EventType;
use serde_json::{Value, json};
use tokio::io::AsyncRead;

use super::{Credentials, Messages, messages};
use crate::container_view::commit::reference;
use crate::{Engine, EngineError, Result};

/// What to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The repository to name it; empty for none.
    pub repo: String,
    /// The tag.
    pub tag: String,
    /// A remark.
    pub message: String,
    /// Dockerfile instructions, one each.
    pub changes: Vec<String>,
    /// `os[/arch[/variant]]`.
    pub platform: Option<String>,
}

impl Engine {
    /// Pulls `image`. `tag` is a tag or a digest; when it is empty and the
    /// name has neither, all tags are pulled, as dockerd does.
    ///
    /// # Errors
    /// A wrong name, and what the registry says before anything was sent.
    pub async fn image_pull<A: Into<Credentials>>(
        &self,
        image: &str,
        tag: &str,
        wanted: Option<&str>,
        auth: Option<A>,
    ) -> Result<Messages> {
        let reference = pull_reference(image, tag)?;
        let request = PullRequest {
            all_tags: reference.tag().is_none() && reference.digest().is_none(),
            platform: platform(wanted)?,
            auth: credentials(auth),
            reference,
        };
        let engine = self.clone();
        messages::run(|progress| async move {
            let pulled =
                engine.registry().pull(&request, &progress).await.map_err(EngineError::part)?;
            let name = request.reference.familiar();
            engine.image_event(
                "pull",
                &name,
                &request.reference.familiar_name(),
                pulled.images.first(),
            );
            Ok(())
        })
        .await
    }

    /// Pushes `image` with `tag`; an empty tag means all tags.
    ///
    /// # Errors
    /// No such image, a wrong name.
    pub async fn image_push<A: Into<Credentials>>(
        &self,
        image: &str,
        tag: &str,
        auth: Option<A>,
    ) -> Result<Messages> {
        let mut reference: Reference =
            image.parse().map_err(EngineError::part::<ReferenceError>)?;
        if !tag.is_empty() {
            reference = reference.with_tag(tag).map_err(EngineError::part)?;
        }
        let request = PushRequest { auth: credentials(auth), reference };
        let engine = self.clone();
        messages::run(|progress| async move {
            engine.registry().push(&request, &progress).await.map_err(EngineError::part)?;
            let name = request.reference.familiar();
            engine.image_event("push", &name, &request.reference.familiar_name(), None);
            Ok(())
        })
        .await
    }

    /// Loads images from an archive.
    ///
    /// # Errors
    /// A wrong platform; what is wrong with the archive.
    pub async fn image_load<R>(
        &self,
        archive: R,
        quiet: bool,
        wanted: Option<&str>,
    ) -> Result<Messages>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let options = LoadOptions { platform: platform(wanted)?, quiet };
        let engine = self.clone();
        messages::run(|progress| async move {
            let loaded = engine.image_store().load(archive, options, progress).await?;
            for (id, names) in loaded {
                let name = names.first().map_or_else(|| id.to_string(), Reference::familiar);
                engine.image_event("load", id.as_str(), &name, Some(&id));
            }
            Ok(())
        })
        .await
    }

    /// Images as one archive.
    ///
    /// # Errors
    /// No such image.
    pub async fn image_save(&self, names: &[String], wanted: Option<&str>) -> Result<ByteStream> {
        let stream = self.image_store().save(names, platform(wanted)?).await?;
        for name in names {
            if let Ok(id) = self.image_store().resolve(name) {
                self.image_event("save", id.as_str(), name, Some(&id));
            }
        }
        Ok(stream)
    }

    /// Makes an image from the archive of a root file system.
    ///
    /// # Errors
    /// A wrong name or change; what is wrong with the archive.
    pub async fn image_import<R>(&self, archive: R, options: ImportOptions) -> Result<Messages>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let changes: Result<Vec<Change>, _> =
            options.changes.iter().map(|c| c.parse::<Change>()).collect();
        let message = Some(options.message).filter(|m| !m.is_empty());
        let request = ImportRequest {
            reference: reference(&options.repo, &options.tag)?,
            changes: changes.map_err(|e| EngineError::Invalid(e.to_string()))?,
            message: message.unwrap_or_else(|| "Imported from -".to_owned()),
            platform: platform(options.platform.as_deref())?,
        };
        let engine = self.clone();
        messages::run(|progress| async move {
            let id = engine.image_store().import(archive, request).await?;
            engine.image_event("import", id.as_str(), id.as_str(), Some(&id));
            progress.send(Progress::status(id.to_string())).await;
            Ok(())
        })
        .await
    }

    /// Searches a registry.
    ///
    /// # Errors
    /// Always: registries have no search of their own.
    pub async fn image_search(&self, term: &str) -> Result<Value> {
        Err(EngineError::NotSupported(format!(
            "search for {term:?}: registries have no search; look on the registry's own pages"
        )))
    }

    /// What a registry has under a name.
    ///
    /// # Errors
    /// A wrong name; what the registry says.
    pub async fn distribution_inspect<A: Into<Credentials>>(
        &self,
        name: &str,
        auth: Option<A>,
    ) -> Result<Value> {
        let reference: Reference = name.parse().map_err(EngineError::part::<ReferenceError>)?;
        let found = self
            .registry()
            .distribution_inspect(&reference, credentials(auth).as_ref())
            .await
            .map_err(EngineError::part)?;
        Ok(json!(found))
    }

    /// Checks credentials with a registry: the answer of `POST /auth`.
    ///
    /// # Errors
    /// They are wrong; the registry is out of reach.
    pub async fn registry_auth<A: Into<Credentials>>(&self, auth: A) -> Result<Value> {
        let status = self.registry().login(&auth.into().0).await.map_err(EngineError::part)?;
        self.event_bus().publish(EventType::Daemon, "auth", "", [("status", &status.status)]);
        Ok(json!({ "Status": status.status, "IdentityToken": status.identity_token }))
    }
}

fn credentials<A: Into<Credentials>>(auth: Option<A>) -> Option<AuthConfig> {
    auth.map(|a| a.into().0).filter(|a| !a.is_empty())
}

fn platform(text: Option<&str>) -> Result<Option<Platform>> {
    match text.filter(|t| !t.is_empty()) {
        Some(text) => text.parse().map(Some).map_err(|e: sampan_image::registry::PlatformError| {
            EngineError::Invalid(e.to_string())
        }),
        None => Ok(None),
    }
}

/// `image` with `tag`, which may be a digest, in the place of its own.
fn pull_reference(image: &str, tag: &str) -> Result<Reference> {
    let reference: Reference = image.parse().map_err(EngineError::part::<ReferenceError>)?;
    if tag.is_empty() {
        return Ok(reference);
    }
    if tag.contains(':') {
        let text = format!("{}@{tag}", reference.name());
        return text.parse().map_err(EngineError::part::<ReferenceError>);
    }
    reference.with_tag(tag).map_err(EngineError::part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_digests_are_joined_to_the_name() {
        let name = |image, tag| pull_reference(image, tag).map(|r| r.familiar());
        assert_eq!(name("busybox", "1.36").unwrap(), "busybox:1.36");
        assert_eq!(name("busybox:old", "").unwrap(), "busybox:old");
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(name("r:5000/app", &digest).unwrap(), format!("r:5000/app@{digest}"));
        assert!(name("busybox", "sha256:x").is_err());
        assert!(name("Busybox", "").is_err());
    }

    #[test]
    fn credentials_without_content_are_none() {
        let none = sampan_types::docker::AuthConfig::default();
        assert_eq!(credentials(Some(none)), None);
    }
}
