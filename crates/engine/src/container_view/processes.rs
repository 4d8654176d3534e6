//! Processes as `/proc` shows them, and their columns as ps(1) writes them.
//! Reading is in [`Process::read`] and [`Host::read`]; the rest is pure.

use std::collections::HashMap;
use std::fs;
use std::io;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::unistd::{SysconfVar, sysconf};

/// What is needed of one process.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) ppid: i32,
    pub(super) pgid: i32,
    pub(super) sid: i32,
    /// Effective user and group.
    pub(super) euid: u32,
    pub(super) egid: u32,
    /// Real user.
    pub(super) ruid: u32,
    pub(super) comm: String,
    /// Arguments, joined by blanks; empty for kernel threads and zombies.
    pub(super) args: String,
    pub(super) state: char,
    pub(super) tty: i32,
    /// The foreground process group of its terminal.
    pub(super) tpgid: i32,
    /// User and system time in ticks.
    pub(super) ticks: u64,
    /// Ticks from boot to its start.
    pub(super) start: u64,
    pub(super) nice: i32,
    pub(super) priority: i32,
    pub(super) threads: u64,
    /// Bytes.
    pub(super) vsize: u64,
    /// Pages.
    pub(super) rss: u64,
    pub(super) locked: bool,
    pub(super) processor: i32,
}

impl Process {
    /// Reads a process; an error when it is gone.
    pub(super) fn read(pid: i32) -> io::Result<Self> {
        let text = |name: &str| {
            fs::read(format!("/proc/{pid}/{name}"))
                .map(|b| String::from_utf8_lossy(&b).into_owned())
        };
        let mut process = Self::parse_stat(&text("stat")?)
            .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is malformed")))?;
        process.read_status(&text("status")?);
        let args = text("cmdline").unwrap_or_default();
        process.args = args.trim_end_matches('\0').replace('\0', " ");
        Ok(process)
    }

    /// From `/proc/<pid>/stat`, see proc_pid_stat(5).
    fn parse_stat(text: &str) -> Option<Self> {
        let (pid, rest) = text.split_once(" (")?;
        let (comm, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // Numbered as in the manual, where the state is field 3.
        let field = |n: usize| fields.get(n - 3).copied();
        let number = |n: usize| field(n)?.parse::<i64>().ok();
        let int = |n: usize| number(n).and_then(|v| i32::try_from(v).ok());
        let unsigned = |n: usize| field(n)?.parse::<u64>().ok();
        Some(Self {
            pid: pid.parse().ok()?,
            comm: comm.to_owned(),
            state: field(3)?.chars().next()?,
            ppid: int(4)?,
            pgid: int(5)?,
            sid: int(6)?,
            tty: int(7)?,
            tpgid: int(8)?,
            ticks: unsigned(14)?.saturating_add(unsigned(15)?),
            priority: int(18)?,
            nice: int(19)?,
            threads: unsigned(20)?,
            start: unsigned(22)?,
            vsize: unsigned(23)?,
            rss: unsigned(24)?,
            processor: int(39).unwrap_or(0),
            ..Self::default()
        })
    }

    fn read_status(&mut self, text: &str) {
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let mut numbers = value.split_whitespace();
            match key {
                "Uid" => {
                    self.ruid = numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0);
                    self.euid = numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0);
                }
                "Gid" => self.egid = numbers.nth(1).and_then(|n| n.parse().ok()).unwrap_or(0),
                "VmLck" => self.locked = numbers.next().is_some_and(|n| n != "0"),
                _ => {}
            }
        }
    }
}

/// What is needed of the host to show processes.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// Ticks per second.
    pub(super) hertz: u64,
    /// Bytes per page.
    pub(super) page: u64,
    /// Seconds since 1970 at which the machine booted.
    pub(super) boot: i64,
    /// Now, in seconds since 1970.
    pub(super) now: i64,
    /// Bytes of memory.
    pub(super) memory: u64,
    /// Names by user id.
    pub(super) users: HashMap<u32, String>,
    /// Names by group id.
    pub(super) groups: HashMap<u32, String>,
    pub(super) zone: TimeZone,
}

