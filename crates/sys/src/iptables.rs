//! What `iptables-legacy` filters: tables of the older interface
//! (`linux/netfilter_ipv4/ip_tables.h`, `…_ipv6/ip6_tables.h`), beside
//! nf_tables and invisible there.
//!
//! Be aware:
//! - Nobody tells of changes; whoever wants to know has to look.
//! - To ask for a table that is not there would make it: only those that
//!   `/proc/net/ip_tables_names` lists are asked for.
//! - A table is read in two steps; one that changed in between is read again.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// `IPT_SO_GET_INFO`, `IPT_SO_GET_ENTRIES`; `IP6T_…` are the same.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// `XT_TABLE_MAXNAMELEN`.
const NAME: usize = 32;
/// `struct ipt_getinfo`: the name, 12 words and two counts.
const INFO: usize = NAME + 4 * 13;
const HOOK_ENTRY_AT: usize = NAME + 4;
const UNDERFLOW_AT: usize = HOOK_ENTRY_AT + 4 * 5;
const SIZE_AT: usize = UNDERFLOW_AT + 4 * 5 + 4;
/// `struct ipt_get_entries`: the name and the size, padded to the alignment of
/// what follows.
const ENTRIES_AT: usize = NAME + 8;
/// `struct xt_entry_target` before a standard target's verdict.
const TARGET: usize = 32;
/// `-NF_ACCEPT - 1`.
const ACCEPT: i32 = -2;
/// Tables that filter. `nat` translates.
const FILTERING: [&str; 4] = ["filter", "mangle", "raw", "security"];
/// How often a table that changes while it is read is read anew.
const ATTEMPTS: usize = 8;

/// A built-in chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegacyHook {
    /// `INPUT`.
    Input,
    /// `FORWARD`.
    Forward,
}

impl LegacyHook {
    /// The chain's name.
    #[must_use]
    pub fn chain(self) -> &'static str {
        match self {
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
        }
    }

    /// `NF_INET_LOCAL_IN`, `NF_INET_FORWARD`.
    fn number(self) -> usize {
        match self {
            Self::Input => 1,
            Self::Forward => 2,
        }
    }
}

/// A built-in chain that does not just accept everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyChain {
    /// Whether of IPv6.
    pub ipv6: bool,
    /// The table.
    pub table: String,
    /// Where it sits.
    pub hook: LegacyHook,
    /// Whether it has rules.
    pub has_rules: bool,
    /// Whether what no rule decides is dropped.
    pub drops: bool,
}

impl LegacyChain {
    /// The table with its family, as nft writes it.
    #[must_use]
    pub fn table(&self) -> String {
        format!("{} {}", if self.ipv6 { "ip6" } else { "ip" }, self.table)
    }
}

/// The chains at input and forward of the calling thread's network namespace
/// that have rules, or drop.
///
/// # Errors
/// When a table can't be read.
pub fn legacy_chains() -> io::Result<Vec<LegacyChain>> {
    let mut chains = Vec::new();
    for ipv6 in [false, true] {
        let tables = names(ipv6)?;
        if tables.is_empty() {
            continue;
        }
        let socket = open(ipv6)?;
        for table in tables {
            chains.extend(read(socket.as_raw_fd(), ipv6, &table)?);
        }
    }
    Ok(chains)
}

/// Whether there is any table of IPv4, whatever is in it.
///
/// # Errors
/// When the list can't be read.
pub fn has_legacy_tables() -> io::Result<bool> {
    Ok(!listed("ip_tables_names")?.is_empty())
}

/// The filtering tables that are there.
fn names(ipv6: bool) -> io::Result<Vec<String>> {
    let file = if ipv6 { "ip6_tables_names" } else { "ip_tables_names" };
    let text = listed(file)?;
    let known = text.lines().filter(|name| FILTERING.contains(name));
    Ok(known.map(ToOwned::to_owned).collect())
}

