//! Comparing the kernel with what shall be, and closing the difference.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sampan_types::SandboxId;

use super::repair::{Repair, RepairKind};
use super::{Inner, Joined, Repairs, Sandbox, plan};
use crate::config::{Attachment, EndpointSpec, NetworkSpec, SandboxSpec};
use crate::driver::{AttachRequest, Namespace, Observed};
use crate::error::NetError;
use crate::firewall::{Forwards, Policy};

impl Inner {
    pub(super) async fn reconcile(&self, desired: Vec<SandboxSpec>) -> Result<Repairs, NetError> {
        let mut repairs = Repairs::default();
        self.restore_networks(&mut repairs).await;
        let observed = self.observe(&mut repairs).await;
        let mut sandboxes = HashMap::new();
        for spec in desired {
            let sandbox = spec.sandbox.clone();
            match self.restore_sandbox(spec, &observed, &mut repairs).await {
                Some(joined) => drop(sandboxes.insert(sandbox, joined)),
                None => repairs.lost.push(sandbox),
            }
        }
        let networks: Vec<Arc<NetworkSpec>> = self.state().networks.values().cloned().collect();
        let policy = Policy {
            networks: networks.iter().filter_map(|n| plan::network_rules(n)).collect(),
            forwards: sandboxes.values().flat_map(|j: &Joined| j.forwards.clone()).collect(),
            links: super::links::opened(&self.state(), sandboxes.values()).rules,
        };
        let forwards = policy.forwards.clone();
        match self.firewall.restore(policy).await {
            Ok(true) => {
                let what = "rules and published ports";
                repairs.restored.push(Repair::of(RepairKind::Firewall, what));
            }
            Ok(false) => {}
            Err(e) => repairs.failed.push(e.to_string()),
        }
        self.host6.restore(forwards).await;
        if let Err(e) = self.fill_names_ahead().await {
            repairs.failed.push(e.to_string());
        }
        let names = sandboxes.values().filter_map(|j| plan::names(&self.state(), j)).collect();
        match self.names.restore(names).await {
            Ok(true) => {
                repairs.restored.push(Repair::of(RepairKind::Names, "names of containers"));
            }
            Ok(false) => {}
            Err(e) => repairs.failed.push(e.to_string()),
        }
        self.restore_straight(Some(&sandboxes), &mut repairs).await;
        self.restore_direct(Some(&sandboxes), &mut repairs).await;
        self.remove_orphans(&sandboxes, observed, &mut repairs).await;
        self.state().sandboxes = sandboxes;
        if let Err(e) = self.refresh_links(true).await {
            repairs.failed.push(e.to_string());
        }
        if let Err(e) = self.apply_policies(true).await {
            repairs.failed.push(e.to_string());
        }
        Ok(repairs)
    }

    /// What each driver finds, in the order of [`super::Drivers::all`].
    pub(super) async fn observe(&self, repairs: &mut Repairs) -> Vec<Observed> {
        let mut all = Vec::new();
        for driver in self.drivers.all() {
            let observed = driver.observe().await.unwrap_or_else(|e| {
                repairs.failed.push(e.to_string());
                Observed::default()
            });
            all.push(observed);
        }
        all
    }

    async fn restore_networks(&self, repairs: &mut Repairs) {
        self.restore_forwarding(repairs);
        let networks: Vec<Arc<NetworkSpec>> = self.state().networks.values().cloned().collect();
        for network in networks {
            self.restore_network(&network, repairs).await;
        }
    }

