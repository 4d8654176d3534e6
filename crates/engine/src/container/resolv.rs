//! A container's `/etc/resolv.conf`: at its start, and when its networks
//! change while it runs.
//!
//! Be aware: the file is the container's, which may write to it. A copy of
//! what was written last is kept beside it; a file that is another one is
//! left as it is.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;

use sampan_net::names::{ResolvInput, resolv_conf};
use sampan_sys::file::write_replace;

use crate::record::{ContainerRecord, NetworkMode};
use crate::{Engine, EngineError, Result};

/// The host's resolver configuration.
const HOST_RESOLV: &str = "/etc/resolv.conf";
/// The file's name, and that of the copy.
pub(super) const FILE: &str = "resolv.conf";
const COPY: &str = "resolv.conf.made";

/// What a container's file is made from, besides the host's.
#[derive(Debug, Clone)]
pub(super) struct ResolvSettings {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    options: Vec<String>,
    is_host: bool,
    /// Whether names are answered inside.
    embedded: bool,
    ipv6: bool,
}

impl Engine {
    /// How a container's names are looked up.
    pub(super) fn resolv_settings(&self, record: &ContainerRecord) -> ResolvSettings {
        let (config, host) = (self.config(), &record.host_config);
        let or = |own: &Option<Vec<String>>, default: &[String]| {
            own.clone().filter(|l| !l.is_empty()).unwrap_or_else(|| default.to_vec())
        };
        let dns = self.dns_spec(record);
        let mut live = record.networking.endpoints.values().filter_map(|e| e.live.as_ref());
        ResolvSettings {
            servers: dns.servers,
            search: or(&host.dns_search, &config.dns_search),
            options: or(&host.dns_options, &config.dns_options),
            is_host: record.networking.mode == NetworkMode::Host,
            embedded: dns.serves,
            ipv6: live.any(|l| l.address6.is_some()),
        }
    }

    /// Makes the file of a running container follow its networks, unless the
    /// container changed it.
    pub(crate) async fn refresh_resolv(&self, record: &ContainerRecord) {
        let settings = self.resolv_settings(record);
        let dir = record.data_dir(&self.config().data_root);
        let changed = self
            .blocking(move || {
                rewrite(&dir, &settings.text())
                    .map_err(|e| EngineError::io("change", dir.join(FILE).display(), e))
            })
            .await;
        if let Err(error) = changed {
            tracing::warn!(container = record.id.short(), %error, "how names are looked up is as before");
        }
    }
}

impl ResolvSettings {
    /// Writes the file for a container that starts.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let text = self.text();
        for name in [COPY, FILE] {
            let path = dir.join(name);
            write_replace(&path, text.as_bytes(), 0o644)
                .map_err(|e| EngineError::io("write", path.display(), e))?;
        }
        Ok(())
    }

    fn text(&self) -> String {
        let host = std::fs::read_to_string(HOST_RESOLV).unwrap_or_default();
        let asked = !(self.servers.is_empty() && self.search.is_empty() && self.options.is_empty());
        if self.is_host && !asked {
            return host;
        }
        resolv_conf(&ResolvInput {
            source: HOST_RESOLV,
            host: &host,
            servers: &self.servers,
            search: &self.search,
            options: &self.options,
            own_namespace: !self.is_host,
            ipv6: self.ipv6,
            embedded: self.embedded,
        })
        .text
    }
}

/// Changes the file in place: it is mounted into the container by its inode.
fn rewrite(dir: &Path, text: &str) -> io::Result<()> {
    let path = dir.join(FILE);
    let now = std::fs::read(&path)?;
    let made = match std::fs::read(dir.join(COPY)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        made => made?,
    };
    if now != made || now == text.as_bytes() {
        return Ok(());
    }
    // The copy first: after a crash in between the file is taken for the
    // container's own, which loses nothing.
    write_replace(&dir.join(COPY), text.as_bytes(), 0o644)?;
    OpenOptions::new().write(true).truncate(true).open(&path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_somebody_changed_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (file, copy) = (dir.path().join(FILE), dir.path().join(COPY));
        std::fs::write(&file, "one").unwrap();
        rewrite(dir.path(), "two").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "one", "nobody knows what it was");
        std::fs::write(&copy, "one").unwrap();
        let watched = std::fs::File::open(&file).unwrap();
        rewrite(dir.path(), "two").unwrap();
        assert_eq!(io::read_to_string(watched).unwrap(), "two");
        std::fs::write(&file, "mine").unwrap();
        rewrite(dir.path(), "three").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    }
}
