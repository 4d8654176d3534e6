//! What is mounted into containers: images, binds, parts of volumes, volumes
//! that several containers share.

mod common;

use common::{SOON, crash_and_restart, field, has, host, host_with};
use sampan_testkit::{Host, add_program, eventually};
use serde_json::json;

/// How many images are mounted on the host.
fn views(h: &Host) -> String {
    h.sh("grep -c /views/ /proc/mounts || true")
}

#[test]
fn an_image_is_mounted_read_only() {
    let Some((_lan, mut h)) = host("an_image_is_mounted_read_only") else { return };
    h.sh("mkdir -p $HOME/f/sub && echo one >$HOME/f/a && echo two >$HOME/f/sub/b && \
          ln -s /etc $HOME/f/evil && tar -C $HOME/f -c . | docker import - files:latest");
    assert_eq!(
        h.docker("run --rm --mount type=image,src=files,dst=/m busybox cat /m/a /m/sub/b"),
        "one\ntwo"
    );
    assert_eq!(
        h.docker("run --rm --mount type=image,src=files,dst=/m,image-subpath=sub busybox ls /m"),
        "b"
    );
    has(
        &h.docker_fails("run --rm --mount type=image,src=files,dst=/m busybox touch /m/c").1,
        &["Read-only file system"],
    );
    has(
        &h.docker_fails(
            "run --rm --mount type=image,src=files,dst=/m,image-subpath=evil busybox true",
        )
        .1,
        &["evil"],
    );
    has(
        &h.docker_fails("run --rm --mount type=image,src=gone,dst=/m busybox true").1,
        &["No such image: gone"],
    );
    assert_eq!(views(&h), "0", "no mount is left");

    h.docker("run -d --name mm --mount type=image,src=files,dst=/m busybox sleep 1000");
    let mounts = &h.inspect("mm")["Mounts"];
    let expected = [("Type", json!("image")), ("Name", json!("files")), ("RW", json!(false))];
    for (key, value) in expected {
        assert_eq!(mounts[0][key], value, "{mounts}");
    }
    has(&h.docker_fails("rmi files").1, &["using", &field(&h, "mm", "{{.Id}}")[..12]]);
    // Its name can go, its files stay for as long as the container.
    h.docker("rmi -f files");
    crash_and_restart(&mut h);
    assert_eq!(h.docker("exec mm cat /m/a"), "one");
    h.docker("restart -t 0 mm");
    assert_eq!(h.docker("exec mm cat /m/a"), "one");
    assert_eq!(h.docker("run --rm --volumes-from mm busybox cat /m/a"), "one");
    h.docker("stop -t 0 mm");
    assert_eq!(views(&h), "0");
    assert_eq!(h.docker("cp mm:/m/sub/b - | tar -xO"), "two");
    eventually("the end of the copy's mount", SOON, || (views(&h) == "0").then_some(()));
    h.docker("rm mm");
    assert_eq!(h.sh("ls -d $HOME/data/overlay/*/views 2>/dev/null | wc -l"), "0");
}

#[test]
fn missing_sources_are_refused_when_that_is_wished() {
    let test = "missing_sources_are_refused_when_that_is_wished";
    let Some((_lan, h)) = host_with(test, &["--strict-binds"]) else { return };
    let (_, said) = h.docker_fails("run --rm -v /run/nowhere:/x busybox true");
    has(&said, &["bind source path does not exist: /run/nowhere"]);
    assert_eq!(h.run("ls /run/nowhere").code, 2, "nothing was made");
    h.sh("mkdir /run/here");
    h.docker("run --rm -v /run/here:/x busybox true");
}

#[test]
fn a_part_of_a_volume_does_not_lead_out_of_it() {
    let Some((_lan, h)) = host("a_part_of_a_volume_does_not_lead_out_of_it") else { return };
    h.docker(
        "run --rm -v vol:/v busybox sh -c \
         'mkdir -p /v/in/deep; echo it >/v/in/deep/f; ln -s /etc /v/out; ln -s /in/deep /v/alias'",
    );
    let part = |path: &str| {
        format!("run --rm --mount type=volume,src=vol,dst=/x,volume-subpath={path} busybox ls /x")
    };
    assert_eq!(h.docker(&part("in/deep")), "f");
    assert_eq!(h.docker(&part("alias")), "f", "links are followed within the volume");
    has(&h.docker_fails(&part("out")).1, &["cannot access path", "out"]);
    has(&h.docker_fails(&part("../x")).1, &["subpath must be a relative path within the volume"]);
    has(&h.docker_fails(&part("none")).1, &["cannot access path", "none"]);
}

