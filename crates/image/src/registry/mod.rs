//! The registry client: pull, push, login, and a look at what a registry has,
//! by the distribution specification
//! (<https://github.com/opencontainers/distribution-spec>) and Docker's habits.
//!
//! Be aware:
//! - A registry is not trusted: sizes are bounded, everything fetched by a
//!   digest is verified before it is used, and credentials stay with the host
//!   that they are for (see [`transport`] and [`session`]).
//! - Dropping the future of a pull or push ends it. What was downloaded stays
//!   in the content store's ingest directory and the next pull goes on there.
//! - The limits on concurrent transfers hold for all pulls (and all pushes) of
//!   one [`Registry`] together, so make one and clone it.

mod challenge;
mod config;
mod distribution;
mod dns;
mod download;
mod endpoint;
mod error;
mod manifest;
mod platform;
mod pull;
mod push;
mod session;
mod source;
mod tls;
mod transport;
mod upload;

use std::sync::Arc;

use sampan_types::ImageId;
use tokio::sync::Semaphore;

use crate::{Images, Platform, Reference};

pub use config::{AuthConfig, InsecureRegistries, Mirror, RegistryConfig, auth_header};
pub use distribution::LoginStatus;
pub use error::{Code, RegistryError, StatusError};
pub use platform::PlatformError;

use endpoint::Endpoint;
use transport::Transport;

/// The registries, as this engine's images see them. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    images: Images,
    transport: Arc<Transport>,
    /// One permit for each layer that may be downloaded at once.
    downloads: Arc<Semaphore>,
    /// One permit for each layer that may be uploaded at once.
    uploads: Arc<Semaphore>,
    /// One permit for each layer that may be unpacked at once.
    unpacks: Arc<Semaphore>,
}

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// The image. Without tag and digest it is `latest`, or all tags.
    pub reference: Reference,
    /// All tags of the repository; the reference has none then.
    pub all_tags: bool,
    /// For which platform; this machine's if `None`.
    pub platform: Option<Platform>,
    /// Credentials of the client.
    pub auth: Option<AuthConfig>,
}

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The images, in the order of their tags.
    pub images: Vec<ImageId>,
    /// Whether anything is new here.
    pub newer: bool,
}

/// What to push.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// The image by its tag. Without a tag all tags of the repository.
    pub reference: Reference,
    /// Credentials of the client.
    pub auth: Option<AuthConfig>,
}

impl Registry {
    /// A client that fills and reads `images`. Nothing is contacted.
    #[must_use]
    pub fn new(images: Images, config: RegistryConfig) -> Self {
        let permits = |n: usize| Arc::new(Semaphore::new(n.clamp(1, 1024)));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            images,
            downloads: permits(config.max_concurrent_downloads),
            uploads: permits(config.max_concurrent_uploads),
            unpacks: permits(cores),
            transport: Arc::new(Transport::new(config)),
        }
    }

    /// The mirrors of a registry, to be tried before itself.
    fn mirrors(&self, domain: &str) -> Result<Vec<Endpoint>, RegistryError> {
        let all = endpoint::endpoints(domain, false, &self.transport.config.mirrors)?;
        Ok(all.into_iter().filter(|e| e.mirror).collect())
    }

    /// The registry's own address: HTTPS, or plain HTTP where that is allowed
    /// and HTTPS isn't spoken.
    async fn own(&self, domain: &str) -> Result<Endpoint, RegistryError> {
        let insecure = self.transport.is_insecure(domain).await;
        let mut own = endpoint::endpoints(domain, insecure, &[])?.into_iter().peekable();
        while let Some(endpoint) = own.next() {
            if own.peek().is_none() {
                return Ok(endpoint);
            }
            match self.transport.reach(&endpoint.base).await {
                Err(e) if e.is_unreachable() => {
                    tracing::debug!(registry = domain, error = %e, "HTTPS is not spoken");
                }
                Err(e) => return Err(e),
                Ok(()) => return Ok(endpoint),
            }
        }
        Err(RegistryError::Invalid {
            what: "registry",
            value: domain.into(),
            reason: "it has no address".into(),
        })
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}
