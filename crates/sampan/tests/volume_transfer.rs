//! Volumes that move between two daemons: `sampan volume send | receive`.

mod common;

use common::{SAMPAN, crash_and_restart, has};
use sampan_testkit::{Host, Lan};

/// Two hosts, each with a daemon and the image.
fn two(test: &str) -> Option<(Lan, Host, Host)> {
    let lan = Lan::new_or_skip(test)?;
    let start = |name| {
        let mut host = lan.host(name);
        host.start_daemon(SAMPAN, &[]);
        host.import_busybox();
        host
    };
    let (a, b) = (start("a1"), start("b1"));
    Some((lan, a, b))
}

fn volume(h: &Host, args: &str) -> String {
    h.sh(&format!("{SAMPAN} volume {args}"))
}

fn fails(h: &Host, args: &str) -> String {
    let outcome = h.run(&format!("{SAMPAN} volume {args}"));
    assert_ne!(outcome.code, 0, "{args} succeeded: {}", outcome.text());
    outcome.errors()
}

fn run(h: &Host, name: &str, command: &str) -> String {
    h.docker(&format!("run --rm --net none -v {name}:/d busybox sh -c '{command}'"))
}

/// What is the same on both sides: names, owners, modes, sizes, content.
fn content(h: &Host, name: &str) -> String {
    run(
        h,
        name,
        "cd /d; find . | sort | xargs stat -c \"%n %a %u:%g %s %h %Y\"; find . -type f | sort | xargs md5sum",
    )
}

#[test]
fn a_volume_moves_and_its_changes_follow() {
    let Some((_lan, mut a, mut b)) = two("a_volume_moves_and_its_changes_follow") else { return };
    a.docker("volume create --label team=blue data");
    run(
        &a,
        "data",
        "mkdir /d/sub; echo one >/d/sub/f; ln /d/sub/f /d/g; chown 70:71 /d/g; chmod 640 /d/g; \
         dd if=/dev/urandom of=/d/large bs=1M count=8 2>/dev/null; mkfifo /d/p; ln -s nowhere /d/l; sleep 0.1",
    );
    // Both daemons see the file: they share the machine's file systems.
    let file = a.dir().join("stream").display().to_string();
    let stream = || std::fs::read(&file).unwrap().len();
    let events = b.sh("date +%s");
    volume(&a, &format!("send -o {file} data"));
    assert!(stream() > 8 << 20);
    assert_eq!(volume(&b, &format!("receive <{file}")), "data");
    assert_eq!(content(&a, "data"), content(&b, "data"));
    assert_eq!(b.docker("volume inspect -f '{{.Labels.team}}' data"), "blue");
    has(&fails(&b, &format!("receive <{file}")), &["there is a volume of this name", "--replace"]);

    // What changed, also after both daemons died.
    run(
        &a,
        "data",
        "echo two >/d/new; rm /d/p; echo x | dd of=/d/large bs=1M seek=3 conv=notrunc 2>/dev/null; sleep 0.1",
    );
    crash_and_restart(&mut a);
    crash_and_restart(&mut b);
    volume(&a, &format!("send data >{file}"));
    assert!(stream() < (1 << 20) + 8192, "{} bytes", stream());
    b.docker("run -d --name user --net none -v data:/d:ro busybox sleep 1000");
    has(&fails(&b, &format!("receive <{file}")), &["running containers [user]", "stop them"]);
    b.docker("rm -f user");
    assert_eq!(volume(&b, &format!("receive data <{file}")), "data");
    assert_eq!(content(&a, "data"), content(&b, "data"));

    // A stream that does not fit is refused, with the way out.
    has(&fails(&b, &format!("receive <{file}")), &["send --full", "--since"]);
    has(&fails(&b, &format!("receive other <{file}")), &["no volume \"other\"", "send --full"]);
    has(&fails(&a, "send --since 0123 data"), &["names no stream"]);
    has(&fails(&a, "send nothing"), &["nothing: no such volume"]);
    has(&fails(&b, "receive </etc/passwd"), &["not a stream of a volume"]);
    run(&b, "data", "echo here >/d/new");
    volume(&a, &format!("send data >{file}"));
    has(&fails(&b, &format!("receive <{file}")), &["was changed here", "--replace"]);
    volume(&a, &format!("send --full data >{file}"));
    assert_eq!(volume(&b, &format!("receive --replace <{file}")), "data");
    assert_eq!(content(&a, "data"), content(&b, "data"));
    let cut = format!("{file}.cut");
    b.sh(&format!("head -c 4000000 {file} >{cut}"));
    has(&fails(&b, &format!("receive cut <{cut}")), &["damaged", "ends in the middle"]);
    assert_eq!(b.docker("volume ls -q"), "data");
    assert_eq!(b.sh("ls -A $HOME/data/volumes"), "data");
    let told = b.docker(&format!(
        "events --since {events} --until {} --filter type=volume --format '{{{{.Action}}}}'",
        b.sh("date +%s")
    ));
    // Those before the daemon died are gone with it.
    has(&told, &["receive"]);
}

#[test]
fn snapshots_are_sent_and_writers_are_held() {
    let Some((_lan, a, b)) = two("snapshots_are_sent_and_writers_are_held") else { return };
    run(&a, "data", "echo first >/d/f");
    volume(&a, "snapshot data one");
    run(&a, "data", "echo second >/d/f");
    let file = a.dir().join("stream").display().to_string();
    volume(&a, &format!("send data@one >{file}"));
    assert_eq!(volume(&b, &format!("receive --label from=a old <{file}")), "old");
    assert_eq!(run(&b, "old", "cat /d/f"), "first");
    assert_eq!(b.docker("volume inspect -f '{{.Labels.from}}' old"), "a");

    let hooks = "--label 'sampan.volume.freeze.pre=echo held >/d/held' \
                 --label 'sampan.volume.freeze.post=rm /d/held'";
    a.docker(&format!("run -d --name db --net none {hooks} -v data:/d busybox sleep 1000"));
    volume(&a, &format!("send --full --freeze data >{file}"));
    assert_eq!(a.docker("exec db ls /d"), "f");
    assert_eq!(volume(&b, &format!("receive <{file}")), "data");
    assert_eq!(run(&b, "data", "cat /d/held /d/f"), "held\nsecond");
    a.docker("rm -f db");
}
