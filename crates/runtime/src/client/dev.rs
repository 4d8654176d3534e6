//! A container whose `/dev` is a directory of the host (`-v /dev:/dev`).
//!
//! libcontainer makes its devices and links in whatever is at `/dev`: with the
//! host's directory there, these would be the host's. So it gets a directory in
//! memory to make them in, and the last thing that happens before the program
//! runs is that the host's is mounted over it.
//!
//! Be aware: the terminal is made before that. It has to be one of those that
//! are seen afterwards, so the host's `pts` is bound below the directory too.

use std::path::Path;

use oci_spec::runtime::{Mount, Spec};

use crate::error::RuntimeError;
use crate::protocol::{Below, Dev};
use crate::spec::mounts::mount;

const DEV: &str = "/dev";
const PTS: &str = "/dev/pts";

/// Takes a bind at `/dev` out of libcontainer's hands.
///
/// # Errors
/// Something else is mounted below: it would be hidden.
pub(super) fn take(spec: &mut Spec) -> Result<Option<Dev>, RuntimeError> {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let is_dev =
        |m: &Mount| m.destination() == Path::new(DEV) && m.typ().as_deref() == Some("bind");
    let Some(place) = mounts.iter().position(is_dev) else { return Ok(None) };
    let below = |m: &&Mount| m.destination() != Path::new(DEV) && m.destination().starts_with(DEV);
    if let Some(hidden) = mounts.iter().find(below) {
        return Err(RuntimeError::Unsupported(format!(
            "{} can't be mounted below a bind at {DEV}: leave one of the two out, or use another \
             runtime (--runtime runc)",
            hidden.destination().display()
        )));
    }
    let source = mounts[place].source().clone().unwrap_or_default();
    let has = |option: &str| mounts[place].options().iter().flatten().any(|o| o == option);
    let read_only = match (has("ro"), has("rro")) {
        (_, true) => Some(Below::Yes),
        (true, false) => Some(Below::No),
        (false, false) => None,
    };
    let dev = Dev { recursive: has("rbind"), read_only, source };
    let terminals = match dev.source.join("pts/ptmx").exists() {
        true => {
            mount(PTS, "bind", &dev.source.join("pts").to_string_lossy(), &["rbind", "rprivate"])
        }
        false => mount(PTS, "devpts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620"]),
    };
    mounts[place] = mount(DEV, "tmpfs", "tmpfs", &["nosuid", "mode=755", "size=65536k"]);
    mounts.insert(place + 1, terminals);
    spec.set_mounts(Some(mounts));
    Ok(Some(dev))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(mounts: Vec<Mount>) -> Spec {
        let mut spec = Spec::default();
        spec.set_mounts(Some(mounts));
        spec
    }

    #[test]
    fn a_bind_at_dev_is_mounted_later() {
        let mut with = spec(vec![
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "bind", "/nowhere", &["rbind", "rprivate", "ro"]),
        ]);
        let dev = take(&mut with).unwrap();
        let wanted = Dev { source: "/nowhere".into(), recursive: true, read_only: Some(Below::No) };
        assert_eq!(dev, Some(wanted));
        let kinds: Vec<_> =
            with.mounts().iter().flatten().map(|m| m.typ().clone().unwrap()).collect();
        assert_eq!(kinds, ["proc", "tmpfs", "devpts"]);
        assert_eq!(take(&mut with).unwrap(), None);
        let mut more = spec(vec![
            mount("/dev", "bind", "/dev", &["bind"]),
            mount("/dev/x", "bind", "/x", &["bind"]),
        ]);
        assert!(take(&mut more).unwrap_err().to_string().contains("/dev/x"));
    }
}