/// Mount points within the container that are links stay in the container.
#[test]
fn a_place_that_is_a_link_stays_in_the_container() {
    let Some((_lan, h)) = host("a_place_that_is_a_link_stays_in_the_container") else { return };
    h.sh("mkdir -p $HOME/f/run/target /run/target && ln -s /run/target $HOME/f/link && \
          cp -a $HOME/rootfs/bin $HOME/f/ && tar -C $HOME/f -c . | docker import - linked");
    assert_eq!(
        h.docker(
            "run --rm -v vol:/link/x linked /bin/sh -c 'echo y >/link/x/f; cat /run/target/x/f'"
        ),
        "y"
    );
    assert_eq!(h.sh("ls /run/target"), "", "nothing was made on the host");
}

#[test]
fn a_shared_volume_excludes_renames_and_shows_at_once() {
    let test = "a_shared_volume_excludes_renames_and_shows_at_once";
    let Some((_lan, h)) = host(test) else { return };
    add_program(&h.dir().join("rootfs"), "flock").expect("util-linux has flock");
    h.sh("tar -C $HOME/rootfs -c . | docker import -c 'CMD [\"sh\"]' - withflock");
    h.docker("run -d --name aa -v vol:/v withflock sleep 1000");
    h.docker("run -d --name bb -v vol:/v withflock sleep 1000");
    // Whoever has the lock adds one, twenty times in each.
    h.sh("docker exec aa sh -c 'echo 0 >/v/n'; \
          for c in aa bb; do docker exec $c sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 \
          11 12 13 14 15 16 17 18 19 20; do flock /v/lock sh -c \
          \"n=\\$(cat /v/n); sleep 0.01; echo \\$((n + 1)) >/v/n\"; done' & done; wait");
    assert_eq!(h.docker("exec aa cat /v/n"), "40", "a lock in one excludes the other");
    h.docker("exec -d aa flock /v/lock sleep 1000");
    let refused = || h.run("docker exec bb flock -n /v/lock true").code == 1;
    eventually("the lock of the other container", SOON, || refused().then_some(()));
    // A reader sees the old file or the new one, never a part.
    h.sh("docker exec aa sh -c 'yes old | head -c 100000 >/v/f'");
    h.docker("exec -d aa sh -c 'while :; do yes old | head -c 100000 >/v/t && mv /v/t /v/f; done'");
    let sizes = h.docker("exec bb sh -c 'for i in $(seq 200); do wc -c </v/f; done | sort -u'");
    assert_eq!(sizes, "100000");
    for text in ["one", "two", "three"] {
        h.docker(&format!("exec aa sh -c 'echo {text} >/v/seen'"));
        assert_eq!(h.docker("exec bb cat /v/seen"), text);
    }
}

