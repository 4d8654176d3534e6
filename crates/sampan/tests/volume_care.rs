//! Snapshots, clones, restoring and renaming of volumes with docker's command
//! and ours.

mod common;

use common::{SAMPAN, SOON, crash_and_restart, has, host, host_with};
use sampan_testkit::{Host, eventually};

fn sampan(h: &Host, args: &str) -> String {
    h.sh(&format!("{SAMPAN} {args}"))
}

fn sampan_fails(h: &Host, args: &str) -> String {
    let outcome = h.run(&format!("{SAMPAN} {args}"));
    assert_ne!(outcome.code, 0, "{args} succeeded: {}", outcome.text());
    outcome.errors()
}

fn status(h: &Host, container: &str) -> String {
    h.docker(&format!("inspect -f '{{{{.State.Status}}}}' {container}"))
}

fn read(h: &Host, volume: &str) -> String {
    h.docker(&format!("run --rm --net none -v {volume}:/d:ro busybox cat /d/f"))
}

fn write(h: &Host, volume: &str, text: &str) {
    h.docker(&format!("run --rm --net none -v {volume}:/d busybox sh -c 'echo {text} >/d/f'"));
}

#[test]
fn a_volume_goes_back_to_what_it_was() {
    let Some((_lan, mut h)) = host("a_volume_goes_back_to_what_it_was") else { return };
    h.docker("volume create --label team=blue data");
    write(&h, "data", "first");
    let events = h.sh("date +%s.%N");
    assert_eq!(sampan(&h, "volume snapshot data one"), "data@one");
    write(&h, "data", "second");
    has(&sampan_fails(&h, "volume snapshot data one"), &["snapshot \"one\" already"]);
    let unnamed = sampan(&h, "volume snapshot create data");
    assert!(unnamed.starts_with("data@2"), "{unnamed}");
    assert_eq!(sampan(&h, "volume snapshot ls -q"), format!("data@one\n{unnamed}"));
    has(&sampan(&h, "volume snapshot ls data"), &["VOLUME", "SNAPSHOT", "one", "ago"]);

    assert_eq!(sampan(&h, "volume clone --label team=red data copy"), "copy");
    assert_eq!(sampan(&h, "volume clone data@one old"), "old");
    assert_eq!((read(&h, "copy"), read(&h, "old")), ("second".into(), "first".into()));
    assert_eq!(h.docker("volume inspect -f '{{.Labels.team}}' copy"), "red");
    has(&sampan_fails(&h, "volume clone data copy"), &["there is a volume \"copy\" already"]);
    has(&sampan_fails(&h, "volume clone data@none x1"), &["no such snapshot", "snapshot ls data"]);
    has(&sampan_fails(&h, "volume clone none x1"), &["none: no such volume"]);

    let told = h.docker(&format!(
        "events --since {events} --until {} --filter type=volume --format '{{{{.Action}}}}'",
        h.sh("date +%s.%N")
    ));
    has(&told, &["snapshot", "clone"]);
    h.docker("run -d --name user --net none -v data:/d busybox sleep 1000");
    let said = sampan_fails(&h, "volume restore data@one");
    has(&said, &["mounted by running containers [user]", "stop them first"]);
    has(&sampan_fails(&h, "volume restore data"), &["data@SNAPSHOT"]);
    h.docker("stop -t 0 user");
    sampan(&h, "volume restore data@one");
    assert_eq!(read(&h, "data"), "first");
    crash_and_restart(&mut h);
    h.docker("start user");
    assert_eq!(h.docker("exec user cat /d/f"), "first");
    assert_eq!(sampan(&h, "volume snapshot rm data@one"), "data@one");
    has(&sampan_fails(&h, "volume snapshot rm data@one"), &["no such snapshot"]);
    h.docker("rm -f user");
    h.docker("volume rm data copy old");
    assert_eq!(h.sh("ls -A $HOME/data/volumes"), "");
}

#[test]
fn who_refers_to_a_volume_follows_its_name() {
    let Some((_lan, mut h)) = host("who_refers_to_a_volume_follows_its_name") else { return };
    write(&h, "data", "content");
    h.docker("create --name user --net none -v data:/d --mount type=volume,src=data,dst=/e busybox cat /d/f /e/f");
    h.docker("run -d --name runs --net none -v data:/d busybox sleep 1000");
    let said = sampan_fails(&h, "volume rename data files");
    has(&said, &["rename data", "running containers [runs]"]);
    h.docker("rm -f runs");
    h.docker("volume create other");
    has(&sampan_fails(&h, "volume rename data other"), &["there is a volume \"other\" already"]);
    assert_eq!(sampan(&h, "volume rename data files"), "files");
    assert_eq!(h.docker("volume ls -q"), "files\nother");
    crash_and_restart(&mut h);
    assert_eq!(h.docker("start -a user"), "content\ncontent");
    let mounts =
        h.docker("inspect -f '{{range .Mounts}}{{.Name}} {{end}}{{.HostConfig.Binds}}' user");
    assert_eq!(mounts, "files files [files:/d]");
    let (_, said) = h.docker_fails("volume rm files");
    has(&said, &["in use"]);
}

