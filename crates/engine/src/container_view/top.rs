//! The processes of a container, as `docker top` shows them.
//!
//! Be aware: dockerd runs the host's ps(1). Here the same columns are made
//! from `/proc`; arguments that are not understood are refused.

use sampan_types::docker::ContainerTopResponse;

use super::processes::{self, Host, Process};
use crate::record::Status;
use crate::{Engine, EngineError, Result};

impl Engine {
    /// The processes of a running container in columns chosen by `ps_args`
    /// (the words for ps(1); empty means `-ef`).
    ///
    /// # Errors
    /// No such container, not running, or arguments that are not understood.
    pub async fn container_top(&self, id: &str, ps_args: &str) -> Result<ContainerTopResponse> {
        let columns = columns(ps_args).map_err(EngineError::Invalid)?;
        let container = self.container(id)?;
        let record = container.record();
        match record.state.status {
            Status::Running | Status::Paused => {}
            Status::Restarting => return Err(EngineError::Restarting(record.id.to_string())),
            _ => return Err(EngineError::NotRunning(record.id.to_string())),
        }
        let cgroup = self.cgroup(&record);
        self.blocking(move || {
            let mut pids = cgroup.processes()?;
            pids.sort_unstable();
            // Those that are gone meanwhile are left out.
            let listed: Vec<Process> =
                pids.iter().filter_map(|p| Process::read(p.as_raw()).ok()).collect();
            Ok(table(&columns, &listed, &Host::read()))
        })
        .await
    }
}

fn table(columns: &[Column], listed: &[Process], host: &Host) -> ContainerTopResponse {
    let row = |p: &Process| columns.iter().map(|c| (c.value)(p, host)).collect();
    ContainerTopResponse {
        titles: Some(columns.iter().map(|c| c.title.clone()).collect()),
        processes: Some(listed.iter().map(row).collect()),
    }
}

type Value = fn(&Process, &Host) -> String;

struct Column {
    title: String,
    value: Value,
}

/// The columns that are known: names, title, value.
const COLUMNS: &[(&[&str], &str, Value)] = &[
    (&["pid", "tgid"], "PID", |p, _| p.pid.to_string()),
    (&["ppid"], "PPID", |p, _| p.ppid.to_string()),
    (&["pgid", "pgrp"], "PGID", |p, _| p.pgid.to_string()),
    (&["sid", "sess", "session"], "SID", |p, _| p.sid.to_string()),
    (&["user", "euser", "uname"], "USER", |p, h| h.user(p.euid)),
    (&["ruser"], "RUSER", |p, h| h.user(p.ruid)),
    (&["uid", "euid"], "UID", |p, _| p.euid.to_string()),
    (&["ruid"], "RUID", |p, _| p.ruid.to_string()),
    (&["group", "egroup"], "GROUP", |p, h| h.group(p.egid)),
    (&["gid", "egid"], "GID", |p, _| p.egid.to_string()),
    (&["c"], "C", |p, h| (h.cpu_permille(p) / 10).min(99).to_string()),
    (&["%cpu", "pcpu"], "%CPU", |p, h| tenths(h.cpu_permille(p))),
    (&["%mem", "pmem"], "%MEM", |p, h| tenths(h.memory_permille(p))),
    (&["vsz", "vsize"], "VSZ", |p, _| (p.vsize / 1024).to_string()),
    (&["rss", "rssize", "rsz"], "RSS", |p, h| (p.rss * h.page / 1024).to_string()),
    (&["tty", "tt", "tname"], "TTY", |p, _| processes::terminal(p.tty)),
    (&["stat"], "STAT", |p, _| processes::state(p)),
    (&["s", "state"], "S", |p, _| p.state.to_string()),
    (&["stime", "start_time"], "STIME", |p, h| h.start_time(p)),
    (&["start"], "STARTED", |p, h| h.start_time(p)),
    (&["lstart"], "STARTED", |p, h| h.long_start_time(p)),
    (&["time", "cputime"], "TIME", |p, h| processes::clock(h.cpu_seconds(p))),
    (&["bsdtime"], "TIME", |p, h| {
        let seconds = h.cpu_seconds(p);
        format!("{}:{:02}", seconds / 60, seconds % 60)
    }),
    (&["etime"], "ELAPSED", |p, h| processes::elapsed(h.age(p))),
    (&["etimes"], "ELAPSED", |p, h| h.age(p).to_string()),
    (&["ni", "nice"], "NI", |p, _| p.nice.to_string()),
    (&["pri"], "PRI", |p, _| (39 - p.priority).to_string()),
    (&["nlwp", "thcount"], "NLWP", |p, _| p.threads.to_string()),
    (&["psr"], "PSR", |p, _| p.processor.to_string()),
    (&["comm", "ucmd", "ucomm"], "COMMAND", |p, _| p.comm.clone()),
    (&["args", "command"], "COMMAND", |p, _| processes::command(p)),
    (&["cmd"], "CMD", |p, _| processes::command(p)),
];

