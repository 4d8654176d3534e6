//! Changing by what names a sandbox is found, and which it finds.

use super::{Inner, Networks};
use crate::config::SandboxSpec;
use crate::error::NetError;

impl Networks {
    /// Makes the names of `spec`'s endpoints, what it says of looking names up
    /// and its links those of the sandbox. Nothing else of it counts. Success
    /// when there is no such sandbox.
    ///
    /// # Errors
    /// The name service's, or the kernel's.
    pub async fn update_names(&self, spec: SandboxSpec) -> Result<(), NetError> {
        self.detached(|inner| async move {
            let _shared = inner.whole.read().await;
            inner.update_names(spec).await
        })
        .await
    }
}

impl Inner {
    async fn update_names(&self, spec: SandboxSpec) -> Result<(), NetError> {
        let joined = {
            let mut state = self.state();
            let Some(joined) = state.sandboxes.get_mut(&spec.sandbox) else { return Ok(()) };
            for endpoint in &mut joined.spec.endpoints {
                let new = spec.endpoints.iter().find(|e| e.endpoint == endpoint.endpoint);
                if let Some(new) = new {
                    endpoint.names.clone_from(&new.names);
                }
            }
            joined.spec.dns = spec.dns;
            joined.spec.links = spec.links;
            joined.clone()
        };
        let told = self.tell_names(&joined).await;
        told.and(self.refresh_links(false).await)
    }
}
