//! Users and groups by name, from the container's own `/etc/passwd` and
//! `/etc/group`.
//!
//! Be aware:
//! - The files belong to the image: links in them are followed inside the
//!   root file system only, and no more than [`MAX_FILE`] bytes are read.
//! - A number needs no entry: `--user 4711` works in an empty image.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sampan_sys::inroot::{open_in_root, open_root};
use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

/// More of `/etc/passwd` or `/etc/group` is not read.
pub const MAX_FILE: u64 = 4 << 20;
/// The largest id, as Docker has it.
const MAX_ID: u32 = 0x7fff_ffff;

/// Who a process in a container runs as.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids, sorted, each once.
    pub groups: Vec<u32>,
    /// The home directory: `/` when the user has no entry, `/root` for root.
    pub home: PathBuf,
}

/// Why a user can't be resolved.
#[derive(Debug, Error)]
pub enum UserError {
    /// No such user in the image.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// No such group in the image.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// A number outside of the range of ids.
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
    /// The file can't be read.
    #[error("reading {path} of the container: {source}")]
    Read {
        /// The path in the container.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Kind for UserError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } => ErrorKind::System,
            _ => ErrorKind::InvalidParameter,
        }
    }
}

/// Resolves `user[:group]` (names or numbers, empty for root) and the
/// additional `groups` in the root file system at `rootfs`. Links in it are
/// followed within it only. Blocks for two small reads.
///
/// # Errors
/// [`UserError`]; an absent file counts as an empty one.
pub fn resolve(rootfs: &Path, user: &str, groups: &[String]) -> Result<ResolvedUser, UserError> {
    let passwd = read(rootfs, "/etc/passwd")?;
    let group = read(rootfs, "/etc/group")?;
    resolve_in(&passwd, &group, user, groups)
}

fn read(rootfs: &Path, path: &'static str) -> Result<String, UserError> {
    let wrong = |source| UserError::Read { path, source };
    // Without O_NONBLOCK a pipe in its place would wait for a writer.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = open_root(rootfs)
        .and_then(|root| open_in_root(root, Path::new(path), flags, Mode::empty()));
    let file = match opened {
        Ok(fd) => File::from(fd),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => {
            return Ok(String::new());
        }
        Err(e) => return Err(wrong(e)),
    };
    if !file.metadata().map_err(wrong)?.is_file() {
        return Err(wrong(io::Error::other("not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(wrong)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `name:password:uid:gid:comment:home:shell`
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or("");
        (!name.starts_with('#')).then_some(PasswdEntry { name, uid, gid, home })
    })
}

/// `name:password:gid:member,member`
struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn group_entries(text: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or("");
        (!name.starts_with('#')).then_some(GroupEntry { name, gid, members })
    })
}

fn resolve_in(
    passwd: &str,
    group: &str,
    user: &str,
    extra: &[String],
) -> Result<ResolvedUser, UserError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (user, None),
    };
    let number = parse_id(user)?;
    // As runc: an entry of that name first, then one with that number.
    let entry = if user.is_empty() {
        passwd_entries(passwd).find(|e| e.uid == 0)
    } else {
        passwd_entries(passwd)
            .find(|e| e.name == user)
            .or_else(|| number.and_then(|n| passwd_entries(passwd).find(|e| e.uid == n)))
    };
    let (uid, mut gid, home) = match (&entry, number) {
        (Some(e), _) => (e.uid, e.gid, e.home),
        (None, Some(n)) => (n, 0, ""),
        (None, None) if user.is_empty() => (0, 0, ""),
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    };
    let mut groups: Vec<u32> = Vec::new();
    match wanted_group {
        Some(name) => gid = group_id(group, name)?,
        // Membership counts only when no group was asked for.
        None => {
            if let Some(e) = &entry {
                let member = |g: &GroupEntry<'_>| g.members.split(',').any(|m| m.trim() == e.name);
                groups.extend(group_entries(group).filter(member).map(|g| g.gid));
            }
        }
    }
    for name in extra {
        groups.push(group_id(group, name)?);
    }
    groups.sort_unstable();
    groups.dedup();
    if uid > MAX_ID || gid > MAX_ID || groups.iter().any(|g| *g > MAX_ID) {
        return Err(UserError::Range);
    }
    let home = match (home, uid) {
        ("", 0) => "/root",
        ("", _) => "/",
        (home, _) => home,
    };
    Ok(ResolvedUser { uid, gid, groups, home: PathBuf::from(home) })
}

