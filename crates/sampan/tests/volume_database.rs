//! A database on a volume keeps its promise: what it acknowledged is there,
//! however often its container and the daemon are killed.
//!
//! Be aware: the client is a process of the host and talks to the container's
//! address, so that an acknowledgement does not travel through the daemon.

// How many rows it was about is worth seeing.
#![allow(clippy::print_stdout)]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use common::{SAMPAN, SOON, field, host};
use sampan_testkit::{Host, add_program, eventually, skip};

const ROUNDS: u32 = 20;

/// The version of Debian's PostgreSQL, when it is installed.
fn installed() -> Option<String> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let with_client = versions.filter(|v| v.path().join("bin/psql").exists());
    with_client.map(|v| v.file_name().to_string_lossy().into_owned()).max()
}

/// Where the programs of a version are.
fn binaries(version: &str) -> String {
    format!("/usr/lib/postgresql/{version}/bin")
}

/// Makes an image of Debian's PostgreSQL.
fn import_postgres(h: &Host, version: &str) {
    let (root, bin) = (h.dir().join("rootfs"), binaries(version));
    for program in ["postgres", "initdb"] {
        add_program(&root, &format!("{bin}/{program}")).expect("the programs' libraries");
    }
    // What the programs load and read; owned by `web`, the user 1000.
    h.sh(&format!(
        "cd $HOME/rootfs && mkdir -p usr/lib/postgresql/{version}/lib usr/share/postgresql data run/pg && \
         cp -a /usr/lib/postgresql/{version}/lib/*.so usr/lib/postgresql/{version}/lib/ && \
         cp -aL /usr/share/postgresql/{version} usr/share/postgresql/ && \
         for f in dict_snowball plpgsql; do \
             ldd usr/lib/postgresql/{version}/lib/$f.so | grep -o '/[^ ]*' | xargs -I@ cp -nL --parents @ .; \
         done; chown 1000:1000 data run/pg && chmod 700 data"
    ));
    std::fs::write(
        root.join("start.sh"),
        format!(
            "set -e\n\
             [ -s /data/PG_VERSION ] || {{\n\
             {bin}/initdb -D /data -U web -A trust --locale=C --encoding=UTF8\n\
             echo 'host all all all trust' >>/data/pg_hba.conf\n}}\n\
             rm -f /data/postmaster.pid\n\
             exec {bin}/postgres -D /data -k /run/pg -h '*' -c shared_buffers=8MB\n"
        ),
    )
    .expect("the image's directory is ours");
    h.sh("tar -C $HOME/rootfs -c . | docker import -c 'USER 1000' \
          -c 'CMD [\"sh\",\"/start.sh\"]' - postgres");
}

fn psql(h: &Host, bin: &str, statement: &str) -> Option<String> {
    let address = field(h, "db", "{{.NetworkSettings.IPAddress}}");
    let out = h.run(&format!(
        "PGCONNECT_TIMEOUT=2 {bin}/psql -h {address} -U web -qAt -d postgres -c '{statement}'"
    ));
    (out.code == 0).then(|| out.text())
}

/// Inserts numbers from `from` on, one transaction each, for as long as the
/// database answers; gives those that it acknowledged.
fn insert(mut client: Child, from: u32) -> thread::JoinHandle<Vec<u32>> {
    let mut input = client.stdin.take().expect("it is piped");
    let output = BufReader::new(client.stdout.take().expect("it is piped"));
    thread::spawn(move || {
        let mut acknowledged = Vec::new();
        let mut lines = output.lines();
        for n in from.. {
            let sent = writeln!(input, "insert into t values ({n}) returning n;");
            let Some(Ok(line)) = lines.next().filter(|_| sent.is_ok()) else { break };
            let Ok(seen) = line.parse() else { break };
            acknowledged.push(seen);
        }
        drop(input);
        let _ = client.wait();
        acknowledged
    })
}

fn client(h: &Host, bin: &str) -> Child {
    let address = field(h, "db", "{{.NetworkSettings.IPAddress}}");
    let mut command = h.command(&format!("{bin}/psql"));
    command.args(["-h", &address, "-U", "web", "-qAt", "-d", "postgres"]);
    // A connection whose other end vanished must not wait for ever.
    command.env("PGTCPUSERTIMEOUT", "3000");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("psql is installed")
}

#[test]
fn a_database_keeps_every_acknowledged_row() {
    let test = "a_database_keeps_every_acknowledged_row";
    let Some((_lan, mut h)) = host(test) else { return };
    let Some(version) = installed() else {
        skip(test, "no PostgreSQL: install postgresql");
        return;
    };
    let bin = &binaries(&version);
    import_postgres(&h, &version);
    h.docker("run -d --name db -v pgdata:/data postgres");
    let ready = |h: &Host| {
        eventually("the database", SOON, || psql(h, bin, "select 1").map(drop));
    };
    ready(&h);
    psql(&h, bin, "create table t (n int primary key)").expect("a table");
    let mut promised = BTreeSet::new();
    for round in 0..ROUNDS {
        let next = promised.last().map_or(0, |n| n + 1000);
        let inserts = insert(client(&h, bin), next);
        thread::sleep(Duration::from_millis(u64::from(120 + round * 37 % 200)));
        let pid = field(&h, "db", "{{.State.Pid}}");
        // The container, the daemon, or the one right after the other.
        if round % 3 != 1 {
            h.sh(&format!("kill -9 {pid}"));
        }
        if round % 3 != 0 {
            h.stop_daemon("KILL");
            if round % 3 == 1 {
                h.sh(&format!("kill -9 {pid}"));
            }
            h.start_daemon(SAMPAN, &[]);
        }
        let acknowledged = inserts.join().expect("the client's thread");
        assert!(!acknowledged.is_empty(), "round {round}: nothing was written");
        promised.extend(acknowledged);
        eventually("the container's end", SOON, || {
            (field(&h, "db", "{{.State.Running}}") == "false").then_some(())
        });
        h.docker("start db");
        ready(&h);
        let kept = psql(&h, bin, "select n from t").expect("the table");
        let kept: BTreeSet<u32> = kept.lines().filter_map(|l| l.parse().ok()).collect();
        let lost: Vec<_> = promised.difference(&kept).collect();
        assert!(lost.is_empty(), "round {round}: acknowledged and lost: {lost:?}");
    }
    println!("{} rows were acknowledged in {ROUNDS} rounds", promised.len());
    h.docker("rm -f db && docker volume rm pgdata");
}
