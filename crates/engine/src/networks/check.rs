//! `network check`: what is wrong with networks, in words.

use sampan_net::{Severity, Subject};
use serde::Serialize;

use crate::container::state::Status;
use crate::{Engine, Result};

/// Something that is not as it shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkFinding {
    /// `error`: packets don't get where they shall; `warning`: they do, but
    /// not as somebody may expect.
    pub severity: &'static str,
    /// The network's name; empty for what concerns all.
    pub network: String,
    /// The container's id; empty for what concerns none alone.
    pub container: String,
    /// The container's name.
    pub name: String,
    /// What is wrong.
    pub message: String,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkCheck {
    /// Whether nothing is wrong; warnings don't count.
    pub ok: bool,
    /// The networks that were looked at, by name.
    pub networks: Vec<String>,
    /// What is wrong, the worst first.
    pub findings: Vec<NetworkFinding>,
}

impl Engine {
    /// Looks what is wrong with a network, or with all of them.
    ///
    /// # Errors
    /// There is no such network, or the kernel can't be asked.
    pub async fn network_check(&self, network: Option<&str>) -> Result<NetworkCheck> {
        let named = self.named_network(network)?;
        let found = self.networks().check(named.as_ref().map(|n| &n.id)).await?;
        let owners = self.sandbox_owners();
        let mut findings: Vec<NetworkFinding> = found
            .into_iter()
            .map(|finding| {
                let (network, (container, name)) = match &finding.subject {
                    Subject::Host | Subject::Firewall => <_>::default(),
                    Subject::Network(id) => (self.network_name(id), <_>::default()),
                    Subject::Endpoint(sandbox, id) => (self.network_name(id), owners.of(sandbox)),
                };
                let severity = word(finding.severity);
                NetworkFinding { severity, network, container, name, message: finding.text }
            })
            .collect();
        findings.extend(self.without_sandbox(named.as_ref().map(|n| n.name.as_str())));
        findings.sort_by_key(|f| f.severity);
        let networks = match &named {
            Some(network) => vec![network.name.to_string()],
            None => self.network_table().all().iter().map(|n| n.name.to_string()).collect(),
        };
        let ok = findings.iter().all(|f| f.severity != word(Severity::Error));
        Ok(NetworkCheck { ok, networks, findings })
    }

    /// Containers that run and that nothing was set up for.
    fn without_sandbox(&self, network: Option<&str>) -> Vec<NetworkFinding> {
        let mut findings = Vec::new();
        for c in self.containers() {
            let record = c.record();
            let Some(sandbox) = &record.networking.sandbox else { continue };
            if record.state.status != Status::Running || self.networks().sandbox(sandbox).is_some()
            {
                continue;
            }
            let mut on = record.networking.endpoints.keys();
            let Some(on) = on.find(|name| network.is_none_or(|n| n == *name)) else { continue };
            findings.push(NetworkFinding {
                severity: word(Severity::Error),
                network: on.clone(),
                container: c.id().to_string(),
                name: record.name.to_string(),
                message: "it runs without a network: restart it".to_owned(),
            });
        }
        findings
    }
}

/// The word for it; `error` comes before `warning` in the alphabet as well.
fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}