#[test]
fn files_have_the_owners_that_the_container_wants() {
    let Some((_lan, mut h)) = host("files_have_the_owners_that_the_container_wants") else {
        return;
    };
    // A project of user 1000 is root's inside, and what root makes is 1000's.
    h.sh("mkdir -p $HOME/p/sub && echo x > $HOME/p/sub/f && echo r > $HOME/p/root && \
          chown -R 1000:1000 $HOME/p && chown 0:0 $HOME/p/root");
    let bind = format!("-v {}/p:/p:idmap=1000", h.sh("echo $HOME"));
    assert_eq!(
        h.docker(&format!("run --rm {bind} busybox stat -c %u.%g /p /p/sub/f /p/root")),
        "0.0\n0.0\n65534.65534"
    );
    h.docker(&format!(
        "run --rm {bind} busybox sh -c 'echo new > /p/sub/new; chown 33:33 /p/sub/f'"
    ));
    assert_eq!(h.sh("stat -c %u.%g $HOME/p/sub/new $HOME/p/sub/f"), "1000.1000\n33.33");
    // A volume that root owns is the user's whom the container runs as.
    h.docker("run -d --name db --user 999:998 -v data:/data:idmap=0-999.998 busybox sleep 1000");
    h.docker("exec db sh -c 'echo mine > /data/f && mkdir /data/d'");
    assert_eq!(h.docker("exec db stat -c %u.%g /data /data/f"), "999.998\n999.998");
    assert_eq!(
        h.docker("run --rm -v data:/data busybox stat -c %u.%g /data/f /data/d"),
        "0.0\n0.0"
    );
    assert_eq!(field(&h, "db", "{{(index .Mounts 0).Mode}}"), "idmap=0-999.998");
    // A single file, read-only, and another's volumes.
    let file = format!("-v {}/p/sub/new:/n:ro,idmap=1000-7.8", h.sh("echo $HOME"));
    assert_eq!(h.docker(&format!("run --rm {file} busybox stat -c %u.%g /n")), "7.8");
    has(&h.docker_fails(&format!("run --rm {file} busybox touch /n")).1, &["Read-only"]);
    let seen = h.docker(
        "run --rm --user 999:998 --volumes-from db busybox sh -c 'touch /data/g; ls /data'",
    );
    assert_eq!(seen, "d\nf\ng");

    crash_and_restart(&mut h);
    h.docker("exec db touch /data/after");
    h.docker("restart -t 0 db");
    assert_eq!(h.docker("exec db stat -c %u.%g /data/after"), "999.998");
    assert_eq!(h.sh("grep -c /owners/ /proc/mounts || true"), "1");
    h.docker("rm -f db");
    assert_eq!(h.sh("grep -c /owners/ /proc/mounts || true"), "0", "a mount is left");
    has(&h.docker_fails("create -v data:/d:idmap=x busybox").1, &["invalid mode", "idmap=x"]);
    let no = h.docker_fails("run --rm -v /proc:/q:idmap=1000 busybox true").1;
    has(&no, &["/proc", "can't show other owners", "leave idmap out"]);
}

#[test]
fn files_are_copied_with_the_owners_that_the_container_sees() {
    let test = "files_are_copied_with_the_owners_that_the_container_sees";
    let Some((_lan, mut h)) = host(test) else { return };
    h.docker("create --name db --user 999:998 -v data:/data:idmap=0-999.998 busybox sleep 1000");
    h.sh("mkdir $HOME/in && echo x >$HOME/in/root && cp $HOME/in/root $HOME/in/other && \
          ln -s root $HOME/in/link && chown 33:34 $HOME/in/other");
    let bind = format!("-v {}/p:/p:idmap=1000", h.sh("echo $HOME"));
    h.sh("mkdir -p $HOME/p/sub && echo f >$HOME/p/sub/f && chown -R 1000:1000 $HOME/p");
    h.docker(&format!(
        "create --name dev {bind} -v $HOME/p/sub/f:/one:idmap=1000 busybox sleep 1000"
    ));
    let owners = |files: &str| h.sh(&format!("cd $HOME && stat -c %u.%g {files} | xargs"));
    let listed = |from: &str| {
        h.sh(&format!(
            "docker cp {from} - | tar tv --numeric-owner | awk '{{print $6,$2}}' | sort | xargs"
        ))
    };
    for state in ["stopped", "running"] {
        if state == "running" {
            h.docker("start db dev");
        }
        // What is root's here is the user's there; others keep their owners.
        h.sh("rm -rf $HOME/data/volumes/data/_data/*");
        h.docker("cp $HOME/in db:/data/d");
        let source = "data/volumes/data/_data";
        let files = ["d", "d/root", "d/other", "d/link"].map(|f| format!("{source}/{f}"));
        assert_eq!(owners(&files.join(" ")), "0.0 0.0 33.34 0.0", "{state}");
        assert_eq!(
            listed("db:/data/d"),
            "d/ 999/998 d/link 999/998 d/other 33/34 d/root 999/998",
            "{state}"
        );
        // All of it is the container's user's.
        h.docker("cp -a $HOME/in db:/data/a");
        let files = ["a", "a/root", "a/other"].map(|f| format!("{source}/{f}"));
        assert_eq!(owners(&files.join(" ")), "0.0 0.0 0.0", "{state}");
        // A project of user 1000 is root's inside, in both directions.
        assert_eq!(listed("dev:/p/sub/f"), "f 0/0", "{state}");
        assert_eq!(listed("dev:/p/sub"), "sub/ 0/0 sub/f 0/0", "{state}");
        h.sh("tar -C $HOME/in --owner 1000 --group 1000 --numeric-owner -c root | docker cp -a - dev:/p/sub");
        h.docker("cp $HOME/in/other dev:/p/sub/");
        assert_eq!(owners("p/sub/root p/sub/other"), "1000.1000 33.34", "{state}");
        h.sh("docker cp dev:/p/sub/f $HOME/out && rm $HOME/p/sub/root $HOME/p/sub/other");
        h.sh("rm -rf $HOME/back && docker cp -a dev:/p/sub $HOME/back");
        assert_eq!(owners("out back/f"), "0.0 0.0", "{state}");
    }
    assert_eq!(h.docker("exec db stat -c %u.%g /data/d/root"), "999.998");
    // Its name there is not its name here.
    h.docker("stop -t 0 db dev");
    let named = h.docker_fails("cp dev:/one $HOME/one").1;
    has(&named, &["single file", "start the container"]);
    assert_eq!(h.sh("grep -c /owners/ /proc/mounts || true"), "0", "a mount is left");
    crash_and_restart(&mut h);
    h.docker("start db");
    h.docker("rm -f db dev");
    h.docker("volume rm data");
}

