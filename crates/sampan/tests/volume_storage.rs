//! Volumes with a limit, an owner or a key, as users of the docker command see
//! them, also after the daemon was killed.

mod common;

use common::{SAMPAN, SOON, crash_and_restart, has, host};
use sampan_testkit::{Host, eventually};
use serde_json::Value;

/// Files of this host that are block devices.
fn devices(h: &Host) -> String {
    let root = h.data_root();
    h.sh(&format!("cat /sys/block/loop*/loop/backing_file | grep -c {} || true", root.display()))
}

/// What is mounted below the volumes' directory.
fn mounts(h: &Host) -> String {
    // Namespaces begin with copies of what others have mounted.
    h.sh(&format!("grep -c {}/volumes/ /proc/mounts || true", h.data_root().display()))
}

fn volume(h: &Host, name: &str) -> Value {
    let text = h.docker(&format!("volume inspect {name}"));
    serde_json::from_str::<Value>(&text).unwrap_or_default()[0].take()
}

/// Nothing of this host's volumes is mounted or a device any more.
fn is_clean(h: &Host) {
    eventually("the end of mounts and devices", SOON, || {
        (mounts(h) == "0" && devices(h) == "0").then_some(())
    });
}

#[test]
fn a_volume_with_a_size_is_full_inside_alone() {
    let Some((_lan, mut h)) = host("a_volume_with_a_size_is_full_inside_alone") else { return };
    h.docker("volume create -o size=24m -o uid=1000 -o mode=0770 box1");
    has(&h.docker_fails("volume create -o size=huge bad1").1, &["size=huge", "500m or 10g"]);
    has(&h.docker_fails("volume create -o uid=me bad1").1, &["uid=me", "must be a number"]);
    h.docker("run -d --name c1 -v box1:/data busybox sleep 1000");
    assert_eq!(h.docker("exec c1 stat -c '%u %a' /data"), "1000 770");
    let full = h.docker_fails("exec c1 dd if=/dev/zero of=/data/f bs=1M count=60").1;
    assert!(full.contains("No space left") || full.contains("quota exceeded"), "{full}");
    h.docker("run --rm busybox dd if=/dev/zero of=/f bs=1M count=60");

    let shown = volume(&h, "box1");
    assert_eq!(shown["Status"]["limit"], 24 << 20, "{shown}");
    assert!(shown["Status"]["used"].as_u64().is_some_and(|b| b > 10 << 20), "{shown}");
    has(&h.docker("system df -v"), &["box1", "MB"]);

    // The daemon dies, the container goes on.
    crash_and_restart(&mut h);
    h.docker("exec c1 sh -c 'rm /data/f && echo kept >/data/g'");
    h.docker("exec c1 dd if=/dev/zero of=/data/f bs=1M count=10");
    let smaller = h.run(&format!("{SAMPAN} volume resize box1 1m; sync"));
    assert_eq!(volume(&h, "box1")["Options"]["size"], "24m", "{}", smaller.errors());
    assert!(smaller.errors().contains("resize box1: it "), "{}", smaller.errors());
    let grown = h.run(&format!("{SAMPAN} volume resize box1 64m"));
    if grown.code != 0 {
        has(&grown.errors(), &["CAP_SYS_RESOURCE"]);
        h.docker("restart -t 0 c1");
    }
    assert_eq!(volume(&h, "box1")["Options"]["size"], "64m");
    h.docker("exec c1 dd if=/dev/zero of=/data/f bs=1M count=40");
    assert_eq!(h.docker("exec c1 cat /data/g"), "kept");
    h.docker("rm -f c1");
    assert_eq!(h.docker("run --rm -v box1:/data busybox cat /data/g"), "kept");
    h.docker("volume rm box1");
    is_clean(&h);
}

#[test]
fn an_encrypted_volume_is_closed_while_nobody_uses_it() {
    let test = "an_encrypted_volume_is_closed_while_nobody_uses_it";
    let Some((_lan, mut h)) = host(test) else { return };
    h.sh("echo 'a secret of the test' >$HOME/key && chmod 600 $HOME/key");
    let key = h.sh("echo $HOME/key");
    h.docker(&format!("volume create -o encrypted=true -o size=40m -o key-file={key} vault"));
    h.docker(
        "volume create -o encrypted=true -o passphrase-command='echo hunter2' -o size=40m cmd",
    );
    let shown = volume(&h, "cmd").to_string();
    assert!(shown.contains("********") && !shown.contains("hunter2"), "{shown}");
    has(&h.docker_fails("volume create -o encrypted=true none").1, &["key-file=PATH"]);
    let by = |layer: &str| format!("volume create -o encrypted={layer} -o key-file={key} none");
    has(&h.docker_fails(&by("luks")).1, &["encrypted=luks", "fscrypt or dm-crypt"]);
    let status = "volume inspect -f '{{.Status.encryption}}'";
    assert_eq!(h.docker(&format!("{status} vault")), "fscrypt");
    if !std::path::Path::new("/sys/class/misc/device-mapper").exists() {
        has(&h.docker_fails(&by("dm-crypt")).1, &["encrypted=dm-crypt", "CONFIG_DM_CRYPT"]);
    }

    h.docker("run --rm -v vault:/v -v cmd:/w busybox sh -c 'echo diary >/v/d; echo note >/w/n'");
    is_clean(&h);
    h.sh("! grep -q diary $HOME/data/volumes/vault/content.img");
    h.sh(&format!("echo wrong >{key}"));
    let refused = h.docker_fails("run --rm -v vault:/v busybox cat /v/d").1;
    has(&refused, &["wrong passphrase or key for volume vault"]);
    is_clean(&h);
    h.sh(&format!("echo 'a secret of the test' >{key}"));

    h.docker("run -d --name c1 -v vault:/v -v cmd:/w busybox sleep 1000");
    // It is open, and stays so without the key and without the daemon.
    h.sh(&format!("rm {key}"));
    crash_and_restart(&mut h);
    assert_eq!(h.docker("exec c1 cat /v/d /w/n"), "diary\nnote");
    h.docker("rm -f c1");
    is_clean(&h);
    assert_eq!(h.sh("grep -c -e hunter2 -e 'secret of' $HOME/daemon.log || true"), "0");
    assert_eq!(h.sh("grep -rlc 'secret of' $HOME/data | wc -l"), "0");
    h.docker("volume rm vault cmd");
    assert_eq!(h.sh("ls -A $HOME/data/volumes | wc -l"), "0");
}

#[test]
fn a_daemon_that_comes_back_takes_away_what_nobody_uses() {
    let test = "a_daemon_that_comes_back_takes_away_what_nobody_uses";
    let Some((_lan, mut h)) = host(test) else { return };
    h.docker("volume create -o size=24m box1");
    h.docker("run -d --name c1 -v box1:/data busybox sleep 1000");
    assert_eq!((mounts(&h).as_str(), devices(&h).as_str()), ("1", "1"));
    let pid = common::field(&h, "c1", "{{.State.Pid}}");
    h.stop_daemon("KILL");
    h.sh(&format!("kill -9 {pid}"));
    h.start_daemon(SAMPAN, &[]);
    is_clean(&h);
    h.docker("start c1");
    h.docker("exec c1 touch /data/x");
    h.docker("rm -f c1");
    h.docker("volume rm box1");
    is_clean(&h);
}
