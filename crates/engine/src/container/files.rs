//! What a container's file system needs before its start: the mounted root,
//! sources of binds, the name files, the working directory, the user.
//!
//! Be aware: the container's own files are hostile. Every path in its root is
//! resolved by the kernel within that root.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sampan_net::names::{HostsInput, hostname_file, hosts_file};
use sampan_runtime::spec::{self, BindMount, Devices, Propagation, ReadOnly};
use sampan_runtime::user::{self, ResolvedUser};
use sampan_sys::file::write_replace;
use sampan_sys::{inroot, mount};

use super::Container;
use super::namespaces::{shares_shm, shm_path};
use super::owners::mount_owned;
use super::resolv::{self, ResolvSettings};
use super::validate::extra_host;
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::record::{ContainerRecord, MountKind, MountRecord, NetworkMode};

/// What [`Engine::prepare_files`] found and made.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) rootfs: PathBuf,
    pub(super) user: ResolvedUser,
    pub(super) mounts: Vec<BindMount>,
    pub(super) devices: Devices,
}

impl Engine {
    /// Mounts the root and the volumes and makes everything that the
    /// specification refers to. Repeatable.
    pub(super) async fn prepare_files(
        &self,
        c: &Container,
        record: &ContainerRecord,
    ) -> Result<Prepared> {
        let rootfs = self.image_store().mount(&record.id).await?;
        crate::fault!("start:after-mount");
        let mut sources = Vec::with_capacity(record.mounts.len());
        for m in &record.mounts {
            sources.push(match (&m.volume, &m.image) {
                (Some(name), _) => {
                    let mount = self.volume_store().mount(name.as_str(), record.id.as_str());
                    self.unless_called_off(c, "start", mount).await?
                }
                (_, Some(image)) => self.image_store().mount_view(&record.id, &image.id).await?,
                _ => m.source.clone(),
            });
        }
        let names = self.name_files(record)?;
        let owner = self.namespace_owner(record).map(|o| o.id().clone());
        let (record, config) = (record.clone(), self.inner.config.clone());
        self.blocking(move || {
            let data_dir = record.data_dir(&config.data_root);
            let mut mounts = Vec::new();
            for (number, (m, source)) in record.mounts.iter().zip(sources).enumerate() {
                if m.kind == MountKind::Tmpfs {
                    continue;
                }
                let mut mount = bind_mount(m, source)?;
                if let Some(owner) = m.owner {
                    mount.source = mount_owned(&data_dir, number, m, owner, &mount.source)?;
                }
                mounts.push(mount);
            }
            if let Some(names) = names {
                mounts.extend(write_names(&record, &data_dir, &names)?);
            } else if let Some(other) = owner {
                let other = config.data_root.join("containers").join(other.as_str());
                mounts.extend(name_mounts(&record, &other));
            }
            if shares_shm(&record.host_config) {
                mount_shm(&record, &shm_path(&data_dir), config.shm_size)?;
            }
            if let Some(dir) = record.config.working_dir.as_deref().filter(|d| !d.is_empty()) {
                make_dir_in(&rootfs, Path::new(dir))
                    .map_err(|e| EngineError::io("create the working directory", dir, e))?;
            }
            let groups = record.host_config.group_add.clone().unwrap_or_default();
            let who = record.config.user.as_deref().unwrap_or_default();
            let user = user::resolve(&rootfs, who, &groups)?;
            let devices = Devices::collect(&record.host_config)?;
            crate::fault!("start:after-files");
            Ok(Prepared { rootfs, user, mounts, devices })
        })
        .await
    }

    /// The contents of hosts, hostname and resolv.conf; `None` when another
    /// container's are used.
    fn name_files(&self, record: &ContainerRecord) -> Result<Option<NameFiles>> {
        if matches!(record.networking.mode, NetworkMode::Container(_)) {
            return Ok(None);
        }
        let host = &record.host_config;
        let is_host = record.networking.mode == NetworkMode::Host;
        let mut extra = self.link_hosts(record)?;
        for entry in host.extra_hosts.iter().flatten() {
            let (name, address) = extra_host(entry)?;
            extra.push((
                name.to_owned(),
                match address {
                    Some(address) => address,
                    None => self.host_gateway(record)?,
                },
            ));
        }
        let addresses: Vec<IpAddr> = record
            .networking
            .endpoints
            .values()
            .filter_map(|e| e.live.as_ref())
            .flat_map(|l| [l.address, l.address6])
            .flatten()
            .map(|net| net.addr())
            .collect();
        let resolv = self.resolv_settings(record);
        Ok(Some(NameFiles { is_host, addresses, extra, resolv }))
    }

    /// What `host-gateway` means: the gateway of the container's network,
    /// else of the default bridge.
    fn host_gateway(&self, record: &ContainerRecord) -> Result<IpAddr> {
        let own = record.networking.endpoints.values().find_map(|e| e.live.as_ref()?.gateway);
        let bridge = || {
            let network = self.network_table().resolve("bridge").ok()?;
            network.ipam.first().map(|i| i.gateway)
        };
        own.or_else(bridge).ok_or_else(|| {
            EngineError::Invalid(
                "unable to derive the IP value for host-gateway: there is no bridge".to_owned(),
            )
        })
    }
}

struct NameFiles {
    is_host: bool,
    addresses: Vec<IpAddr>,
    extra: Vec<(String, IpAddr)>,
    resolv: ResolvSettings,
}

