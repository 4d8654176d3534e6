//! What is done for endpoints whichever drivers they are of: limits of
//! bandwidth, and kernel parameters after a repair.

use std::path::Path;
use std::sync::Arc;

use sampan_sys::netlink::NetlinkError;
use sampan_types::EndpointId;

use super::sandbox::set_sysctls;
use super::{Inner, Repairs, plan};
use crate::config::{Attachment, EndpointSpec, NetworkSpec, SandboxSpec};
use crate::driver::Namespace;
use crate::error::NetError;
use crate::shape;

/// What a kernel says of a kind of link or of a filter that it does not know.
const ENOENT: i32 = 2;
const EOPNOTSUPP: i32 = 95;

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
        let name = network.name.clone();
        let failed = move |e: NetlinkError| match e.errno() {
            Some(ENOENT | EOPNOTSUPP) if rate.ingress.is_some() => NetError::NotSupported {
                what: format!(
                    "a limit of what is received by network {name}: by this kernel (modules \
                         ifb, cls_bpf, act_mirred, sch_tbf), it"
                ),
            },
            _ => NetError::kernel(format!("limit an endpoint on network {name}"))(e),
        };
        let id = endpoint.endpoint.clone();
        let limited = self.worker.run(move |kernel| {
            let mut changed = false;
            if let Some(name) = &outside {
                changed |= shape::limit(&mut kernel.route, name, rate.ingress)?;
            }
            if let (Some(name), None) = (&inside, &outside) {
                let mut inner = namespace.route();
                changed |= shape::inward::limit(&mut inner, name, &id, rate.ingress)?;
            }
            if let Some(name) = &inside {
                changed |= shape::limit(&mut namespace.route(), name, rate.egress)?;
            }
            Ok(changed)
        });
        limited.await?.map_err(failed)
    }

    /// Takes away what limits an endpoint and does not go with its link, in a
    /// sandbox that stays.
    pub(super) async fn unlimit_endpoint(
        &self,
        netns: &Path,
        endpoint: &EndpointSpec,
    ) -> Result<(), NetError> {
        if endpoint.rate.ingress.is_none() {
            return Ok(());
        }
        // With the namespace it is gone as well.
        let Ok(namespace) = Namespace::open(netns) else { return Ok(()) };
        let id = endpoint.endpoint.clone();
        let removed =
            self.worker.run(move |_| shape::inward::remove(&mut namespace.route(), &id).map(drop));
        removed.await?.map_err(NetError::kernel("lift the limit of an endpoint"))
    }

    /// Takes away what limited endpoints that a sandbox has no more.
    pub(super) async fn sweep_limits(
        &self,
        spec: &SandboxSpec,
        namespace: &Arc<Namespace>,
        repairs: &mut Repairs,
    ) {
        let kept: Vec<EndpointId> = spec.endpoints.iter().map(|e| e.endpoint.clone()).collect();
        let namespace = Arc::clone(namespace);
        let swept = self
            .worker
            .run(move |_| shape::inward::sweep(&mut namespace.route(), &kept))
            .await
            .and_then(|s| s.map_err(NetError::kernel("look for limits without an endpoint")));
        match swept {
            Ok(names) => repairs.removed.extend(names.iter().map(|n| format!("link {n}"))),
            Err(e) => repairs.failed.push(e.to_string()),
        }
    }

    /// What is left to do for an endpoint that its driver completed; it may
    /// have been made anew. Says whether it was limited otherwise, or lacked an
    /// address.
    pub(super) async fn complete_restored(
        &self,
        namespace: &Arc<Namespace>,
        network: &NetworkSpec,
        endpoint: &EndpointSpec,
        attachment: &mut Attachment,
        missing: bool,
    ) -> Result<bool, NetError> {
        let lacked = self.add_link_locals(namespace, endpoint, attachment).await?;
        let limited = self.limit_endpoint(namespace, network, endpoint, attachment).await?;
        if missing {
            let sysctls = plan::interface_sysctls(endpoint, attachment).collect();
            set_sysctls(namespace, sysctls).await?;
        }
        Ok(limited | lacked)
    }
}
