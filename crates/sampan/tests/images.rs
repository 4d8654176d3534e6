//! Images: made, moved, tagged, removed, and hostile ones refused.

mod common;

use common::{has, host};

#[test]
fn save_load_commit_and_tags() {
    let Some((_lan, h)) = host("save_load_commit_and_tags") else { return };
    h.docker("tag busybox:latest mine:1");
    h.sh("docker save mine:1 > /run/mine.tar && docker rmi mine:1 && docker load < /run/mine.tar");
    assert_eq!(h.docker("run --rm mine:1 echo ok"), "ok");
    h.docker("run --name cc busybox sh -c 'echo kept > /kept; rm /bin/vi'");
    let id = h.docker("commit -a me -m why -c 'ENV X=1' -c 'CMD [\"cat\",\"/kept\"]' cc kept:1");
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(h.docker("run --rm kept:1"), "kept");
    assert_eq!(
        h.docker(
            "run --rm kept:1 sh -c 'echo $X; ls /bin/vi 2>&1 | wc -l; test -e /bin/vi || echo gone'"
        ),
        "1\n1\ngone"
    );
    has(&h.docker("history kept:1"), &["why"]);
    has(
        &h.docker("inspect -f '{{.Author}} {{.Os}} {{.Architecture}}' kept:1"),
        &["me linux amd64"],
    );
    h.docker("rmi kept:1 mine:1");
    // The last name of an image that a container was made from.
    has(&h.docker_fails("rmi busybox").1, &["conflict", "container"]);
    h.docker("rm cc");
    assert_eq!(h.docker("images -q | sort -u").lines().count(), 1);
    has(&h.docker_fails("rmi nosuch").1, &["no such image"]);
    has(&h.docker_fails("tag busybox UPPER").1, &["invalid", "lowercase"]);
    // A saved image of several layers comes back whole on an empty engine.
    h.docker("run --name c2 busybox touch /second");
    h.docker("commit c2 two:1");
    h.sh("docker save two:1 busybox:latest > /run/two.tar; docker rm c2; docker rmi two:1 busybox:latest");
    assert_eq!(h.docker("images -q"), "");
    h.sh("docker load -i /run/two.tar");
    assert_eq!(h.docker("run --rm two:1 ls /second"), "/second");
}

#[test]
fn import_export_and_prune() {
    let Some((_lan, h)) = host("import_export_and_prune") else { return };
    h.docker("run --name ex busybox sh -c 'echo x > /x; chown 7:8 /x; chmod 4711 /x; ln /x /y; ln -s /x /z'");
    h.sh("docker export ex | docker import - flat:1");
    assert_eq!(h.docker("run --rm flat:1 stat -c '%u:%g %a %h' /x /y | sort -u"), "7:8 4711 2");
    assert_eq!(h.docker("run --rm flat:1 readlink /z"), "/x");
    h.sh("docker export ex | docker import - flat:1");
    assert_eq!(h.docker("images -f dangling=true -q").lines().count(), 1);
    h.docker("image prune -f");
    assert_eq!(h.docker("images -f dangling=true -q"), "");
    has(&h.docker("system df"), &["Images", "Containers", "Local Volumes"]);
    h.docker("rm ex");
    h.docker("image prune -af");
    assert_eq!(h.docker("images -q"), "");
}

#[test]
fn broken_and_hostile_archives_leave_nothing() {
    let Some((_lan, h)) = host("broken_and_hostile_archives_leave_nothing") else { return };
    let before = h.docker("images -q");
    has(&h.docker_fails("load -i /etc/passwd").1, &["error"]);
    h.sh("docker save busybox > /run/good.tar; head -c 300000 /run/good.tar > /run/torn.tar");
    h.docker_fails("load -i /run/torn.tar");
    // A layer that writes above its root, and one that writes through a link.
    h.sh("mkdir -p /run/e && cd /run/e && echo x > evil && tar -cPf up.tar --transform 's,^evil,../../../../../run/escaped,' evil");
    h.run("docker import /run/e/up.tar up:1");
    assert_ne!(h.run("test -e /run/escaped").code, 0, "the archive escaped");
    h.sh("cd /run/e && mkdir -p a b && ln -s /run b/link && mkdir -p a/link && echo x > a/link/escaped2 && tar -C b -cf th.tar link && tar -C a --append -f th.tar link/escaped2");
    h.run("docker import /run/e/th.tar th:1");
    assert_ne!(h.run("test -e /run/escaped2").code, 0, "the archive wrote through a link");
    h.run("docker rmi -f up:1 th:1");
    assert_eq!(h.docker("images -q"), before);
    // Nothing half-made stays behind.
    let ingest = h.data_root().join("image/ingest");
    let left = std::fs::read_dir(ingest).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[test]
fn a_registry_on_loopback() {
    let missing = sampan_testkit::missing_programs(&["docker-registry"]);
    if !missing.is_empty() {
        sampan_testkit::skip("a_registry_on_loopback", "docker-registry is not installed");
        return;
    }
    let Some((_lan, h)) = host("a_registry_on_loopback") else { return };
    h.sh("mkdir -p /run/reg && printf 'version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /run/reg\nhttp:\n  addr: 127.0.0.1:5000\n' > /run/reg.yml");
    h.sh("setsid docker-registry serve /run/reg.yml >/run/reg.log 2>&1 & for i in $(seq 100); do curl -fs http://127.0.0.1:5000/v2/ && break; sleep 0.1; done");
    h.docker("tag busybox 127.0.0.1:5000/team/box:1");
    has(&h.docker("push 127.0.0.1:5000/team/box:1"), &["digest: sha256:"]);
    let digest = h.docker("inspect -f '{{index .RepoDigests 0}}' 127.0.0.1:5000/team/box:1");
    h.docker("rmi 127.0.0.1:5000/team/box:1; docker rmi busybox");
    has(&h.docker("pull 127.0.0.1:5000/team/box:1"), &["Downloaded newer image"]);
    assert_eq!(h.docker("run --rm 127.0.0.1:5000/team/box:1 echo pulled"), "pulled");
    has(&h.docker("pull 127.0.0.1:5000/team/box:1"), &["up to date"]);
    h.docker("rmi 127.0.0.1:5000/team/box:1");
    h.docker(&format!("pull {digest}"));
    has(&h.docker_fails("pull 127.0.0.1:5000/team/box:nosuch").1, &["manifest", "unknown"]);
    has(&h.docker_fails("run nosuchimage.invalid/x:none true").1, &["nosuchimage"]);
}