fn bind_mount(m: &MountRecord, mut source: PathBuf) -> Result<BindMount> {
    if m.kind == MountKind::Bind {
        match std::fs::symlink_metadata(&source) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound && m.create_source => {
                std::fs::create_dir_all(&source).map_err(|e| {
                    EngineError::io(
                        "error while creating mount source path",
                        format!("'{}'", source.display()),
                        e,
                    )
                })?;
            }
            Err(_) => {
                return Err(EngineError::Invalid(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    source.display()
                )));
            }
        }
    }
    if let Some(subpath) = &m.subpath {
        source = within(&source, subpath)?;
    }
    let read_only = match (m.rw, m.read_only_non_recursive) {
        (true, _) => ReadOnly::No,
        (false, true) => ReadOnly::Top,
        (false, false) => ReadOnly::Recursive,
    };
    Ok(BindMount {
        source,
        target: m.destination.clone(),
        read_only,
        recursive: !m.non_recursive,
        propagation: propagation(&m.propagation),
    })
}

/// A path below the root of a volume or image, resolved within it.
fn within(root: &Path, subpath: &Path) -> Result<PathBuf> {
    let failed = |e: io::Error| {
        EngineError::Invalid(format!("cannot access path {}: {e}", root.join(subpath).display()))
    };
    let dir = inroot::open_root(root).map_err(failed)?;
    let found =
        inroot::open_in_root(&dir, subpath, OFlag::O_PATH, Mode::empty()).map_err(failed)?;
    std::fs::read_link(inroot::fd_path(&found)).map_err(failed)
}

fn propagation(word: &str) -> Propagation {
    match word {
        "private" => Propagation::Private,
        "slave" => Propagation::Slave,
        "rslave" => Propagation::RSlave,
        "shared" => Propagation::Shared,
        "rshared" => Propagation::RShared,
        _ => Propagation::RPrivate,
    }
}

fn write_names(
    record: &ContainerRecord,
    data_dir: &Path,
    names: &NameFiles,
) -> Result<Vec<BindMount>> {
    let hostname = record.config.hostname.as_deref().unwrap_or_default();
    let domainname = record.config.domainname.as_deref().unwrap_or_default();
    let mut hosts = if names.is_host {
        std::fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        hosts_file(&HostsInput {
            hostname,
            domainname,
            addresses: &names.addresses,
            extra: &names.extra,
        })
    };
    if names.is_host {
        if !hosts.is_empty() && !hosts.ends_with('\n') {
            hosts.push('\n');
        }
        for (name, address) in &names.extra {
            hosts.push_str(&format!("{address}\t{name}\n"));
        }
    }
    let hostname = hostname_file(hostname);
    for (name, text) in [("hosts", &hosts), ("hostname", &hostname)] {
        let path = data_dir.join(name);
        write_replace(&path, text.as_bytes(), 0o644)
            .map_err(|e| EngineError::io("write", path.display(), e))?;
    }
    names.resolv.write(data_dir)?;
    Ok(name_mounts(record, data_dir))
}

/// Binds of the name files in `dir`, but where the user mounts something.
fn name_mounts(record: &ContainerRecord, dir: &Path) -> Vec<BindMount> {
    let read_only = record.host_config.readonly_rootfs.unwrap_or(false);
    [resolv::FILE, "hostname", "hosts"]
        .into_iter()
        .map(|name| (dir.join(name), Path::new("/etc").join(name)))
        .filter(|(_, target)| !record.mounts.iter().any(|m| m.destination == *target))
        .map(|(source, target)| BindMount {
            source,
            target,
            read_only: if read_only { ReadOnly::Top } else { ReadOnly::No },
            recursive: true,
            propagation: Propagation::RPrivate,
        })
        .collect()
}

fn mount_shm(record: &ContainerRecord, path: &Path, default_size: u64) -> Result<()> {
    let failed = |e| EngineError::io("mount /dev/shm at", path.display(), e);
    std::fs::create_dir_all(path).map_err(failed)?;
    if mount::is_mounted(path).map_err(failed)? {
        return Ok(());
    }
    let size = record.host_config.shm_size.filter(|s| *s > 0);
    let size = size.map_or(default_size, i64::unsigned_abs);
    mount::mount_fs("tmpfs", "shm", path, &format!("mode=1777,size={size}")).map_err(failed)
}

/// Makes a directory with its parents below `root`, following links within
/// it only.
fn make_dir_in(root: &Path, path: &Path) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let mut at: OwnedFd = inroot::open_root(root)?;
    let mut done = PathBuf::from("/");
    for part in spec::normal(path).components().skip(1) {
        done.push(part);
        let top = inroot::open_root(root)?;
        at = match inroot::open_in_root(&top, &done, flags, Mode::empty()) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                match std::fs::create_dir(inroot::fd_path(at.as_fd()).join(part)) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                    _ => {}
                }
                inroot::open_in_root(&top, &done, flags, Mode::empty())?
            }
            Err(e) => return Err(e),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("real")).unwrap();
        std::os::unix::fs::symlink("/real", root.join("link")).unwrap();
        std::os::unix::fs::symlink("../../..", root.join("up")).unwrap();
        make_dir_in(&root, Path::new("/link/a/b")).unwrap();
        assert!(root.join("real/a/b").is_dir());
        make_dir_in(&root, Path::new("/up/c/../d")).unwrap();
        assert!(root.join("d").is_dir() && !dir.path().join("d").exists());
        std::fs::write(root.join("file"), b"").unwrap();
        assert!(make_dir_in(&root, Path::new("/file/x")).is_err());
        make_dir_in(&root, Path::new("/")).unwrap();
    }
}