fn tenths(permille: u64) -> String {
    format!("{}.{}", permille / 10, permille % 10)
}

/// A column by its name, with another title after `=`.
fn column(text: &str) -> Result<Column, String> {
    let (name, title) = text.split_once('=').map_or((text, None), |(n, t)| (n, Some(t)));
    let lower = name.to_ascii_lowercase();
    match COLUMNS.iter().find(|(names, ..)| names.contains(&lower.as_str())) {
        Some((_, usual, value)) => {
            Ok(Column { title: title.unwrap_or(usual).to_owned(), value: *value })
        }
        None => {
            let known: Vec<&str> = COLUMNS.iter().filter_map(|c| c.0.first().copied()).collect();
            Err(format!("top: unknown column {name:?}; known are {}", known.join(", ")))
        }
    }
}

/// Columns with titles of their own where ps has others in this format.
fn format(columns: &[&str]) -> Result<Vec<Column>, String> {
    columns.iter().map(|c| column(c)).collect()
}

/// The columns that ps(1) would show for these arguments.
fn columns(args: &str) -> Result<Vec<Column>, String> {
    let mut words = args.split_whitespace().peekable();
    let mut chosen: Vec<Column> = Vec::new();
    let mut long = args.trim().is_empty();
    let mut bsd = false;
    while let Some(word) = words.next() {
        let unknown = || {
            format!(
                "top: ps arguments {args:?} are not understood at {word:?}; use -ef, aux, or -o \
                 with columns"
            )
        };
        if let Some(list) = word.strip_prefix("--format=") {
            add(&mut chosen, list)?;
            continue;
        }
        if word == "--format" {
            add(&mut chosen, words.next().ok_or_else(unknown)?)?;
            continue;
        }
        let dashed = word.starts_with('-');
        let mut letters = word.trim_start_matches('-').chars();
        if letters.as_str().is_empty() {
            return Err(unknown());
        }
        while let Some(letter) = letters.next() {
            match letter {
                'e' | 'A' | 'a' | 'x' | 'w' | 'd' => {}
                'f' if dashed => long = true,
                'F' if dashed => long = true,
                'u' => bsd = true,
                'o' => {
                    let attached = letters.as_str();
                    let list = if attached.is_empty() {
                        words.next().ok_or_else(unknown)?
                    } else {
                        attached
                    };
                    add(&mut chosen, list)?;
                    break;
                }
                _ => return Err(unknown()),
            }
        }
    }
    if !chosen.is_empty() {
        if chosen.iter().all(|c| c.title != "PID") {
            return Err("Couldn't find PID field in ps output".to_owned());
        }
        return Ok(chosen);
    }
    if bsd {
        return format(&[
            "user",
            "pid",
            "%cpu",
            "%mem",
            "vsz",
            "rss",
            "tty",
            "stat",
            "stime=START",
            "bsdtime",
            "command",
        ]);
    }
    if long {
        return format(&["user=UID", "pid", "ppid", "c", "stime", "tty", "time", "cmd"]);
    }
    format(&["pid", "tty", "time", "comm=CMD"])
}

fn add(chosen: &mut Vec<Column>, list: &str) -> Result<(), String> {
    for name in list.split(',').filter(|n| !n.is_empty()) {
        chosen.push(column(name)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(args: &str) -> String {
        let titles: Vec<String> = columns(args).unwrap().into_iter().map(|c| c.title).collect();
        titles.join(" ")
    }

    #[test]
    fn arguments_choose_columns() {
        assert_eq!(titles(""), "UID PID PPID C STIME TTY TIME CMD");
        assert_eq!(titles("-ef"), titles(""));
        assert_eq!(titles("aux"), "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND");
        assert_eq!(titles("-aux"), titles("aux"));
        assert_eq!(titles("-e"), "PID TTY TIME CMD");
        assert_eq!(titles("-o pid,comm"), "PID COMMAND");
        assert_eq!(titles("-eo pid,cmd=WHAT -o user"), "PID WHAT USER");
        assert_eq!(titles("-opid,args"), "PID COMMAND");
        assert_eq!(titles("axo pid,stat"), "PID STAT");
        for wrong in ["-z", "--forest", "-o", "-o pid,colour", "-o comm", "-"] {
            assert!(columns(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rows_have_a_cell_for_each_column() {
        let me = Process::read(i32::try_from(std::process::id()).unwrap()).unwrap();
        let host = Host::read();
        let all: Vec<&str> = COLUMNS.iter().map(|c| c.0[0]).collect();
        let columns = columns(&format!("-o {}", all.join(","))).unwrap();
        let out = table(&columns, &[me], &host);
        let row = &out.processes.unwrap()[0];
        assert_eq!(row.len(), all.len());
        assert_eq!(row[0], std::process::id().to_string());
        assert!(row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}
