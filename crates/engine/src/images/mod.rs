//! Images as the API shows them: glue over [`sampan_image`].
//!
//! Be aware: an image is in use by a container from its creation to its
//! removal, whether it runs or not.

mod change;
pub(crate) mod messages;
mod transfer;
mod view;

use sampan_image::ImageUse;
use sampan_image::registry::AuthConfig;
use sampan_types::{ContainerId, EventType, ImageId, docker};

use crate::Engine;

pub use messages::Messages;
pub use transfer::ImportOptions;

/// Credentials for a registry, in either of the types that they come in.
#[derive(Debug, Clone)]
pub struct Credentials(AuthConfig);

impl From<AuthConfig> for Credentials {
    fn from(auth: AuthConfig) -> Self {
        Self(auth)
    }
}

impl From<docker::AuthConfig> for Credentials {
    fn from(auth: docker::AuthConfig) -> Self {
        Self(AuthConfig {
            username: auth.username.unwrap_or_default(),
            password: auth.password.unwrap_or_default(),
            serveraddress: auth.serveraddress.unwrap_or_default(),
            ..AuthConfig::default()
        })
    }
}

impl Engine {
    /// Which containers use an image, as their own or mounted.
    fn image_uses(&self, image: &ImageId) -> Vec<ImageUse> {
        self.containers()
            .iter()
            .map(|c| c.record())
            .filter(|r| {
                let mut mounted = r.mounts.iter().filter_map(|m| m.image.as_ref());
                r.image == *image || mounted.any(|m| m.id == *image)
            })
            .map(|r| ImageUse {
                container: ContainerId::clone(&r.id),
                running: r.state.is_running(),
            })
            .collect()
    }

    /// Publishes what happened to an image; its labels go along.
    fn image_event(&self, action: &str, id: &str, name: &str, image: Option<&ImageId>) {
        let record = image.and_then(|i| self.image_store().inspect(i).ok());
        let labels = record.and_then(|r| r.run_config().labels).unwrap_or_default();
        let carried = labels.into_iter().chain([("name".to_owned(), name.to_owned())]);
        self.event_bus().publish(EventType::Image, action, id, carried);
    }
}
