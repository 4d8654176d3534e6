//! Setting one sandbox up and taking it away.

use std::sync::Arc;

use sampan_sys::sysctl;
use sampan_types::{EndpointId, SandboxId};

use super::routes::Attached;
use super::{Inner, Joined, Sandbox, plan};
use crate::config::{Attachment, EndpointSpec, NetworkSpec, SandboxSpec};
use crate::driver::{AttachRequest, DetachRequest, Namespace};
use crate::error::NetError;
use crate::firewall::Forwards;
use crate::ports::PublishedPort;

impl Inner {
    pub(super) async fn join(&self, spec: SandboxSpec) -> Result<Sandbox, NetError> {
        let networks = plan::check_sandbox(&self.state(), &spec)?;
        if self.state().sandboxes.contains_key(&spec.sandbox) {
            self.leave(&spec.sandbox).await?;
        }
        let mut attached = Vec::with_capacity(networks.len());
        let made = self.make(&spec, &networks, &mut attached).await;
        let netns = match made {
            Ok(netns) => netns,
            Err(e) => {
                self.undo(&spec, &attached).await;
                return Err(e);
            }
        };
        let forwards = plan::forwards(&spec, &attached);
        if let Err(e) = self.firewall.add_forwards(forwards.clone()).await {
            self.undo(&spec, &attached).await;
            return Err(e);
        }
        let attachments = attached.into_iter().map(|(_, attachment)| attachment).collect();
        let sandbox = Sandbox { netns, attachments };
        self.host6.change(Forwards::default(), forwards.clone()).await;
        let joined = Joined { sandbox: sandbox.clone(), forwards, spec };
        if let Err(e) = self.tell_names(&joined).await {
            self.state().sandboxes.insert(joined.spec.sandbox.clone(), joined.clone());
            if let Err(also) = self.leave(&joined.spec.sandbox).await {
                tracing::warn!(sandbox = %joined.spec.sandbox, error = %also, "failed to take a sandbox back");
            }
            return Err(e);
        }
        let (id, published) = (joined.spec.sandbox.clone(), !joined.forwards.is_empty());
        self.state().sandboxes.insert(id.clone(), joined);
        self.straighten(&id, None).await;
        if published {
            self.direct(&id).await;
        }
        self.joined.notify_one();
        Ok(sandbox)
    }

    /// Namespace, endpoints and kernel parameters. What is attached is in
    /// `attached` also after a failure.
    async fn make(
        &self,
        spec: &SandboxSpec,
        networks: &[Arc<NetworkSpec>],
        attached: &mut Vec<Attached>,
    ) -> Result<Option<std::path::PathBuf>, NetError> {
        if plan::on_host(networks) {
            for (endpoint, network) in spec.endpoints.iter().zip(networks) {
                attached.push((Arc::clone(network), Attachment::blank(endpoint)));
            }
            return Ok(None);
        }
        let (namespace, _reorder) = self.namespaces.take().await?;
        let namespace = Arc::new(namespace);
        if self.namespaces.path(&spec.sandbox).exists() {
            // Of an earlier sandbox with this id, perhaps on its way out.
            self.reaper.flush().await;
        }
        let path = self.namespaces.name(&namespace, &spec.sandbox)?;
        let names = plan::interfaces(spec, networks);
        for ((endpoint, network), interface) in spec.endpoints.iter().zip(networks).zip(names) {
            let request = AttachRequest {
                sandbox: spec.sandbox.clone(),
                endpoint: endpoint.clone(),
                network: Arc::clone(network),
                namespace: Arc::clone(&namespace),
                interface: Some(interface),
            };
            let mut attachment = self.attach(network, request).await?;
            attached.push((Arc::clone(network), attachment.clone()));
            self.add_link_locals(&namespace, endpoint, &mut attachment).await?;
            if let Some(last) = attached.last_mut() {
                last.1.clone_from(&attachment);
            }
            if !endpoint.rate.is_none() {
                self.limit_endpoint(&namespace, network, endpoint, &attachment).await?;
            }
        }
        self.route_sandbox(&namespace, spec, attached, None).await?;
        let mut sysctls: Vec<_> = spec.sysctls.clone().into_iter().collect();
        for (endpoint, (_, attachment)) in spec.endpoints.iter().zip(&*attached) {
            sysctls.extend(plan::interface_sysctls(endpoint, attachment));
        }
        set_sysctls(&namespace, sysctls).await?;
        Ok(Some(path))
    }

    /// Takes away what a failed attempt made. Failures are reported, and left
    /// to the next reconciliation.
    async fn undo(&self, spec: &SandboxSpec, attached: &[Attached]) {
        let sandbox = &spec.sandbox;
        for (network, attachment) in attached {
            if let Err(e) = self.detach(spec, network, attachment, false).await {
                tracing::warn!(%sandbox, error = %e, "failed to take an endpoint back");
            }
        }
        self.reaper.namespace(self.namespaces.path(sandbox));
    }

    async fn attach(
        &self,
        network: &NetworkSpec,
        request: AttachRequest,
    ) -> Result<Attachment, NetError> {
        self.reaper.forgotten(&request.endpoint.addresses).await;
        self.driver(network).attach(request).await
    }

