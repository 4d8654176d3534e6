//! What is done for endpoints whichever drivers they are of: limits of
//! bandwidth, and kernel parameters after a repair.

use std::sync::Arc;

use super::sandbox::set_sysctls;
use super::{Inner, plan};
use crate::config::{Attachment, EndpointSpec, NetworkSpec};
use crate::driver::Namespace;
use crate::error::NetError;
use crate::shape;

impl Inner {
    /// Limits an endpoint as its specification says. Says whether it was
    /// limited otherwise before.
    pub(super) async fn limit_endpoint(
        &self,
        namespace: &Arc<Namespace>,
        network: &NetworkSpec,
        endpoint: &EndpointSpec,
        attachment: &Attachment,
    ) -> Result<bool, NetError> {
        let (rate, namespace) = (endpoint.rate, Arc::clone(namespace));
        let (outside, inside) = (attachment.host_interface.clone(), attachment.interface.clone());
        if rate.ingress.is_some() && outside.is_none() {
            return Err(NetError::NotSupported {
                what: format!(
                    "a limit of what is received by network {}, whose endpoints have no end on \
                     the host,",
                    network.name
                ),
            });
        }
        let failed = NetError::kernel(format!("limit an endpoint on network {}", network.name));
        let limited = self.worker.run(move |kernel| {
            let mut changed = false;
            if let Some(name) = &outside {
                changed |= shape::limit(&mut kernel.route, name, rate.ingress)?;
            }
            if let Some(name) = &inside {
                changed |= shape::limit(&mut namespace.route(), name, rate.egress)?;
            }
            Ok(changed)
        });
        limited.await?.map_err(failed)
    }

    /// What is left to do for an endpoint that its driver completed; it may
    /// have been made anew. Says whether it was limited otherwise.
    pub(super) async fn complete_restored(
        &self,
        namespace: &Arc<Namespace>,
        network: &NetworkSpec,
        endpoint: &EndpointSpec,
        attachment: &Attachment,
        missing: bool,
    ) -> Result<bool, NetError> {
        let limited = self.limit_endpoint(namespace, network, endpoint, attachment).await?;
        if missing {
            let sysctls = plan::interface_sysctls(endpoint, attachment).collect();
            set_sysctls(namespace, sysctls).await?;
        }
        Ok(limited)
    }
}
