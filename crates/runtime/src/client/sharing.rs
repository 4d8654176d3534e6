//! Which binds of a container share mounts with the host's, and whether they
//! can.

use oci_spec::runtime::{Mount, Spec};
use sampan_sys::sharing;

use super::types::OciRuntime;
use crate::error::RuntimeError;
use crate::protocol::Shared;

/// Takes the binds that are to share out of libcontainer's hands: it gets a
/// tree of private mounts. Other runtimes see to it themselves. Blocks.
///
/// # Errors
/// A source has nobody to share with; the texts are Docker's. The kernel can't.
pub(super) fn take(spec: &mut Spec, runtime: &OciRuntime) -> Result<Vec<Shared>, RuntimeError> {
    let shared: Vec<Shared> = spec.mounts().iter().flatten().filter_map(wish).collect();
    for bind in &shared {
        check(bind)?;
    }
    if shared.is_empty() || *runtime != OciRuntime::Builtin {
        return Ok(Vec::new());
    }
    if !sharing::can_join() {
        // What comes from the host only may come to all of them.
        return match shared.iter().find(|s| !s.slave) {
            None => Ok(Vec::new()),
            Some(bind) => Err(RuntimeError::Unsupported(format!(
                "propagation shared of {} takes Linux 5.15, or another runtime (--runtime runc)",
                bind.target.display()
            ))),
        };
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_rootfs_propagation(Some("private".to_owned()));
    }
    Ok(shared)
}

fn wish(mount: &Mount) -> Option<Shared> {
    let options = mount.options().as_deref().unwrap_or_default();
    let has = |words: &[&str]| options.iter().any(|o| words.contains(&o.as_str()));
    let slave = has(&["slave", "rslave"]);
    if !slave && !has(&["shared", "rshared"]) {
        return None;
    }
    let (source, target) = (mount.source().clone()?, mount.destination().clone());
    Some(Shared { source, target, recursive: has(&["rbind"]), slave })
}

fn check(bind: &Shared) -> Result<(), RuntimeError> {
    let around = sharing::around(&bind.source)
        .map_err(|e| RuntimeError::io("looking for the mount of", bind.source.display(), e))?;
    let (fits, kinds) = match bind.slave {
        true => (around.shared || around.slave, "shared or slave"),
        false => (around.shared, "shared"),
    };
    if fits {
        return Ok(());
    }
    Err(RuntimeError::Create {
        message: format!(
            "path {} is mounted on {} but it is not a {kinds} mount",
            bind.source.display(),
            around.target.display()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_that_share_are_found_by_their_options() {
        let wished = |options: &[&str]| {
            let mut mount = Mount::default();
            let options = options.iter().map(|o| (*o).to_owned()).collect();
            mount.set_options(Some(options)).set_source(Some("/s".into()));
            wish(mount.set_destination("/t".into()))
        };
        assert_eq!(wished(&["rbind", "rprivate"]), None);
        assert_eq!(wished(&[]), None);
        let shared = wished(&["rbind", "rshared", "ro"]).unwrap();
        assert!(shared.recursive && !shared.slave);
        let slave = wished(&["bind", "slave"]).unwrap();
        assert!(!slave.recursive && slave.slave);
    }
}