    /// Completes a sandbox. None when its namespace is gone.
    pub(super) async fn restore_sandbox(
        &self,
        spec: SandboxSpec,
        observed: &[Observed],
        repairs: &mut Repairs,
    ) -> Option<Joined> {
        let path = self.namespaces.path(&spec.sandbox);
        let networks: Vec<(EndpointSpec, Arc<NetworkSpec>)> = {
            let state = self.state();
            let find = |endpoint: &EndpointSpec| match plan::check_endpoint(&state, endpoint) {
                Ok(network) => Some((endpoint.clone(), network)),
                Err(e) => {
                    repairs.failed.push(format!("sandbox {}: {e}", spec.sandbox.short()));
                    None
                }
            };
            spec.endpoints.iter().filter_map(find).collect()
        };
        let on_host = {
            let list: Vec<_> = networks.iter().map(|(_, n)| Arc::clone(n)).collect();
            plan::on_host(&list)
        };
        if on_host {
            let attachments = spec.endpoints.iter().map(Attachment::blank).collect();
            let sandbox = Sandbox { netns: None, attachments };
            return Some(Joined { spec, sandbox, forwards: Forwards::default() });
        }
        let namespace = match Namespace::open(&path) {
            Ok(namespace) => Arc::new(namespace),
            Err(e) => {
                tracing::warn!(sandbox = %spec.sandbox, error = %e, "a sandbox lost its namespace");
                return None;
            }
        };
        let attached =
            self.restore_endpoints(&spec.sandbox, networks, &namespace, observed, repairs).await;
        self.sweep_limits(&spec, &namespace, repairs).await;
        self.restore_own_nets_inside(&spec, &namespace, &attached, repairs).await;
        match self.route_sandbox(&namespace, &spec, &attached, None).await {
            Ok(true) => {
                let what = format!("routes of sandbox {}", spec.sandbox.short());
                let network = attached.first().map(|(network, _)| &network.id);
                repairs.restored.push(Repair::endpoint(&spec.sandbox, network, what));
            }
            Ok(false) => {}
            Err(e) => repairs.failed.push(e.to_string()),
        }
        let forwards = plan::forwards(&spec, &attached);
        let attachments = attached.into_iter().map(|(_, attachment)| attachment).collect();
        let sandbox = Sandbox { netns: Some(path), attachments };
        Some(Joined { spec, sandbox, forwards })
    }

    async fn restore_endpoints(
        &self,
        sandbox: &SandboxId,
        networks: Vec<(EndpointSpec, Arc<NetworkSpec>)>,
        namespace: &Arc<Namespace>,
        observed: &[Observed],
        repairs: &mut Repairs,
    ) -> Vec<(Arc<NetworkSpec>, Attachment)> {
        let mut attached = Vec::with_capacity(networks.len());
        for (endpoint, network) in networks {
            let (id, interface) = (endpoint.endpoint.clone(), endpoint.interface.clone());
            let found = observed
                .iter()
                .flat_map(|o| &o.endpoints)
                .find(|o| o.sandbox == *sandbox && o.endpoint == id)
                .cloned();
            let request = AttachRequest {
                sandbox: sandbox.clone(),
                endpoint: endpoint.clone(),
                network: Arc::clone(&network),
                namespace: Arc::clone(namespace),
                interface,
            };
            match self.driver(&network).restore(request, found).await {
                Ok((mut attachment, missing)) => {
                    let limited = self.complete_restored(
                        namespace,
                        &network,
                        &endpoint,
                        &mut attachment,
                        missing,
                    );
                    let limited = limited.await.unwrap_or_else(|e| {
                        repairs.failed.push(e.to_string());
                        false
                    });
                    if limited || missing {
                        let (short, name) = (sandbox.short(), &network.name);
                        let what = format!("endpoint of sandbox {short} on network {name}");
                        repairs.restored.push(Repair::endpoint(sandbox, Some(&network.id), what));
                    }
                    attached.push((network, attachment));
                }
                Err(e) => repairs.failed.push(e.to_string()),
            }
        }
        attached
    }

    /// Removes what bears this instance's mark and is wanted no more.
    async fn remove_orphans(
        &self,
        sandboxes: &HashMap<SandboxId, Joined>,
        observed: Vec<Observed>,
        repairs: &mut Repairs,
    ) {
        let known: HashSet<_> = self.state().networks.keys().cloned().collect();
        for (driver, observed) in self.drivers.all().into_iter().zip(observed) {
            for orphan in &observed.endpoints {
                let wanted = sandboxes.get(&orphan.sandbox).is_some_and(|j| {
                    j.spec.endpoints.iter().any(|e| e.endpoint == orphan.endpoint)
                });
                if wanted {
                    continue;
                }
                match driver.discard_endpoint(orphan).await {
                    Ok(()) => repairs.removed.push(format!("link {}", orphan.host_interface)),
                    Err(e) => repairs.failed.push(e.to_string()),
                }
            }
            for network in observed.networks.iter().filter(|n| !known.contains(n)) {
                match driver.discard_network(network).await {
                    Ok(()) => {
                        repairs.removed.push(format!("links of network {}", network.short()));
                    }
                    Err(e) => repairs.failed.push(e.to_string()),
                }
            }
        }
        match self.namespaces.names() {
            Ok(names) => {
                for (path, sandbox) in names {
                    if sandbox.is_none_or(|s| !sandboxes.contains_key(&s)) {
                        repairs.removed.push(format!("namespace {}", path.display()));
                        self.reaper.namespace(path);
                    }
                }
            }
            Err(e) => repairs.failed.push(e.to_string()),
        }
    }
}