fn group_id(text: &str, name: &str) -> Result<u32, UserError> {
    if let Some(entry) = group_entries(text).find(|g| g.name == name) {
        return Ok(entry.gid);
    }
    parse_id(name)?.ok_or_else(|| UserError::NoGroup(name.to_owned()))
}

/// A number is an id; anything else is a name.
fn parse_id(text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(UserError::Range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::symlink;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbad line\n\
        bob:x:1000:1000:Bob:/home/bob:/bin/sh\n1000x:x:5:6::/five:\n7:x:70:71::/seven:\n";
    const GROUP: &str =
        "root:x:0:\nbob:x:1000:\naudio:x:29:bob,eve\nvideo:x:44:eve, bob\n9:x:90:\n";

    fn resolved(user: &str, groups: &[&str]) -> Result<(u32, u32, Vec<u32>, String), String> {
        let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        resolve_in(PASSWD, GROUP, user, &groups)
            .map(|u| (u.uid, u.gid, u.groups, u.home.display().to_string()))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(resolved("", &[]), Ok((0, 0, vec![], "/root".into())));
        assert_eq!(resolved("bob", &[]), Ok((1000, 1000, vec![29, 44], "/home/bob".into())));
        assert_eq!(resolved("1000", &[]), Ok((1000, 1000, vec![29, 44], "/home/bob".into())));
        assert_eq!(resolved("bob:audio", &[]), Ok((1000, 29, vec![], "/home/bob".into())));
        assert_eq!(resolved("4711", &[]), Ok((4711, 0, vec![], "/".into())));
        assert_eq!(resolved("4711:12", &["audio", "99"]), Ok((4711, 12, vec![29, 99], "/".into())));
        assert_eq!(resolved("7", &["9"]), Ok((70, 71, vec![90], "/seven".into())));
        assert_eq!(resolved("bob:", &[]), resolved("bob", &[]));
    }

    #[test]
    fn what_is_missing_is_named_in_dockers_words() {
        let text = |user: &str, groups: &[&str]| resolved(user, groups).unwrap_err();
        assert_eq!(text("eve", &[]), "unable to find user eve: no matching entries in passwd file");
        assert_eq!(
            text("bob:wheel", &[]),
            "unable to find group wheel: no matching entries in group file"
        );
        assert_eq!(
            text("bob", &["wheel"]),
            "unable to find group wheel: no matching entries in group file"
        );
        for user in ["-1", "2147483648", "bob:99999999999"] {
            assert_eq!(text(user, &[]), "uids and gids must be in range 0-2147483647");
        }
    }

    #[test]
    fn links_stay_inside() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(outside.path(), "evil:x:1:1::/:\n").unwrap();
        symlink(outside.path(), root.path().join("etc/passwd")).unwrap();
        assert!(matches!(resolve(root.path(), "evil", &[]), Err(UserError::NoUser(_))));
        std::fs::create_dir(root.path().join("usr")).unwrap();
        std::fs::write(root.path().join("usr/passwd"), "good:x:2:2::/g:\n").unwrap();
        std::fs::remove_file(root.path().join("etc/passwd")).unwrap();
        symlink("/usr/passwd", root.path().join("etc/passwd")).unwrap();
        assert_eq!(resolve(root.path(), "good", &[]).unwrap().uid, 2);
        std::fs::remove_file(root.path().join("etc/passwd")).unwrap();
        nix::unistd::mkfifo(&root.path().join("etc/passwd"), Mode::S_IRUSR).unwrap();
        assert!(matches!(resolve(root.path(), "good", &[]), Err(UserError::Read { .. })));
    }

    #[test]
    fn an_image_without_files_knows_numbers_only() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(resolve(root.path(), "", &[]).unwrap().home, Path::new("/root"));
        assert_eq!(resolve(root.path(), "12:13", &[]).unwrap().gid, 13);
        assert!(resolve(root.path(), "bob", &[]).is_err());
    }

    proptest! {
        #[test]
        fn noise_is_no_panic(passwd in "[a-z0-9:\n#]{0,80}", group in "[a-z0-9:,\n]{0,80}", user in "[a-z0-9:-]{0,12}") {
            if let Ok(found) = resolve_in(&passwd, &group, &user, std::slice::from_ref(&user)) {
                prop_assert!(found.uid <= MAX_ID && found.gid <= MAX_ID);
            }
        }
    }
}
