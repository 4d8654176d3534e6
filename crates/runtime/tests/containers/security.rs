//! What a container's processes may do.

use sampan_runtime::CreateRequest;

use crate::lab::{BOTH, Lab, collect, exec_request, process};

/// Everything is allowed but mkdir, which is refused as `EPERM`.
const NO_MKDIR: &str = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
  "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1},
   {"names":["personality"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":255,"valueTwo":8,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;

fn with_profile(mut request: CreateRequest) -> CreateRequest {
    let linux = request.spec.linux_mut().as_mut().unwrap();
    linux.set_seccomp(Some(serde_json::from_str(NO_MKDIR).unwrap()));
    request
}

pub async fn seccomp_everywhere() {
    let lab = Lab::new();
    let script = "mkdir /tmp/x 2>&1; grep -E 'Seccomp:|NoNewPrivs' /proc/self/status";
    for no_new_privileges in [false, true] {
        let mut request = with_profile(lab.shell(script));
        request.spec.process_mut().as_mut().unwrap().set_no_new_privileges(Some(no_new_privileges));
        let (_, out, err) = lab.run(request).await;
        assert!(out.contains("Operation not permitted"), "{out}{err}");
        assert!(out.contains("Seccomp:\t2"), "{out}");
        let flag = format!("NoNewPrivs:\t{}", u8::from(no_new_privileges));
        assert!(out.contains(&flag), "{out}");
    }
    // One compiled program serves them all.
    let filters = std::fs::read_dir(lab.config.exec_root.join("seccomp")).unwrap().count();
    assert_eq!(filters, 1);
    let shim =
        lab.runtime.create(with_profile(lab.request(&["/bin/sleep", "1000"]))).await.unwrap();
    shim.start().await.unwrap();
    let exec = lab.runtime.exec(shim.id(), exec_request(&["sh", "-c", script])).await.unwrap();
    let attached = exec.attach(BOTH).await.unwrap();
    exec.start().await.unwrap();
    let (out, _) = collect(attached.output).await;
    assert!(out.contains("Operation not permitted") && out.contains("Seccomp:\t2"), "{out}");
    lab.end(&shim).await;
}

pub async fn default_profile() {
    let lab = Lab::new();
    let caps: Vec<&str> = crate::lab::CAPS.to_vec();
    let profile = sampan_runtime::seccomp::default_profile(&caps, (6, 1));
    let mut request = lab.shell("(echo forked) & wait; unshare -u true 2>&1");
    request.spec.linux_mut().as_mut().unwrap().set_seccomp(Some(profile));
    let (status, out, err) = lab.run(request).await;
    // Threads and processes may be made, namespaces may not.
    assert!(out.starts_with("forked\n"), "{out}{err}");
    assert!(out.contains("Operation not permitted") && status.code == 1, "{out}{err}");
}

pub async fn capabilities() {
    let lab = Lab::new();
    let script = "grep -E '^Cap|^Groups' /proc/self/status; id -u";
    let (_, out, _) = lab.run(lab.shell(script)).await;
    // The fourteen of Docker's default, and no inheritable ones.
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
    ] {
        assert!(out.contains(line), "{line} is not in {out}");
    }
    let mut request = lab.shell(script);
    let process = request.spec.process_mut().as_mut().unwrap();
    let mut user = process.user().clone();
    user.set_uid(1000).set_gid(1000);
    process.set_user(user);
    let (_, out, _) = lab.run(request).await;
    assert!(out.contains("CapEff:\t0000000000000000") && out.ends_with("1000\n"), "{out}");
    assert!(out.contains("CapBnd:\t00000000a80425fb"), "{out}");
}

pub async fn clean_signals_and_descriptors() {
    let lab = Lab::new();
    let script = "grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd | wc -l; env; umask";
    let (_, out, _) = lab.run(lab.shell(script)).await;
    assert!(out.contains("SigBlk:\t0000000000000000"), "{out}");
    assert!(out.contains("SigIgn:\t0000000000000000"), "{out}");
    // Three streams and the directory that ls reads.
    assert!(out.contains("\n4\n"), "{out}");
    assert!(out.contains("HOME=/root") && out.ends_with("0022\n"), "{out}");
    let (status, ..) = lab.run(lab.shell("yes | head -n 1; exit 0")).await;
    assert_eq!(status.code, 0);
    let shim = lab.idle().await;
    let request = exec_request(&["sh", "-c", script]);
    let exec = lab.runtime.exec(shim.id(), request).await.unwrap();
    let attached = exec.attach(BOTH).await.unwrap();
    exec.start().await.unwrap();
    let (out, _) = collect(attached.output).await;
    assert!(out.contains("SigIgn:\t0000000000000000") && out.contains("\n4\n"), "{out}");
    lab.end(&shim).await;
}

pub async fn user_owns_its_streams() {
    let lab = Lab::new();
    let script = "echo again >/dev/stdout && echo error >/dev/stderr && sleep 0.1";
    for tty in [false, true] {
        let mut request = lab.shell(script);
        let mut user = process(&["x"]).user().clone();
        user.set_uid(1000).set_gid(1000);
        request.spec.process_mut().as_mut().unwrap().set_user(user);
        request.io.tty = tty;
        let (status, out, err) = lab.run(request).await;
        assert_eq!(status.code, 0, "{out}{err}");
        assert!(out.starts_with("again"), "{out}");
    }
}

pub async fn unified_cgroup() {
    let lab = Lab::new();
    let request = lab.shell("cat /proc/self/cgroup");
    let id = request.id.clone();
    let shim = lab.runtime.create(request).await.unwrap();
    let attached = shim.attach(BOTH).await.unwrap();
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", shim.shim_pid())).unwrap();
    assert!(!text.contains(id.as_str()), "the shim is in its container's cgroup: {text}");
    shim.start().await.unwrap();
    let (out, _) = collect(attached.output).await;
    // libcontainer leaves hierarchies without controllers alone.
    for line in out.lines().filter(|l| !l.contains("name=")) {
        assert!(line.ends_with(id.as_str()), "not in its cgroup: {line}");
    }
    shim.wait().await;
    lab.end(&shim).await;
}