/// What findmnt calls the propagation of a mount in a container.
fn propagation(h: &Host, container: &str, target: &str) -> String {
    let line = h.docker(&format!(
        "exec {container} awk '$5 == \"{target}\" {{print $7, $8}}' /proc/self/mountinfo"
    ));
    let kinds = [("shared:", "shared"), ("master:", "slave")];
    let kinds = kinds.iter().filter(|(field, _)| line.contains(field)).map(|(_, kind)| *kind);
    kinds.collect::<Vec<_>>().join(",")
}

#[test]
fn each_bind_spreads_mounts_as_it_was_asked_to() {
    let Some((_lan, mut h)) = host("each_bind_spreads_mounts_as_it_was_asked_to") else { return };
    h.sh("for m in shared slave private; do mkdir -p $HOME/$m && mount -t tmpfs top $HOME/$m && \
          mkdir $HOME/$m/sub && mount -t tmpfs sub $HOME/$m/sub && mount --make-rshared $HOME/$m && \
          mkdir $HOME/$m/host $HOME/$m/sub/host $HOME/$m/inside && touch $HOME/$m/file; done");
    let hosts = "grep -E 'cgroup|/vol ' /proc/self/mountinfo";
    let before = h.sh(hosts);
    let options = "--privileged -v $HOME/shared:/shared:rshared -v $HOME/slave:/slave:rslave \
        -v $HOME/private:/private -v $HOME/shared:/look:ro,slave -v $HOME/slave/file:/file:rslave \
        -v vol:/shared/vol -v vol:/private/vol --tmpfs /slave/tmp";
    h.docker(&format!("run -d --name cc {options} busybox sleep 1000"));
    assert_eq!(h.sh(hosts), before, "what is mounted for the container is its own");
    for (target, kind) in [
        ("/", ""),
        ("/dev", ""),
        ("/shared", "shared"),
        ("/shared/sub", "shared"),
        ("/shared/vol", ""),
        ("/slave", "slave"),
        ("/slave/sub", "slave"),
        ("/slave/tmp", ""),
        ("/private", ""),
        ("/private/sub", ""),
        ("/private/vol", ""),
        ("/look", "slave"),
        ("/file", "slave"),
    ] {
        assert_eq!(propagation(&h, "cc", target), kind, "{target}");
    }
    // From the host into the container.
    h.sh("for m in shared slave private; do for at in host sub/host; do \
          mount -t tmpfs from-host $HOME/$m/$at; done; done");
    let inside = h.docker("exec cc awk '$1 == \"from-host\" {print $2}' /proc/mounts");
    let mut inside: Vec<&str> = inside.lines().collect();
    inside.sort_unstable();
    let expected = [
        "/look/host",
        "/look/sub/host",
        "/shared/host",
        "/shared/sub/host",
        "/slave/host",
        "/slave/sub/host",
    ];
    assert_eq!(inside, expected);
    // From the container to the host.
    for at in ["/shared/inside", "/slave/inside", "/private/inside", "/mnt"] {
        h.docker(&format!("exec cc sh -c 'mkdir -p {at} && mount -t tmpfs from-inside {at}'"));
    }
    let outside = "awk '$1 == \"from-inside\" {print $2}' /proc/mounts";
    let home = h.sh("echo $HOME");
    assert_eq!(h.sh(outside), format!("{home}/shared/inside"));
    has(&h.docker_fails("exec cc touch /look/x").1, &["Read-only"]);
    crash_and_restart(&mut h);
    h.docker("exec cc umount /shared/inside");
    assert_eq!(h.sh(outside), "");
    h.docker("restart -t 0 cc");
    assert_eq!(propagation(&h, "cc", "/shared"), "shared");
    h.docker("rm -f cc");
    assert_eq!(h.sh(hosts), before);
    // What has nobody to share with is refused, as by dockerd.
    h.sh(
        "mkdir $HOME/alone && mount -t tmpfs alone $HOME/alone && mount --make-private $HOME/alone",
    );
    for (option, text) in
        [("rshared", "not a shared mount"), ("slave", "not a shared or slave mount")]
    {
        let refused =
            h.docker_fails(&format!("run --rm -v $HOME/alone:/x:{option} busybox true")).1;
        has(&refused, &["alone is mounted on", text]);
    }
    h.docker("run --rm -v $HOME/alone:/x:rprivate busybox true");
    h.sh("for m in shared slave private alone; do umount -R $HOME/$m; done");
}

