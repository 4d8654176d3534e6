//! Programs that can't be run, limits, signals, external runtimes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sampan_runtime::{IoConfig, OciRuntime, RuntimeError};

use crate::lab::{ALL, BOTH, Lab, bytes, collect, exec_request, until};

async fn refused(lab: &Lab, args: &[&str]) -> RuntimeError {
    let request = lab.request(args);
    let id = request.id.clone();
    let error = lab.runtime.create(request).await.unwrap_err();
    lab.nothing_left(&id);
    assert_eq!(lab.runtime.recorded_exit(&id).unwrap(), None);
    error
}

pub async fn program_not_found() {
    let lab = Lab::new();
    let error = refused(&lab, &["nosuchprogram"]).await;
    assert_eq!(error.exit_code(), 127);
    assert_eq!(
        error.to_string(),
        "failed to create task for container: failed to create shim task: OCI runtime create \
         failed: unable to start container process: error during container init: exec: \
         \"nosuchprogram\": executable file not found in $PATH: unknown"
    );
    let error = refused(&lab, &["/no/such"]).await;
    assert_eq!(error.exit_code(), 127);
    assert!(
        error.to_string().contains("exec: \"/no/such\": stat /no/such: no such file or directory")
    );
}

pub async fn program_not_executable() {
    let lab = Lab::new();
    let error = refused(&lab, &["/etc/plain"]).await;
    assert_eq!(error.exit_code(), 126);
    assert!(error.to_string().contains("exec: \"/etc/plain\": permission denied"), "{error}");
    let error = refused(&lab, &["/etc"]).await;
    assert_eq!(error.exit_code(), 126);
    assert!(error.to_string().contains("exec: \"/etc\": is a directory"), "{error}");
}

pub async fn missing_root() {
    let lab = Lab::new();
    let mut request = lab.request(&["/bin/true"]);
    let root = oci_spec::runtime::RootBuilder::default().path("/no/such/root").build().unwrap();
    request.spec.set_root(Some(root));
    let id = request.id.clone();
    let error = lab.runtime.create(request).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("no such file"), "{error}");
    lab.nothing_left(&id);
}

pub async fn out_of_memory() {
    let lab = Lab::new();
    let mut request = lab.shell("tail /dev/zero; exit $?");
    let resources = r#"{"memory":{"limit":8388608,"swap":8388608}}"#;
    let linux = request.spec.linux_mut().as_mut().unwrap();
    linux.set_resources(Some(serde_json::from_str(resources).unwrap()));
    let (status, ..) = lab.run(request).await;
    assert_eq!(status.code, 137);
    assert!(status.oom_killed);
}

pub async fn signals() {
    let lab = Lab::new();
    let shim = lab.idle().await;
    shim.signal(9).await.unwrap();
    let status = shim.wait().await;
    assert_eq!(status.code, 137);
    assert!(!status.oom_killed);
    let error = shim.signal(15).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NotRunning { .. }), "{error}");
    lab.end(&shim).await;
    // A real-time signal.
    let request = lab.shell("trap 'exit 12' 36; echo ready; while true; do sleep 0.02; done");
    let shim = lab.runtime.create(request).await.unwrap();
    let mut attached = shim.attach(BOTH).await.unwrap();
    shim.start().await.unwrap();
    assert!(shim.start().await.unwrap_err().to_string().contains("started before"));
    assert!(shim.resize(1, 1).await.unwrap_err().to_string().contains("no terminal"));
    until(&mut attached.output, "ready").await;
    assert!(shim.signal(99).await.is_err());
    shim.signal(36).await.unwrap();
    assert_eq!(shim.wait().await.code, 12);
    lab.end(&shim).await;
}

pub async fn wrong_format() {
    let lab = Lab::new();
    let (status, _, err) = lab.run(lab.request(&["/bin/garbage"])).await;
    assert_eq!((status.code, err.as_str()), (255, "exec /bin/garbage: exec format error\n"));
}

pub async fn runc() {
    match ["/usr/sbin/runc", "/usr/bin/runc"].into_iter().find(|p| Path::new(p).exists()) {
        Some(path) => external(Path::new(path).to_owned(), &Lab::new()).await,
        None => println!("skipped: needs runc"),
    }
}

pub async fn crun() {
    if !Path::new("/usr/bin/crun").exists() {
        return println!("skipped: needs crun");
    }
    // crun refuses hybrid hosts: it gets a view of this one without v2.
    let lab = Lab::new();
    let script = lab.dir.path().join("crun");
    let text = "#!/bin/sh\nexec unshare -m sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; \
                exec /usr/bin/crun \"$@\"' crun \"$@\"\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    external(script, &lab).await;
}

async fn external(program: PathBuf, lab: &Lab) {
    let runtime = OciRuntime::External(program);
    let mut request = lab.shell("read x; echo got $x; exit 31");
    request.runtime = runtime.clone();
    request.io = IoConfig { open_stdin: true, ..IoConfig::default() };
    let shim = lab.runtime.create(request).await.unwrap();
    let mut attached = shim.attach(ALL).await.unwrap();
    shim.start().await.unwrap();
    let request = exec_request(&["sh", "-c", "echo in exec; exit 32"]);
    let exec = lab.runtime.exec(shim.id(), request).await.unwrap();
    let exec_attached = exec.attach(BOTH).await.unwrap();
    exec.start().await.unwrap();
    assert_eq!(collect(exec_attached.output).await.0, "in exec\n");
    assert_eq!(exec.wait().await.code, 32);
    let exec = lab.runtime.exec(shim.id(), exec_request(&["nosuch"])).await.unwrap();
    let error = exec.start().await.unwrap_err();
    assert_eq!(error.exit_code(), 127, "{error}");
    attached.input.write(bytes("word\n")).await.unwrap();
    assert_eq!(collect(attached.output).await.0, "got word\n");
    assert_eq!(shim.wait().await.code, 31);
    lab.end(&shim).await;
    // A terminal.
    let mut request = lab.shell("stty size; sleep 0.1; exit 3");
    request.runtime = runtime.clone();
    request.io = IoConfig { tty: true, console_size: Some((22, 66)), ..IoConfig::default() };
    let (status, out, _) = lab.run(request).await;
    assert_eq!((status.code, out.as_str()), (3, "22 66\r\n"));
    // No such program.
    let mut request = lab.request(&["nosuchprogram"]);
    request.runtime = runtime;
    let id = request.id.clone();
    let error = lab.runtime.create(request).await.unwrap_err();
    assert_eq!(error.exit_code(), 127, "{error}");
    assert!(error.to_string().contains("not found in $PATH"), "{error}");
    lab.nothing_left(&id);
}

pub async fn no_such_runtime() {
    let lab = Lab::new();
    let mut request = lab.request(&["/bin/true"]);
    request.runtime = OciRuntime::External("/no/such/runtime".into());
    let error = lab.runtime.create(request).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/runtime"), "{error}");
}
