//! The host's own name servers, which are asked for the containers that name
//! none.
//!
//! Be aware: the file may be a link, and may be replaced by another one. Both
//! its directory and that of what it leads to are watched.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use sampan_sys::watch::{AddWatchFlags, Watch};

/// The resolver's configuration.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The most servers that are asked.
const SERVERS_MAX: usize = 8;

/// The servers that a file names; none when there is no file.
#[must_use]
pub fn servers(path: &Path) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    parse(&text)
}

fn parse(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    };
    let mut servers: Vec<IpAddr> = Vec::new();
    for server in text.lines().filter_map(server) {
        if !servers.contains(&server) && servers.len() < SERVERS_MAX {
            servers.push(server);
        }
    }
    // As resolv.conf(5) has it, the local one when none is named.
    if servers.is_empty() && !text.is_empty() {
        servers.push(IpAddr::from([127, 0, 0, 1]));
    }
    servers
}

/// Watches a file and calls `changed` whenever it may have changed. Ends only
/// when the kernel can't watch.
pub async fn watch(path: PathBuf, mut changed: impl FnMut()) -> std::io::Result<()> {
    let entries = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_CLOSE_WRITE;
    let content = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MODIFY;
    let mut first = true;
    loop {
        // A new set of watches each time: what the path leads to may be
        // another one now. What changed until it was there is seen below.
        let watch = Watch::new()?;
        let target = path.canonicalize().ok();
        let dirs = [path.parent(), target.as_deref().and_then(Path::parent)];
        for dir in dirs.into_iter().flatten() {
            if let Err(error) = watch.add(dir, entries) {
                tracing::warn!(dir = %dir.display(), %error, "a directory is not watched");
            }
        }
        // It may be a mount point, about which its directory says nothing.
        if target.is_some() {
            let _ = watch.add(&path, content);
        }
        if !std::mem::take(&mut first) {
            changed();
        }
        watch.changed().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read() {
        let text = "# x\nnameserver 10.0.0.1\nnameserver ::1\nnameserver 10.0.0.1\nnameserver no\n";
        let wanted: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(parse(text), wanted);
        assert_eq!(parse("search x\n"), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(parse(""), Vec::<IpAddr>::new());
    }
}