/// A list of tables, a line each. A kernel without the interface has no file.
fn listed(file: &str) -> io::Result<String> {
    match std::fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

fn open(ipv6: bool) -> io::Result<OwnedFd> {
    let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) has no memory arguments.
    let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_RAW) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn read(socket: RawFd, ipv6: bool, table: &str) -> io::Result<Vec<LegacyChain>> {
    for _ in 0..ATTEMPTS {
        let mut info = named(table, INFO);
        get(socket, ipv6, GET_INFO, &mut info)?;
        let size = word(&info, SIZE_AT).unwrap_or_default() as usize;
        let mut entries = named(table, ENTRIES_AT + size);
        entries[NAME..NAME + 4].copy_from_slice(&info[SIZE_AT..SIZE_AT + 4]);
        match get(socket, ipv6, GET_ENTRIES, &mut entries) {
            // Another size by now.
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(e) => return Err(e),
            Ok(()) => return Ok(chains(ipv6, table, &info, &entries[ENTRIES_AT..])),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// A question about a table, with room for the answer.
fn named(table: &str, size: usize) -> Vec<u8> {
    let mut question = vec![0; size];
    question[..table.len()].copy_from_slice(table.as_bytes());
    question
}

fn get(socket: RawFd, ipv6: bool, what: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
    let level = if ipv6 { libc::IPPROTO_IPV6 } else { libc::IPPROTO_IP };
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to the buffer.
    let got = unsafe {
        libc::getsockopt(socket, level, what, buffer.as_mut_ptr().cast(), &raw mut length)
    };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The chains in a table's description that do not just accept. Pure.
fn chains(ipv6: bool, table: &str, info: &[u8], entries: &[u8]) -> Vec<LegacyChain> {
    let valid = word(info, NAME).unwrap_or_default();
    let of = |hook: LegacyHook| {
        let number = hook.number();
        if valid & 1 << number == 0 {
            return None;
        }
        let first = word(info, HOOK_ENTRY_AT + 4 * number)?;
        let policy = word(info, UNDERFLOW_AT + 4 * number)?;
        let drops = verdict(ipv6, entries, policy as usize)? != ACCEPT;
        let table = table.to_owned();
        let chain = LegacyChain { ipv6, table, hook, has_rules: first != policy, drops };
        (chain.has_rules || chain.drops).then_some(chain)
    };
    [LegacyHook::Input, LegacyHook::Forward].into_iter().filter_map(of).collect()
}

/// The verdict of the entry at an offset, whose target is a standard one.
fn verdict(ipv6: bool, entries: &[u8], at: usize) -> Option<i32> {
    // Where `struct ipt_entry` (`ip6t_entry`) has the offset of its target.
    let offset_at = at + if ipv6 { 140 } else { 88 };
    let offset = entries.get(offset_at..offset_at + 2)?;
    let target = at + usize::from(u16::from_ne_bytes([offset[0], offset[1]]));
    word(entries, target + TARGET).map(u32::cast_signed)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::print_stderr)]

    use std::process::Command;

    use super::*;
    use crate::netns::NetNs;

    fn sh(command: &str) -> bool {
        Command::new("sh").args(["-c", command]).output().is_ok_and(|o| o.status.success())
    }

    #[test]
    fn what_filters_is_found() {
        let made = NetNs::create(|| {
            assert_eq!(legacy_chains().unwrap(), []);
            if !sh("iptables-legacy -S && ip6tables-legacy -S") {
                eprintln!("skipped: no iptables-legacy here");
                return;
            }
            assert_eq!(legacy_chains().unwrap(), [], "tables that accept everything");
            assert!(sh("iptables-legacy -A INPUT -p tcp --dport 80 -j DROP"));
            assert!(sh("ip6tables-legacy -P FORWARD DROP"));
            assert!(sh("iptables-legacy -t nat -A INPUT -j ACCEPT"));
            let chain = |ipv6, hook, has_rules, drops| LegacyChain {
                ipv6,
                table: "filter".to_owned(),
                hook,
                has_rules,
                drops,
            };
            let wanted = [
                chain(false, LegacyHook::Input, true, false),
                chain(true, LegacyHook::Forward, false, true),
            ];
            assert_eq!(legacy_chains().unwrap(), wanted);
        });
        if let Err(e) = made {
            eprintln!("skipped: no network namespace here: {e}");
        }
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        assert_eq!(chains(false, "filter", &[], &[]), []);
        let mut info = named("filter", INFO);
        info[NAME] = 0xff;
        assert_eq!(chains(true, "filter", &info, &[0; 8]), []);
    }
}