#[test]
fn a_directory_of_the_host_is_a_containers_dev() {
    let Some((_lan, h)) = host("a_directory_of_the_host_is_a_containers_dev") else { return };
    // One with a device that no container has by itself.
    h.sh("mkdir -p $HOME/dev && mknod $HOME/dev/own c 1 5 && mknod -m 666 $HOME/dev/null c 1 3");
    let listed = h.sh("ls -A $HOME/dev");
    let run = |options: &str, command: &str| {
        h.docker(&format!("run --rm {options} -v $HOME/dev:/dev busybox {command}"))
    };
    assert_eq!(run("", "ls -A /dev"), listed);
    assert_eq!(run("--privileged", "head -c 2 /dev/own | wc -c"), "2");
    run("", "touch /dev/made");
    h.sh("rm $HOME/dev/made");
    assert_eq!(h.sh("ls -A $HOME/dev"), listed, "nothing else was made in it");
    let read_only = "run --rm -v $HOME/dev:/dev:ro busybox touch /dev/made";
    has(&h.docker_fails(read_only).1, &["Read-only"]);
    let below = "run --rm -v $HOME/dev:/dev -v $HOME:/dev/home busybox true";
    has(&h.docker_fails(below).1, &["/dev/home", "below a bind at /dev", "--runtime runc"]);
    // The host's, with its terminals.
    let of_host =
        h.sh("ls -d /dev/null /dev/pts/ptmx /dev/kmsg /dev/loop-control 2>/dev/null || true");
    let all = of_host.replace('\n', " ");
    assert_eq!(h.docker(&format!("run --rm -v /dev:/dev busybox ls -d {all}")), of_host);
    let terminal = h.docker("run --rm -t -v /dev:/dev busybox sh -c 'tty && test -c $(tty)'");
    has(&terminal, &["/dev/pts/"]);
    h.docker("run -d --name dd -v /dev:/dev busybox sleep 1000");
    has(&h.docker("exec -t dd sh -c 'tty && test -c $(tty)'"), &["/dev/pts/"]);
    h.docker("restart -t 0 dd");
    h.docker("exec dd sh -c 'echo gone >/dev/null'");
    h.docker("rm -f dd");
    assert_eq!(h.docker("diff $(docker create --name ee -v /dev:/dev busybox)"), "");
}
