//! Further processes in running containers.

use sampan_runtime::{IoConfig, RuntimeError};

use crate::lab::{ALL, BOTH, Lab, bytes, collect, exec_request, until};

pub async fn exit_code_and_output() {
    let lab = Lab::new();
    let shim = lab.idle().await;
    let request = exec_request(&["sh", "-c", "echo out; echo err >&2; pwd; exit 21"]);
    let exec = lab.runtime.exec(shim.id(), request).await.unwrap();
    let attached = exec.attach(BOTH).await.unwrap();
    assert_eq!(exec.pid(), None);
    exec.start().await.unwrap();
    assert!(exec.pid().is_some());
    let (out, err) = collect(attached.output).await;
    assert_eq!((out.as_str(), err.as_str()), ("out\n/\n", "err\n"));
    let status = exec.wait().await;
    assert_eq!(status.code, 21);
    let recorded = lab.runtime.recorded_exec_exit(shim.id(), exec.id()).unwrap();
    assert_eq!(recorded, Some(status));
    assert!(lab.runtime.connect_exec(shim.id(), exec.id()).await.unwrap().is_none());
    let dir = lab.exec_dir(shim.id()).join("exec").join(exec.id().as_str());
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "more than the exit record is left");
    lab.runtime.remove_exec(shim.id(), exec.id()).await.unwrap();
    lab.runtime.remove_exec(shim.id(), exec.id()).await.unwrap();
    assert!(!dir.exists());
    lab.end(&shim).await;
}

pub async fn terminal() {
    let lab = Lab::new();
    let shim = lab.idle().await;
    // The kernel throws away what a terminal has not delivered yet when the
    // leader of its session ends; no engine can help that.
    let mut request =
        exec_request(&["sh", "-c", "stty size; read x; echo got $x; sleep 0.1; exit 5"]);
    request.io = IoConfig { tty: true, open_stdin: true, ..IoConfig::default() };
    let exec = lab.runtime.exec(shim.id(), request).await.unwrap();
    exec.resize(44, 99).await.unwrap();
    let mut attached = exec.attach(ALL).await.unwrap();
    exec.start().await.unwrap();
    until(&mut attached.output, "44 99\r\n").await;
    attached.input.write(bytes("word\n")).await.unwrap();
    let (out, _) = collect(attached.output).await;
    let code = exec.wait().await.code;
    assert!(out.contains("got word\r\n") && code == 5, "{out:?} {code}");
    lab.end(&shim).await;
}

pub async fn input() {
    let lab = Lab::new();
    let shim = lab.idle().await;
    let mut request = exec_request(&["wc", "-c"]);
    request.io.open_stdin = true;
    let exec = lab.runtime.exec(shim.id(), request).await.unwrap();
    let mut attached = exec.attach(ALL).await.unwrap();
    exec.start().await.unwrap();
    attached.input.write(bytes(&"y".repeat(500_000))).await.unwrap();
    attached.input.close().await.unwrap();
    let (out, _) = collect(attached.output).await;
    assert_eq!(out, "500000\n");
    lab.end(&shim).await;
}

pub async fn failures() {
    let lab = Lab::new();
    let shim = lab.idle().await;
    let mut missing_cwd = exec_request(&["true"]);
    missing_cwd.process.set_cwd("/nosuch".into());
    let prefix = "OCI runtime exec failed: exec failed: unable to start container process: ";
    for (request, code, text) in [
        (exec_request(&["nosuch"]), 127, "exec: \"nosuch\": executable file not found in $PATH"),
        (exec_request(&["/etc/plain"]), 126, "exec: \"/etc/plain\": permission denied"),
        (
            missing_cwd,
            127,
            "chdir to cwd (\"/nosuch\") set in config.json failed: no such file or directory",
        ),
    ] {
        let exec = lab.runtime.exec(shim.id(), request).await.unwrap();
        let attached = exec.attach(BOTH).await.unwrap();
        let error = exec.start().await.unwrap_err();
        assert_eq!(error.exit_code(), code);
        assert!(matches!(error, RuntimeError::Command { .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("{prefix}{text}: unknown"));
        collect(attached.output).await;
        assert_eq!(exec.wait().await.code, code);
    }
    lab.end(&shim).await;
    let error = lab.runtime.exec(shim.id(), exec_request(&["true"])).await.unwrap_err();
    assert!(error.to_string().contains("is not running"), "{error}");
}

pub async fn inherits_limits() {
    let lab = Lab::new();
    let mut request = lab.request(&["/bin/sleep", "1000"]);
    let process = request.spec.process_mut().as_mut().unwrap();
    process.set_oom_score_adj(Some(123));
    process.set_rlimits(Some(
        serde_json::from_str(r#"[{"type":"RLIMIT_NOFILE","soft":77,"hard":88}]"#).unwrap(),
    ));
    let shim = lab.runtime.create(request).await.unwrap();
    shim.start().await.unwrap();
    let command = "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; cat /proc/self/cgroup";
    let exec = lab.runtime.exec(shim.id(), exec_request(&["sh", "-c", command])).await.unwrap();
    let attached = exec.attach(BOTH).await.unwrap();
    exec.start().await.unwrap();
    let (out, err) = collect(attached.output).await;
    assert!(out.starts_with("77\n88\n123\n"), "{out}{err}");
    for line in out.lines().skip(3).filter(|l| !l.contains("name=")) {
        assert!(line.ends_with(shim.id().as_str()), "not in its cgroup: {line}");
    }
    lab.end(&shim).await;
}

pub async fn signal() {
    let lab = Lab::new();
    let shim = lab.idle().await;
    let request = exec_request(&[
        "sh",
        "-c",
        "trap 'exit 9' USR1; echo ready; while true; do sleep 0.02; done",
    ]);
    let exec = lab.runtime.exec(shim.id(), request).await.unwrap();
    assert!(exec.signal(10).await.is_err());
    let mut attached = exec.attach(BOTH).await.unwrap();
    exec.start().await.unwrap();
    until(&mut attached.output, "ready").await;
    exec.signal(10).await.unwrap();
    assert_eq!(exec.wait().await.code, 9);
    // One that is running when the container ends.
    let exec = lab.runtime.exec(shim.id(), exec_request(&["sleep", "1000"])).await.unwrap();
    exec.start().await.unwrap();
    lab.end(&shim).await;
    assert_eq!(exec.wait().await.code, 137);
}