    async fn detach(
        &self,
        spec: &SandboxSpec,
        network: &Arc<NetworkSpec>,
        attachment: &Attachment,
        wait: bool,
    ) -> Result<(), NetError> {
        let endpoint = spec.endpoints.iter().find(|e| e.endpoint == attachment.endpoint);
        let Some(endpoint) = endpoint else { return Ok(()) };
        let request = DetachRequest {
            sandbox: spec.sandbox.clone(),
            endpoint: endpoint.clone(),
            network: Arc::clone(network),
            attachment: attachment.clone(),
            netns: self.namespaces.path(&spec.sandbox),
            wait,
        };
        // An entry names the link by its number: it goes first.
        let redirected = self.redirect.remove(&attachment.endpoint).await;
        let netns = self.namespaces.path(&spec.sandbox);
        let unlimited = match wait && attachment.host_interface.is_none() {
            true => self.unlimit_endpoint(&netns, endpoint).await,
            false => Ok(()),
        };
        let detached = redirected.and(self.driver(network).detach(request).await).and(unlimited);
        self.reaper.addresses(attachment.addresses.iter().map(ipnet::IpNet::addr));
        detached
    }

    /// Tells the name service of a sandbox that has a namespace of its own.
    pub(super) async fn tell_names(&self, joined: &Joined) -> Result<(), NetError> {
        let names = plan::names(&self.state(), joined);
        match names {
            Some(names) => self.names.set(names).await,
            None => Ok(()),
        }
    }

    pub(super) async fn leave(&self, sandbox: &SandboxId) -> Result<(), NetError> {
        let joined = self.state().sandboxes.remove(sandbox);
        let Some(joined) = joined else {
            let path = self.namespaces.path(sandbox);
            if path.exists() {
                self.reaper.namespace(path);
            }
            return Ok(());
        };
        let mut result = self.names.remove(sandbox).await;
        if !joined.forwards.is_empty() {
            result = result.and(self.direct.remove(sandbox).await);
        }
        self.host6.change(joined.forwards.clone(), Forwards::default()).await;
        result = result.and(self.firewall.remove_forwards(joined.forwards.clone()).await);
        for attachment in &joined.sandbox.attachments {
            let network = self.state().networks.get(&attachment.network).cloned();
            let detached = match network {
                Some(network) => self.detach(&joined.spec, &network, attachment, false).await,
                // Its links went with it.
                None => Ok(()),
            };
            result = result.and(detached);
        }
        if joined.sandbox.netns.is_some() {
            self.reaper.namespace(self.namespaces.path(sandbox));
        }
        result
    }

    pub(super) async fn connect(
        &self,
        sandbox: &SandboxId,
        endpoint: EndpointSpec,
    ) -> Result<Attachment, NetError> {
        let (joined, network, attached) = {
            let state = self.state();
            let joined = state.sandboxes.get(sandbox).cloned();
            let joined = joined.ok_or_else(|| NetError::NoSandbox(sandbox.clone()))?;
            let network = plan::check_endpoint(&state, &endpoint)?;
            let attached = attached(&state, &joined);
            (joined, network, attached)
        };
        if let Some(known) =
            joined.sandbox.attachments.iter().find(|a| a.endpoint == endpoint.endpoint)
        {
            return Ok(known.clone());
        }
        let Some(path) = &joined.sandbox.netns else {
            return Err(NetError::NotSupported {
                what: "a connection to a network beside the host's".to_owned(),
            });
        };
        let namespace = Arc::new(Namespace::open(path)?);
        let interface = match &endpoint.interface {
            Some(name) => name.clone(),
            None => self.free_interface(&namespace, network.interface_prefix()).await?,
        };
        let request = AttachRequest {
            sandbox: sandbox.clone(),
            endpoint: endpoint.clone(),
            network: Arc::clone(&network),
            namespace: Arc::clone(&namespace),
            interface: Some(interface),
        };
        let mut attachment = self.attach(&network, request).await?;
        if let Err(e) = self.add_link_locals(&namespace, &endpoint, &mut attachment).await {
            let mut spec = joined.spec.clone();
            spec.endpoints.push(endpoint);
            if let Err(also) = self.detach(&spec, &network, &attachment, true).await {
                tracing::warn!(%sandbox, error = %also, "failed to take an endpoint back");
            }
            return Err(e);
        }
        let (before, mut after, mut all) = (joined.spec.clone(), joined, attached.clone());
        after.spec.endpoints.push(endpoint.clone());
        after.sandbox.attachments.push(attachment.clone());
        all.push((Arc::clone(&network), attachment.clone()));
        let spec = after.spec.clone();
        let completed = self.complete(&namespace, &endpoint, after, &all).await;
        if let Err(e) = completed {
            if let Err(also) =
                self.route_sandbox(&namespace, &before, &attached, Some(&attachment)).await
            {
                tracing::warn!(%sandbox, error = %also, "failed to set the routes back");
            }
            if let Err(also) = self.detach(&spec, &network, &attachment, true).await {
                tracing::warn!(%sandbox, error = %also, "failed to take an endpoint back");
            }
            return Err(e);
        }
        Ok(attachment)
    }

