//! The options `type`, `o` and `device`: a mount, in mount(8)'s words.
//!
//! Be aware: like Docker, only the combination is checked when the volume is
//! made; whether the device exists shows at its first use.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags};
use sampan_types::VolumeName;

use crate::VolumeError;

/// What to mount as a volume's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountOptions {
    name: VolumeName,
    fs_type: String,
    device: String,
    options: String,
}

/// All options of the driver.
const KNOWN: [&str; 10] = [
    "type",
    "o",
    "device",
    "size",
    "uid",
    "gid",
    "mode",
    "encrypted",
    "key-file",
    "passphrase-command",
];

/// Checks a volume's options. `None` when they ask for no mount.
pub(super) fn check(
    name: &VolumeName,
    options: &BTreeMap<String, String>,
) -> Result<Option<MountOptions>, VolumeError> {
    let volume = || name.to_string();
    if let Some(option) = options.keys().find(|o| !KNOWN.contains(&o.as_str())) {
        return Err(VolumeError::InvalidOption { name: volume(), option: option.clone() });
    }
    let needs: [(&str, &[&str]); 3] =
        [("device", &["type"]), ("o", &["device", "type"]), ("type", &["device"])];
    for (option, needed) in needs {
        let missing = needed.iter().find(|n| !options.contains_key(**n));
        if let (true, Some(missing)) = (options.contains_key(option), missing) {
            let option = (*missing).to_owned();
            return Err(VolumeError::MissingOption { name: volume(), option });
        }
    }
    let text = |key: &str| options.get(key).cloned().unwrap_or_default();
    Ok(options.contains_key("type").then(|| MountOptions {
        name: name.clone(),
        fs_type: text("type"),
        device: text("device"),
        options: text("o"),
    }))
}

impl MountOptions {
    /// Whether it is a file system in memory.
    pub(super) fn is_tmpfs(&self) -> bool {
        self.fs_type == "tmpfs"
    }

    /// With more options, which win over those that are there.
    pub(super) fn with(mut self, more: &str) -> Self {
        if !more.is_empty() {
            self.options = [self.options.as_str(), more].join(",");
        }
        self
    }

    /// Mounts it at `target`.
    pub(super) fn mount(&self, target: &Path) -> Result<(), VolumeError> {
        let options = match self.fs_type.as_str() {
            "nfs" | "nfs4" | "cifs" => self.with_address()?,
            _ => self.options.clone(),
        };
        let parsed = Parsed::new(&options);
        parsed.apply(&self.device, target, &self.fs_type).map_err(|source| VolumeError::Mount {
            device: self.device.clone(),
            target: target.to_owned(),
            flags: parsed.flags.bits() | parsed.propagation.bits(),
            data: shown_data(&parsed.data),
            source,
        })
    }

    /// The kernel wants a number where users write a server's name.
    fn with_address(&self) -> Result<String, VolumeError> {
        let Some(address) = self.options.split(',').find_map(|o| o.strip_prefix("addr=")) else {
            return Ok(self.options.clone());
        };
        if address.parse::<IpAddr>().is_ok() {
            return Ok(self.options.clone());
        }
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let found = look_up(&hosts, address).ok_or_else(|| VolumeError::Address {
            name: self.name.to_string(),
            address: address.to_owned(),
            source: io::Error::other("it is not in /etc/hosts: put it there, or give the address"),
        })?;
        Ok(self.options.replacen(&format!("addr={address}"), &format!("addr={found}"), 1))
    }
}

fn look_up(hosts: &str, name: &str) -> Option<IpAddr> {
    hosts.lines().find_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|w| w.eq_ignore_ascii_case(name)).then_some(address)
    })
}

/// The data of a mount as errors show it: without passwords.
fn shown_data(data: &str) -> String {
    if data.is_empty() {
        return String::new();
    }
    // What cifs takes for one.
    const SECRETS: [&str; 3] = ["password", "password2", "pass"];
    let shown = |option: &str| match option.split_once('=') {
        Some((key, _)) if SECRETS.contains(&key) => format!("{key}=********"),
        _ => option.to_owned(),
    };
    format!(", data: {}", data.split(',').map(shown).collect::<Vec<_>>().join(","))
}

/// Options as the kernel takes them: flags, and data for the file system.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    flags: MountFlags,
    propagation: MountPropagationFlags,
    data: String,
}

impl Parsed {
    fn new(options: &str) -> Self {
        let mut flags = MountFlags::empty();
        let mut propagation = MountPropagationFlags::empty();
        let mut data = Vec::new();
        for option in options.split(',').filter(|o| !o.is_empty()) {
            if let Some((set, flag)) = flag(option) {
                flags.set(flag, set);
            } else if let Some(flag) = propagation_flag(option) {
                propagation |= flag;
            } else {
                data.push(option);
            }
        }
        Self { flags, propagation, data: data.join(",") }
    }