impl Host {
    /// Reads the host's `/proc`, `/etc/passwd` and `/etc/group`.
    pub(super) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let variable =
            |v, or| sysconf(v).ok().flatten().and_then(|n| u64::try_from(n).ok()).unwrap_or(or);
        let stat = text("/proc/stat");
        let boot = stat.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok());
        let memory = text("/proc/meminfo");
        let memory = memory.lines().find_map(|l| {
            l.strip_prefix("MemTotal:")?.trim().trim_end_matches(" kB").parse::<u64>().ok()
        });
        Self {
            hertz: variable(SysconfVar::CLK_TCK, 100),
            page: variable(SysconfVar::PAGE_SIZE, 4096),
            boot: boot.unwrap_or(0),
            now: sampan_types::Timestamp::now().seconds(),
            memory: memory.unwrap_or(0).saturating_mul(1024),
            users: names(&text("/etc/passwd")),
            groups: names(&text("/etc/group")),
            zone: TimeZone::system(),
        }
    }

    pub(super) fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    pub(super) fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_else(|| gid.to_string())
    }

    fn started(&self, p: &Process) -> i64 {
        self.boot.saturating_add(i64::try_from(p.start / self.hertz.max(1)).unwrap_or(0))
    }

    /// Seconds that a process has lived.
    pub(super) fn age(&self, p: &Process) -> u64 {
        u64::try_from(self.now - self.started(p)).unwrap_or(0)
    }

    /// Seconds of processor time.
    pub(super) fn cpu_seconds(&self, p: &Process) -> u64 {
        p.ticks / self.hertz.max(1)
    }

    /// Tenths of a percent of one processor over the process's life.
    pub(super) fn cpu_permille(&self, p: &Process) -> u64 {
        let age = self.age(p).saturating_mul(self.hertz);
        (p.ticks.saturating_mul(1000)).checked_div(age).unwrap_or(0)
    }

    /// Tenths of a percent of the host's memory.
    pub(super) fn memory_permille(&self, p: &Process) -> u64 {
        let used = p.rss.saturating_mul(self.page);
        used.saturating_mul(1000).checked_div(self.memory).unwrap_or(0)
    }

    /// `14:05` today, `Jan05` this year, `2023` before that.
    pub(super) fn start_time(&self, p: &Process) -> String {
        let at = |seconds| {
            Timestamp::from_second(seconds).unwrap_or_default().to_zoned(self.zone.clone())
        };
        let (start, now) = (at(self.started(p)), at(self.now));
        let format = if start.year() != now.year() {
            "%Y"
        } else if start.day_of_year() != now.day_of_year() {
            "%b%d"
        } else {
            "%H:%M"
        };
        start.strftime(format).to_string()
    }

    /// As ctime(3): `Fri Jan  5 14:05:06 2024`.
    pub(super) fn long_start_time(&self, p: &Process) -> String {
        let start = Timestamp::from_second(self.started(p)).unwrap_or_default();
        start.to_zoned(self.zone.clone()).strftime("%a %b %e %H:%M:%S %Y").to_string()
    }
}

/// Names by number, from lines like `name:x:number:…`.
fn names(table: &str) -> HashMap<u32, String> {
    let mut out = HashMap::new();
    for line in table.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(number)) = (fields.next(), fields.nth(1))
            && let Ok(number) = number.parse()
        {
            out.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    out
}

/// The name of a terminal by its device number.
pub(super) fn terminal(device: i32) -> String {
    let device = device.cast_unsigned();
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    match (major, minor) {
        (136..=143, _) => format!("pts/{}", (major - 136) * 256 + minor),
        (4, 0..64) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        (5, 1) => "console".to_owned(),
        _ => "?".to_owned(),
    }
}

/// The state with ps's further letters.
pub(super) fn state(p: &Process) -> String {
    let mut out = String::from(p.state);
    for (letter, on) in [
        ('<', p.nice < 0),
        ('N', p.nice > 0),
        ('L', p.locked),
        ('s', p.sid == p.pid),
        ('l', p.threads > 1),
        ('+', p.tpgid > 0 && p.tpgid == p.pgid),
    ] {
        if on {
            out.push(letter);
        }
    }
    out
}

/// `[DD-]HH:MM:SS`.
pub(super) fn clock(seconds: u64) -> String {
    let (days, rest) = (seconds / 86400, seconds % 86400);
    let time = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    if days > 0 { format!("{days}-{time}") } else { time }
}

/// `[[DD-]HH:]MM:SS`.
pub(super) fn elapsed(seconds: u64) -> String {
    let time = clock(seconds);
    if seconds < 3600 { time[3..].to_owned() } else { time }
}

/// The command line, or the name in brackets where there is none.
pub(super) fn command(p: &Process) -> String {
    match (p.args.is_empty(), p.state) {
        (false, _) => p.args.clone(),
        (true, 'Z') => format!("[{}] <defunct>", p.comm),
        (true, _) => format!("[{}]", p.comm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_name_is() {
        let line = "42 (a) (b)) S 1 42 42 34816 43 4194560 95 0 0 0 150 50 0 0 20 0 3 0 6000 \
                    2228224 256 18446744073709551615 1 1 0 0 0 0 0 0 65536 1 0 0 17 1 0 0 0";
        let p = Process::parse_stat(line).unwrap();
        assert_eq!((p.pid, p.comm.as_str(), p.state, p.ppid), (42, "a) (b)", 'S', 1));
        assert_eq!((p.ticks, p.start, p.threads, p.rss, p.processor), (200, 6000, 3, 256, 1));
        assert_eq!(terminal(p.tty), "pts/0");
        assert_eq!(state(&p), "Ssl");
        assert!(Process::parse_stat("").is_none());
    }

    #[test]
    fn times_and_terminals() {
        assert_eq!(clock(3_723), "01:02:03");
        assert_eq!(clock(90_061), "1-01:01:01");
        assert_eq!(elapsed(62), "01:02");
        assert_eq!(terminal(0), "?");
        assert_eq!(terminal(0x0440), "ttyS0");
        assert_eq!(names("root:x:0:0::\nroot2:x:0:\nwww:x:33:33")[&0], "root");
    }

    #[test]
    fn this_process_is_read() {
        let me = Process::read(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.threads > 0 && !me.args.is_empty());
        let host = Host::read();
        assert!(host.boot > 0 && host.memory > 0 && host.age(&me) < 3600);
        assert_eq!(host.start_time(&me).len().max(5), 5);
    }
}