    /// What is left to do for an endpoint that was attached to a sandbox in
    /// use, which is `after` with it.
    async fn complete(
        &self,
        namespace: &Arc<Namespace>,
        endpoint: &EndpointSpec,
        after: Joined,
        all: &[Attached],
    ) -> Result<(), NetError> {
        if let Some((network, attachment)) = all.last() {
            if !endpoint.rate.is_none() {
                self.limit_endpoint(namespace, network, endpoint, attachment).await?;
            }
            let sysctls = plan::interface_sysctls(endpoint, attachment).collect();
            set_sysctls(namespace, sysctls).await?;
        }
        self.route_sandbox(namespace, &after.spec, all, None).await?;
        let sandbox = after.spec.sandbox.clone();
        self.repoint(after, all).await?;
        self.straighten(&sandbox, Some(&endpoint.endpoint)).await;
        Ok(())
    }

    /// The first name of `prefix` and a number that no interface has.
    async fn free_interface(
        &self,
        namespace: &Arc<Namespace>,
        prefix: &str,
    ) -> Result<String, NetError> {
        let (namespace, prefix) = (Arc::clone(namespace), prefix.to_owned());
        let found = self.worker.run(move |_| namespace.free_interface(&prefix)).await?;
        found.map_err(NetError::kernel("list the interfaces of a sandbox"))
    }

    pub(super) async fn disconnect(
        &self,
        sandbox: &SandboxId,
        endpoint: &EndpointId,
    ) -> Result<(), NetError> {
        let Some(mut joined) = self.state().sandboxes.get(sandbox).cloned() else { return Ok(()) };
        let attachments = &mut joined.sandbox.attachments;
        let Some(at) = attachments.iter().position(|a| a.endpoint == *endpoint) else {
            return Ok(());
        };
        let attachment = attachments.remove(at);
        let before = joined.spec.clone();
        joined.spec.endpoints.retain(|e| e.endpoint != *endpoint);
        let (network, attached) = {
            let state = self.state();
            (state.networks.get(&attachment.network).cloned(), attached(&state, &joined))
        };
        if let Some(path) = &joined.sandbox.netns {
            // The default route is another's before the link is gone.
            let namespace = Arc::new(Namespace::open(path)?);
            self.route_sandbox(&namespace, &joined.spec, &attached, Some(&attachment)).await?;
        }
        self.repoint(joined, &attached).await?;
        match &network {
            Some(network) => self.detach(&before, network, &attachment, true).await,
            None => Ok(()),
        }
    }

    pub(super) async fn publish(
        &self,
        sandbox: &SandboxId,
        ports: Vec<PublishedPort>,
    ) -> Result<(), NetError> {
        let (mut joined, attached) = {
            let state = self.state();
            let joined = state.sandboxes.get(sandbox).cloned();
            let joined = joined.ok_or_else(|| NetError::NoSandbox(sandbox.clone()))?;
            let attached = attached(&state, &joined);
            (joined, attached)
        };
        joined.spec.ports = ports;
        self.repoint(joined, &attached).await
    }

    /// Leads a sandbox's published ports to where they belong now, and
    /// records the sandbox.
    async fn repoint(&self, mut joined: Joined, attached: &[Attached]) -> Result<(), NetError> {
        let wanted = plan::forwards(&joined.spec, attached);
        let (gone, new) = (joined.forwards.without(&wanted), wanted.without(&joined.forwards));
        self.firewall.remove_forwards(gone.clone()).await?;
        self.firewall.add_forwards(new.clone()).await?;
        self.host6.change(gone, new).await;
        joined.forwards = wanted;
        self.tell_names(&joined).await?;
        let sandbox = joined.spec.sandbox.clone();
        self.state().sandboxes.insert(sandbox.clone(), joined);
        self.direct(&sandbox).await;
        Ok(())
    }
}

pub(super) fn attached(state: &super::State, joined: &Joined) -> Vec<Attached> {
    let attachments = joined.sandbox.attachments.iter();
    attachments
        .filter_map(|a| Some((Arc::clone(state.networks.get(&a.network)?), a.clone())))
        .collect()
}

/// Kernel parameters are of the namespace of the thread that writes them.
pub(super) async fn set_sysctls(
    namespace: &Arc<Namespace>,
    sysctls: Vec<(String, String)>,
) -> Result<(), NetError> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let namespace = Arc::clone(namespace);
    let written = tokio::task::spawn_blocking(move || {
        namespace.netns().run(|| {
            sysctls
                .iter()
                .try_for_each(|(name, value)| sysctl::write_apart(name, value).map(|_| ()))
        })
    });
    match written.await {
        Ok(Ok(result)) => Ok(result?),
        Ok(Err(source)) => Err(NetError::Namespace {
            operation: "enter a namespace made below",
            path: "/proc/self/ns".into(),
            source,
        }),
        Err(_) => Err(NetError::Stopped),
    }
}