    fn apply(&self, device: &str, target: &Path, fs_type: &str) -> io::Result<()> {
        let data = CString::new(self.data.as_str())?;
        rustix::mount::mount(device, target, fs_type, self.flags, Some(data.as_c_str()))?;
        if !self.propagation.is_empty() {
            rustix::mount::mount_change(target, self.propagation)?;
        }
        // A bind mount takes read-only only when it is mounted again.
        if self.flags.contains(MountFlags::BIND | MountFlags::RDONLY) {
            rustix::mount::mount_remount(target, self.flags, c"")?;
        }
        Ok(())
    }
}

/// The words that set (true) or clear (false) a flag.
fn flag(option: &str) -> Option<(bool, MountFlags)> {
    Some(match option {
        "defaults" => (true, MountFlags::empty()),
        "ro" => (true, MountFlags::RDONLY),
        "rw" => (false, MountFlags::RDONLY),
        "nosuid" => (true, MountFlags::NOSUID),
        "suid" => (false, MountFlags::NOSUID),
        "nodev" => (true, MountFlags::NODEV),
        "dev" => (false, MountFlags::NODEV),
        "noexec" => (true, MountFlags::NOEXEC),
        "exec" => (false, MountFlags::NOEXEC),
        "sync" => (true, MountFlags::SYNCHRONOUS),
        "async" => (false, MountFlags::SYNCHRONOUS),
        "dirsync" => (true, MountFlags::DIRSYNC),
        "noatime" => (true, MountFlags::NOATIME),
        "atime" => (false, MountFlags::NOATIME),
        "nodiratime" => (true, MountFlags::NODIRATIME),
        "diratime" => (false, MountFlags::NODIRATIME),
        "relatime" => (true, MountFlags::RELATIME),
        "norelatime" => (false, MountFlags::RELATIME),
        "strictatime" => (true, MountFlags::STRICTATIME),
        "nostrictatime" => (false, MountFlags::STRICTATIME),
        "bind" => (true, MountFlags::BIND),
        "rbind" => (true, MountFlags::BIND | MountFlags::REC),
        _ => return None,
    })
}

fn propagation_flag(option: &str) -> Option<MountPropagationFlags> {
    let recursive = MountPropagationFlags::REC;
    Some(match option {
        "private" => MountPropagationFlags::PRIVATE,
        "rprivate" => MountPropagationFlags::PRIVATE | recursive,
        "shared" => MountPropagationFlags::SHARED,
        "rshared" => MountPropagationFlags::SHARED | recursive,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "rslave" => MountPropagationFlags::DOWNSTREAM | recursive,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        "runbindable" => MountPropagationFlags::UNBINDABLE | recursive,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn refused(pairs: &[(&str, &str)]) -> String {
        let name: VolumeName = "vol".parse().unwrap();
        check(&name, &options(pairs)).unwrap_err().to_string()
    }

    #[test]
    fn wrong_options_are_refused_with_dockers_words() {
        assert!(refused(&[("colour", "red")]).ends_with("invalid option: \"colour\""));
        assert!(refused(&[("o", "bind")]).ends_with("missing required option: \"device\""));
        assert!(refused(&[("device", "/x")]).ends_with("missing required option: \"type\""));
        assert!(refused(&[("type", "none")]).ends_with("missing required option: \"device\""));
        assert_eq!(check(&"vol".parse().unwrap(), &BTreeMap::new()).unwrap(), None);
    }

    #[test]
    fn words_become_flags_and_data() {
        let parsed = Parsed::new("rbind,ro,noexec,exec,rshared,uid=5,password=x");
        let flags = MountFlags::BIND | MountFlags::REC | MountFlags::RDONLY;
        assert_eq!(parsed.flags, flags);
        assert_eq!(parsed.propagation, MountPropagationFlags::SHARED | MountPropagationFlags::REC);
        assert_eq!(parsed.data, "uid=5,password=x");
        assert_eq!(shown_data(&parsed.data), ", data: uid=5,password=********");
        assert_eq!(shown_data("pass=x,password2=y"), ", data: pass=********,password2=********");
    }

    #[test]
    fn servers_are_found_in_hosts() {
        let hosts = "127.0.0.1 localhost\n10.0.0.9 files.lan Files # comment name\n";
        assert_eq!(look_up(hosts, "files"), Some("10.0.0.9".parse().unwrap()));
        assert_eq!(look_up(hosts, "name"), None);
    }
}
