//! The daemon in an emulated machine: cgroup v2 with its controllers, ipvlan,
//! VLANs, bridges without br_netfilter, volumes on NFS, SMB and project quotas.
//!
//! Each function `check_…` in `checks/` is a check of its own, with a line of
//! its own. Words on the command line choose those whose names have the first
//! of them.
#![allow(clippy::print_stdout)]

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sampan_testkit::skip;
use sampan_testkit::vm::{Image, Kernel, Line, Machine, kernel_or_skip};

const SAMPAN: &str = env!("CARGO_BIN_EXE_sampan");
/// How long the machine may say nothing. A check ends itself after 90 s.
const SILENCE: Duration = Duration::from_secs(150);
/// How long all of it may take.
const WHOLE: Duration = Duration::from_secs(900);

const CHECKS: &[(&str, &str)] = &[
    ("lib.sh", include_str!("checks/lib.sh")),
    ("basics.sh", include_str!("checks/basics.sh")),
    ("cgroup.sh", include_str!("checks/cgroup.sh")),
    ("firewall.sh", include_str!("checks/firewall.sh")),
    ("ipvlan.sh", include_str!("checks/ipvlan.sh")),
    ("vlan.sh", include_str!("checks/vlan.sh")),
    ("volumes.sh", include_str!("checks/volumes.sh")),
];

/// Everything that the daemon may ask the kernel for, but br_netfilter.
const MODULES: &[&str] = &[
    "overlay",
    "bridge",
    "veth",
    "dummy",
    "ifb",
    "tun",
    "vxlan",
    "macvlan",
    "ipvlan",
    "8021q",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_fib_inet",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_meta_bridge",
    "nft_nat",
    "nft_numgen",
    "nft_quota",
    "nft_redir",
    "nft_reject_inet",
    "nf_conntrack_netlink",
    "nf_conntrack_bridge",
    "sch_ingress",
    "sch_htb",
    "sch_tbf",
    "cls_bpf",
    "cls_u32",
    "act_mirred",
    "act_police",
    "nfs",
    "nfsv4",
    "nfsd",
    "cifs",
    // What it takes by name.
    "ccm",
    "cmac",
    "ctr",
    "ecb",
    "gcm",
    "ghash_generic",
    "sha512_generic",
    "loop",
    "dm_crypt",
    "ext4",
    "xfs",
    "quota_v2",
    "cts",
    "xts",
];

/// Checks that need one of these skip themselves where it is not installed.
const PROGRAMS: &[&str] = &["smbd", "smbpasswd", "mkfs.ext4", "mkfs.xfs"];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|w| w == "--list") {
        return ExitCode::SUCCESS;
    }
    let only = chosen(&words).unwrap_or_default();
    if !names().any(|name| name.contains(&only)) {
        return ExitCode::SUCCESS;
    }
    let Some(kernel) = kernel_or_skip("the emulated machine") else { return ExitCode::SUCCESS };
    let failed = image(&kernel).and_then(|image| {
        let archive = image.pack()?;
        Machine::boot(&kernel, &archive, &format!("only={only}")).map(watch)
    });
    match failed {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            say(&format!("the emulated machine can't be made: {e}"));
            ExitCode::FAILURE
        }
    }
}

/// The first word that is neither an option of the usual test harness nor the
/// value of one.
fn chosen(words: &[String]) -> Option<String> {
    const WITH_VALUE: [&str; 4] = ["--test-threads", "--skip", "--color", "--format"];
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(&word.as_str()) {
            words.next();
        } else if !word.starts_with('-') {
            return Some(word.clone());
        }
    }
    None
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The checks' names.
fn names() -> impl Iterator<Item = &'static str> {
    let lines = CHECKS.iter().flat_map(|(_, text)| text.lines());
    lines.filter_map(|line| line.strip_prefix("check_")?.strip_suffix("() {"))
}

fn image(kernel: &Kernel) -> std::io::Result<Image> {
    let image = Image::new()?;
    image.add_modules(kernel, MODULES)?;
    image.add_program("ip")?;
    for program in PROGRAMS {
        match image.add_program(program) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            added => added?,
        }
    }
    image.add_stripped(Path::new(SAMPAN), "sampan")?;
    image.add_file("init", include_bytes!("init.sh"))?;
    for (name, text) in CHECKS {
        image.add_file(&format!("checks/{name}"), text.as_bytes())?;
    }
    Ok(image)
}

/// Reads the console to its end, and says how each check went. Returns how
/// many failed.
fn watch(mut machine: Machine) -> usize {
    let began = Instant::now();
    let (mut passed, mut failed, mut running, mut done) = (0, 0, None::<String>, false);
    let end = began + WHOLE;
    while !done {
        let line = match machine.next((Instant::now() + SILENCE).min(end)) {
            Line::Text(line) => line,
            Line::Silence | Line::Off => break,
        };
        let Some(said) = line.split_once("@@ ").map(|(_, said)| said) else { continue };
        let mut words = said.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("begin"), Some(name), _) => running = Some(name.to_owned()),
            (Some("ok"), Some(name), Some(seconds)) => {
                (passed, running) = (passed + 1, None);
                say(&format!("test vm::{name} ... ok ({seconds} s)"));
            }
            (Some("skipped"), Some(name), _) => {
                running = None;
                skip(name, said.splitn(3, ' ').nth(2).unwrap_or_default());
            }
            (Some("failed"), Some(name), _) => {
                (failed, running) = (failed + 1, None);
                say(&format!("test vm::{name} ... FAILED"));
            }
            (Some("|"), ..) => say(said),
            (Some("done"), ..) => done = true,
            (Some(state), Some(seconds), _) => {
                say(&format!("the machine is {state} after {seconds} s"))
            }
            _ => {}
        }
    }
    if !done {
        failed += 1;
        let at = running.unwrap_or_else(|| "no check".to_owned());
        say(&format!("test vm::{at} ... FAILED: the machine stopped"));
    }
    if failed > 0 {
        say(&format!("the console's end:\n{}", machine.tail()));
    }
    let seconds = began.elapsed().as_secs();
    say(&format!("vm: {passed} passed; {failed} failed; {seconds} s"));
    failed
}
