//! Login, and what a registry says about an image without pulling it.

use std::sync::Arc;

use sampan_types::docker;

use super::Registry;
use super::config::AuthConfig;
use super::error::RegistryError;
use super::manifest::{self, Document};
use super::session::Session;
use crate::{Platform, Reference};

/// The registry that a login without an address is for.
const HUB: &str = "docker.io";

/// What `POST /auth` answers.
#[derive(Clone, PartialEq, Eq)]
pub struct LoginStatus {
    /// "Login Succeeded".
    pub status: String,
    /// A refresh token to keep instead of the password; empty if the registry
    /// gives none.
    pub identity_token: String,
}

/// Shows that there is a token, not which.
impl std::fmt::Debug for LoginStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginStatus").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Registry {
    /// Proves credentials at the registry that they name.
    ///
    /// # Errors
    /// [`RegistryError::LoginRefused`] when the registry refuses them.
    pub async fn login(&self, auth: &AuthConfig) -> Result<LoginStatus, RegistryError> {
        let domain = login_domain(&auth.serveraddress)?;
        let endpoint = self.own(&domain).await?;
        let session = Session::new(Arc::clone(&self.transport), endpoint, "", "", Some(auth));
        let refresh = session.prove().await?;
        Ok(LoginStatus {
            status: "Login Succeeded".into(),
            identity_token: refresh.unwrap_or_default(),
        })
    }

    /// What the registry has under a name: `GET /distribution/{name}/json`.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn distribution_inspect(
        &self,
        reference: &Reference,
        auth: Option<&AuthConfig>,
    ) -> Result<docker::DistributionInspect, RegistryError> {
        let reference = reference.clone().or_latest();
        let endpoint = self.own(reference.domain()).await?;
        let session =
            Session::new(Arc::clone(&self.transport), endpoint, reference.path(), "pull", auth);
        let fetched = manifest::fetch(&session, &reference).await?;
        let platforms = match &fetched.document {
            Document::Index(index) => {
                index.manifests.iter().filter_map(|m| m.platform.as_ref()).map(described).collect()
            }
            Document::Manifest(found) => {
                manifest::check_parts(found, &reference.familiar())?;
                let (_, config) = manifest::fetch_config(&session, found).await?;
                vec![described(&config.platform())]
            }
        };
        let descriptor = docker::OciDescriptor {
            media_type: Some(fetched.document.media_type().to_owned()),
            digest: Some(fetched.digest.to_string()),
            size: i64::try_from(fetched.bytes.len()).ok(),
            ..docker::OciDescriptor::default()
        };
        Ok(docker::DistributionInspect { descriptor, platforms })
    }
}

fn described(platform: &Platform) -> docker::OciPlatform {
    docker::OciPlatform {
        architecture: Some(platform.architecture.clone()),
        os: Some(platform.os.clone()),
        os_version: platform.os_version.clone(),
        variant: platform.variant.clone(),
        ..docker::OciPlatform::default()
    }
}

/// The registry of a login's address: a host, or Docker Hub's historical URL.
fn login_domain(address: &str) -> Result<String, RegistryError> {
    let bare = address
        .strip_prefix("https://")
        .or_else(|| address.strip_prefix("http://"))
        .unwrap_or(address);
    let host = bare.split('/').next().unwrap_or_default();
    if host.contains('@') || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(RegistryError::Invalid {
            what: "registry",
            value: host.rsplit('@').next().unwrap_or_default().into(),
            reason: "host or host:port expected".into(),
        });
    }
    Ok(match host {
        "" | HUB | "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        host => host.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_name_their_registry_in_several_ways() {
        for address in ["", "https://index.docker.io/v1/", "docker.io"] {
            assert_eq!(login_domain(address).unwrap(), "docker.io", "{address}");
        }
        assert_eq!(login_domain("https://r.lan:5000/v2/").unwrap(), "r.lan:5000");
        let error = login_domain("https://u:s3cret@r.lan").unwrap_err().to_string();
        assert!(!error.contains("s3cret"));
    }
}