/// The daemon dies between the two stores.
#[test]
fn a_name_is_given_whole() {
    for point in ["volume-rename:after-record", "volume-rename:after-volume"] {
        let Some((_lan, mut h)) = host("a_name_is_given_whole") else { return };
        write(&h, "data", "content");
        h.docker("create --name user --net none -v data:/d busybox cat /d/f");
        h.stop_daemon("TERM");
        h.start_daemon_with(SAMPAN, &[], &[("SAMPAN_FAULT", point)]);
        sampan_fails(&h, "volume rename data files");
        h.wait_daemon();
        h.start_daemon(SAMPAN, &[]);
        assert_eq!(h.docker("volume ls -q"), "files", "{point}");
        assert_eq!(h.docker("start -a user"), "content", "{point}");
    }
}

#[test]
fn writers_are_held_still_and_let_go() {
    let Some((_lan, mut h)) = host_with("writers_are_held_still_and_let_go", &[]) else { return };
    h.docker("run -d --name writer --net none -v data:/d busybox sleep 1000");
    h.docker("run -d --name reader --net none -v data:/d:ro busybox sleep 1000");
    h.docker(
        "run -d --name hooked --net none -v data:/d --label sampan.volume.freeze.pre='echo pre >>/d/f' \
         --label 'sampan.volume.freeze.post=[\"sh\", \"-c\", \"echo post >>/d/f\"]' busybox sleep 1000",
    );
    let begun = h.sh("date +%s.%N");
    sampan(&h, "volume snapshot --freeze data one");
    let told = h.docker(&format!(
        "events --since {begun} --until {} --filter event=pause --filter event=unpause \
         --format '{{{{.Action}}}} {{{{.Actor.Attributes.name}}}}'",
        h.sh("date +%s.%N")
    ));
    assert_eq!(told, "pause writer\nunpause writer");
    sampan(&h, "volume clone data@one at");
    assert_eq!((read(&h, "at"), read(&h, "data")), ("pre".into(), "pre\npost".into()));

    // A hook that fails stops it all, and everybody goes on.
    h.docker("run -d --name bad --net none -v data:/d --label sampan.volume.freeze.pre='echo no; exit 3' busybox sleep 1000");
    let said = sampan_fails(&h, "volume clone --freeze data never");
    has(&said, &["container bad", "sampan.volume.freeze.pre", "code 3: no"]);
    for name in ["writer", "reader", "hooked", "bad"] {
        assert_eq!(status(&h, name), "running");
    }
    has(&h.docker_fails("volume inspect never").1, &["no such volume"]);
    h.docker("rm -f bad hooked");

    // Whoever its user paused stays so.
    h.docker("pause reader");
    h.docker("run -d --name still --net none -v data:/d busybox sleep 1000");
    h.docker("pause still");
    sampan(&h, "volume snapshot --freeze data two");
    assert_eq!((status(&h, "still"), status(&h, "writer")), ("paused".into(), "running".into()));

    // The daemon dies while somebody is held still: the next one lets go.
    for point in ["freeze:after-record", "freeze:after-hold"] {
        h.stop_daemon("TERM");
        h.start_daemon_with(SAMPAN, &[], &[("SAMPAN_FAULT", point)]);
        sampan_fails(&h, "volume snapshot --freeze data three");
        h.wait_daemon();
        h.start_daemon(SAMPAN, &[]);
        eventually("the writer is let go", SOON, || {
            (status(&h, "writer") == "running").then_some(())
        });
        assert_eq!(h.docker("exec writer echo alive"), "alive");
        assert_eq!(status(&h, "still"), "paused", "{point}");
    }
}

#[test]
fn pruning_says_beforehand_what_it_takes() {
    let Some((_lan, h)) = host("pruning_says_beforehand_what_it_takes") else { return };
    write(&h, "data", "12345");
    h.docker("create --name user --net none -v used:/d busybox true");
    let said = sampan(&h, "volume prune --all --dry-run");
    has(&said, &["WOULD BE REMOVED", "data", "6B", "Would be reclaimed: 6B"]);
    assert!(!said.contains("used"), "{said}");
    assert_eq!(h.docker("volume ls -q"), "data\nused");
    assert_eq!(sampan(&h, "volume prune --dry-run"), "Would be reclaimed: 0B");
    has(&sampan(&h, "volume prune --all --force"), &["Deleted Volumes:\ndata"]);
    assert_eq!(h.docker("volume ls -q"), "used");
}
