//! Options of `docker run`: each does what it says, or is refused by name.

mod common;

use common::{crash_and_restart, field, has, host};

#[test]
fn identity_and_environment() {
    let Some((_lan, h)) = host("identity_and_environment") else { return };
    let run = |args: &str| h.docker(&format!("run --rm {args}"));
    assert_eq!(
        run("-e A=1 -e B busybox sh -c 'echo $A-$B-$HOME-$PATH'"),
        "1--/root-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
    assert_eq!(run("-w /some/where busybox pwd"), "/some/where");
    assert_eq!(run("-u web busybox id -un"), "web");
    assert_eq!(run("-u web --group-add 77 busybox id -G"), "1000 50 77");
    assert_eq!(run("-u 12:34 busybox sh -c 'echo $(id -u):$(id -g)'"), "12:34");
    has(&h.docker_fails("run --rm -u nobodyhere busybox true").1, &["nobodyhere", "passwd"]);
    assert_eq!(run("--entrypoint /bin/echo busybox a b"), "a b");
    assert_eq!(run("--hostname box --domainname lan busybox hostname"), "box");
    has(&run("--hostname box --domainname lan busybox cat /etc/hosts"), &["box.lan box"]);
    has(&run("--add-host db:10.1.2.3 busybox cat /etc/hosts"), &["10.1.2.3\tdb"]);
    has(
        &run("--dns 192.0.2.1 --dns-search x.test --dns-opt ndots:3 busybox cat /etc/resolv.conf"),
        &["nameserver 192.0.2.1", "search x.test", "ndots:3"],
    );
    h.docker("create --name lab -l a=b --label c busybox");
    assert_eq!(field(&h, "lab", "{{json .Config.Labels}}"), r#"{"a":"b","c":""}"#);
    let init = run("--init busybox ps -o pid,args");
    has(&init, &["docker-init"]);
}

#[test]
fn file_systems() {
    let Some((_lan, h)) = host("file_systems") else { return };
    h.docker_fails("run --rm --read-only busybox touch /x");
    h.docker("run --rm --read-only --tmpfs /t:size=1m busybox touch /t/x");
    has(
        &h.docker("run --rm --tmpfs /t:size=1m,mode=700 busybox sh -c 'df -k /t; ls -ld /t'"),
        &["1024", "drwx------"],
    );
    has(&h.docker("run --rm --shm-size 8m busybox df -k /dev/shm"), &["8192"]);
    h.sh("mkdir -p /run/www && echo hi > /run/www/f");
    assert_eq!(h.docker("run --rm -v /run/www:/w busybox cat /w/f"), "hi");
    h.docker_fails("run --rm -v /run/www:/w:ro busybox touch /w/g");
    h.docker("run --rm --mount type=bind,src=/run/www,dst=/w busybox touch /w/g");
    has(
        &h.docker_fails("run --rm --mount type=bind,src=/run/missing,dst=/x busybox true").1,
        &["does not exist", "/run/missing"],
    );
    has(&h.docker_fails("run --rm -v rela/tive:/x busybox true").1, &["volume name"]);
    h.docker("run --rm -v /run/created:/x busybox touch /x/y");
    assert_eq!(h.sh("ls /run/created"), "y");
    h.docker("run --rm -v named:/data busybox sh -c 'echo kept > /data/f'");
    assert_eq!(h.docker("run --rm -v named:/data busybox cat /data/f"), "kept");
    h.docker("run -d --name user -v named:/data busybox sleep 1000");
    has(&h.docker_fails("volume rm named").1, &["in use"]);
    assert_eq!(h.docker("run --rm --volumes-from user busybox cat /data/f"), "kept");
    h.docker("run --rm -v seeded:/etc busybox true");
    has(&h.docker("run --rm -v seeded:/x busybox ls /x"), &["passwd"]);
    h.docker("rm -f user; docker volume rm named seeded");
    h.docker("run --rm -v /anon busybox true");
    assert_eq!(h.docker("volume ls -q"), "", "--rm left an anonymous volume");
}

#[test]
fn privileges() {
    let Some((_lan, h)) = host("privileges") else { return };
    let caps = |args: &str| {
        h.docker(&format!(
            "run --rm {args} busybox sh -c 'grep CapEff /proc/self/status | cut -f2'"
        ))
    };
    assert_eq!(caps(""), "00000000a80425fb");
    assert_eq!(caps("--cap-drop ALL"), "0000000000000000");
    assert_eq!(caps("--cap-drop ALL --cap-add NET_ADMIN"), "0000000000001000");
    h.docker_fails("run --rm busybox ip link add d0 type bridge");
    h.docker("run --rm --cap-add NET_ADMIN busybox ip link add d0 type bridge");
    h.docker("run --rm --privileged busybox ip link add d0 type bridge");
    h.docker_fails("run --rm busybox mount -t tmpfs x /tmp");
    has(&h.docker_fails("run --rm --cap-add NOSUCH busybox true").1, &["nosuch"]);
    let status = |args: &str, key: &str| {
        h.docker(&format!("run --rm {args} busybox sh -c 'grep {key} /proc/self/status | cut -f2'"))
    };
    assert_eq!(status("", "Seccomp:"), "2");
    assert_eq!(status("--security-opt seccomp=unconfined", "Seccomp:"), "0");
    assert_eq!(status("--security-opt no-new-privileges", "NoNewPrivs"), "1");
    h.sh(r#"echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}' > /run/p.json"#);
    h.docker_fails("run --rm --security-opt seccomp=/run/p.json busybox mkdir /x");
    h.docker("run --rm --security-opt seccomp=/run/p.json busybox touch /x");
    has(&h.docker_fails("run --rm --security-opt nosuch=1 busybox true").1, &["nosuch"]);
    h.docker_fails("run --rm busybox sh -c 'echo 1 > /proc/sys/kernel/panic'");
    assert_eq!(h.docker("run --rm busybox sh -c 'cat /proc/kcore | wc -c'"), "0");
}

#[test]
fn limits_and_devices() {
    let Some((_lan, h)) = host("limits_and_devices") else { return };
    assert_eq!(
        h.docker("run --rm --ulimit nofile=123:456 busybox sh -c 'ulimit -n; ulimit -Hn'"),
        "123\n456"
    );
    assert_eq!(
        h.docker(
            "run --rm --sysctl net.ipv4.ip_forward=0 busybox cat /proc/sys/net/ipv4/ip_forward"
        ),
        "0"
    );
    has(&h.docker_fails("run --rm --sysctl kernel.panic=1 busybox true").1, &["kernel.panic"]);
    assert_eq!(
        h.docker("run --rm --oom-score-adj 321 busybox cat /proc/self/oom_score_adj"),
        "321"
    );
    has(&h.docker("run --rm --device /dev/null:/dev/extra busybox ls -l /dev/extra"), &["1,"]);
    has(&h.docker_fails("run --rm --device /dev/nosuch busybox true").1, &["/dev/nosuch"]);
    h.docker_fails("run --rm --device-cgroup-rule nonsense busybox true");
    h.docker("run --rm --device-cgroup-rule 'c 42:* rmw' busybox true");
    has(&h.docker_fails("run --rm --memory 1m busybox true").1, &["minimum memory limit"]);
    has(&h.docker_fails("run --rm --memory 64m --memory-swap 32m busybox true").1, &["memoryswap"]);
    has(&h.docker_fails("run --rm --cpus 1000 busybox true").1, &["cpus"]);
    has(&h.docker_fails("run --rm --cpuset-cpus 999 busybox true").1, &["cpu"]);
    let pids = h.run("docker run --rm --pids-limit 5 busybox sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait'");
    has(&pids.errors(), &["fork"]);
    h.docker(
        "run -d --name cpu --cpuset-cpus 0 --cpu-shares 512 --blkio-weight 300 busybox sleep 1000",
    );
    assert_eq!(
        h.docker("exec cpu grep Cpus_allowed_list /proc/self/status"),
        "Cpus_allowed_list:\t0"
    );
}

#[test]
fn namespaces() {
    let Some((_lan, h)) = host("namespaces") else { return };
    h.docker("run -d --name one --ipc shareable busybox sleep 1000");
    let ns = |args: &str, kind: &str| {
        h.docker(&format!("run --rm {args} busybox readlink /proc/self/ns/{kind}"))
    };
    let own = |kind: &str| h.docker(&format!("exec one readlink /proc/1/ns/{kind}"));
    let hosts = |kind: &str| h.sh(&format!("readlink /proc/self/ns/{kind}"));
    assert_eq!(ns("--pid host", "pid"), hosts("pid"));
    assert_eq!(ns("--pid container:one", "pid"), own("pid"));
    assert_eq!(ns("--ipc host", "ipc"), hosts("ipc"));
    assert_eq!(ns("--ipc container:one", "ipc"), own("ipc"));
    assert_eq!(ns("--uts host", "uts"), hosts("uts"));
    assert_eq!(ns("--network host", "net"), hosts("net"));
    assert_eq!(ns("--network container:one", "net"), own("net"));
    for kind in ["pid", "ipc", "uts", "net", "mnt"] {
        assert_ne!(ns("", kind), hosts(kind), "{kind}");
    }
    assert_eq!(ns("--cgroupns host", "cgroup"), hosts("cgroup"));
    assert_ne!(ns("--cgroupns private", "cgroup"), hosts("cgroup"));
    h.docker("run -d --name priv --ipc private busybox sleep 1000");
    has(&h.docker_fails("run --rm --ipc container:priv busybox true").1, &["ipc"]);
    has(
        &h.docker_fails("run --rm --network container:one -p 80:80 busybox true").1,
        &["conflicting options"],
    );
    has(
        &h.docker_fails("run --rm --network container:gone busybox true").1,
        &["no such container"],
    );
}

#[test]
fn a_host_with_cgroups_of_version_2_alone() {
    let test = "a_host_with_cgroups_of_version_2_alone";
    let Some(lan) = sampan_testkit::Lan::new_or_skip(test) else { return };
    let mut h = lan.host_with_cgroup2("v2");
    h.start_daemon(common::SAMPAN, &[]);
    h.import_busybox();
    assert_eq!(h.docker("info --format '{{.CgroupVersion}}'"), "2");
    h.docker("run -d --name c1 busybox sleep 1000");
    assert_eq!(h.docker("exec c1 echo in"), "in");
    h.docker("pause c1");
    assert_eq!(field(&h, "c1", "{{.State.Paused}}"), "true");
    h.docker("unpause c1");
    has(&h.docker("top c1"), &["sleep 1000"]);
    has(&h.docker("stats --no-stream c1"), &["c1"]);
    // Devices are kept out by a program of the cgroup, as version 2 has no files for them.
    let zero = "sh -c 'mknod /z c 1 5 && head -c1 /z | wc -c; mknod /d c 10 237 && head -c1 /d'";
    let refused = h.run(&format!("docker run --rm busybox {zero}"));
    has(&(refused.text() + &refused.errors()), &["1", "operation not permitted"]);
    crash_and_restart(&mut h);
    assert_eq!(h.docker("exec c1 echo still"), "still");
    h.docker("rm -f c1");
}
