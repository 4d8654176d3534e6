//! Standard streams: pipes, terminals, clients that are slow or leave.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use sampan_runtime::IoConfig;

use crate::lab::{ALL, BOTH, Lab, bytes, collect, until};

pub async fn output_and_exit_code() {
    let lab = Lab::new();
    let request = lab.shell("echo out; echo err >&2; exit 3");
    let id = request.id.clone();
    let (status, out, err) = lab.run(request).await;
    assert_eq!((status.code, out.as_str(), err.as_str()), (3, "out\n", "err\n"));
    assert!(!status.oom_killed && status.generation == 1 && status.error.is_none());
    let log = lab.log_of(&id);
    assert!(log.contains(r#""log":"out\n""#) && log.contains(r#""stream":"stderr""#), "{log}");
    assert_eq!(lab.runtime.recorded_exit(&id).unwrap(), Some(status));
    lab.nothing_left(&id);
}

pub async fn input_once() {
    let lab = Lab::new();
    let mut request = lab.request(&["/bin/cat"]);
    request.io = IoConfig { open_stdin: true, stdin_once: true, ..IoConfig::default() };
    let shim = lab.runtime.create(request).await.unwrap();
    let mut attached = shim.attach(ALL).await.unwrap();
    // Input before the start waits for the process.
    attached.input.write(bytes("early ")).await.unwrap();
    shim.start().await.unwrap();
    let big = "x".repeat(300_000);
    let writer = tokio::spawn(async move {
        attached.input.write(bytes(&big)).await.unwrap();
        attached.input.close().await.unwrap();
    });
    let (out, _) = collect(attached.output).await;
    writer.await.unwrap();
    assert_eq!(out.len(), 300_006);
    assert!(out.starts_with("early xxx"));
    assert_eq!(shim.wait().await.code, 0);
    lab.end(&shim).await;
}

pub async fn input_stays_open() {
    let lab = Lab::new();
    let mut request =
        lab.shell("while read x; do echo got $x; [ $x = last ] && exit 5; done; exit 9");
    request.io.open_stdin = true;
    let shim = lab.runtime.create(request).await.unwrap();
    shim.start().await.unwrap();
    for word in ["one", "two"] {
        let mut attached = shim.attach(ALL).await.unwrap();
        attached.input.write(bytes(&format!("{word}\n"))).await.unwrap();
        until(&mut attached.output, &format!("got {word}\n")).await;
        attached.input.close().await.unwrap();
    }
    let mut attached = shim.attach(ALL).await.unwrap();
    attached.input.write(bytes("last\n")).await.unwrap();
    assert_eq!(shim.wait().await.code, 5);
    lab.end(&shim).await;
}

pub async fn terminal() {
    let lab = Lab::new();
    let mut request =
        lab.shell("stty size; tty; read x; stty size; echo got $x; sleep 0.1; exit 4");
    request.io =
        IoConfig { tty: true, open_stdin: true, stdin_once: true, console_size: Some((33, 101)) };
    let id = request.id.clone();
    let shim = lab.runtime.create(request).await.unwrap();
    let mut attached = shim.attach(ALL).await.unwrap();
    shim.start().await.unwrap();
    let first = until(&mut attached.output, "/dev/pts/0\r\n").await;
    assert!(first.contains("33 101\r\n"), "{first:?}");
    shim.resize(50, 120).await.unwrap();
    attached.input.write(bytes("hello\n")).await.unwrap();
    let (rest, _) = collect(attached.output).await;
    assert!(rest.contains("50 120\r\n") && rest.contains("got hello\r\n"), "{rest:?}");
    assert_eq!(shim.wait().await.code, 4);
    assert!(lab.log_of(&id).contains("got hello"));
    lab.end(&shim).await;
}

pub async fn slow_client_loses_nothing() {
    const SIZE: usize = 12 << 20;
    let lab = Lab::new();
    let request = lab.shell(&format!("head -c {SIZE} /dev/zero | tr '\\0' 'x'; echo end >&2"));
    let id = request.id.clone();
    let shim = lab.runtime.create(request).await.unwrap();
    let mut attached = shim.attach(BOTH).await.unwrap();
    shim.start().await.unwrap();
    // The container has to wait: it is far from done.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(lab.log_of(&id).len() < SIZE / 2);
    let mut got = 0;
    while let Some((_, chunk)) = attached.output.next().await {
        got += chunk.len();
    }
    assert_eq!(got, SIZE + "end\n".len());
    assert_eq!(shim.wait().await.code, 0);
    let logged = lab.log_of(&id).matches('x').count();
    assert!(logged >= SIZE, "{logged}");
    lab.end(&shim).await;
}

pub async fn client_leaves_in_the_middle() {
    const SIZE: usize = 8 << 20;
    let lab = Lab::new();
    let request = lab.shell(&format!("head -c {SIZE} /dev/zero | tr '\\0' 'x'; exit 6"));
    let id = request.id.clone();
    let shim = lab.runtime.create(request).await.unwrap();
    let mut attached = shim.attach(BOTH).await.unwrap();
    let idle = shim.attach(BOTH).await.unwrap();
    shim.start().await.unwrap();
    attached.output.next().await.unwrap();
    drop(attached);
    drop(idle);
    assert_eq!(shim.wait().await.code, 6);
    assert!(lab.log_of(&id).matches('x').count() >= SIZE);
    lab.end(&shim).await;
}

pub async fn output_held_by_another_process() {
    let lab = Lab::new();
    let mut request = lab.shell("sleep 1000 & echo started; exit 2");
    // In the host's process namespace nothing dies with the init.
    let linux = request.spec.linux_mut().as_mut().unwrap();
    let mut namespaces = linux.namespaces().clone().unwrap();
    namespaces.retain(|n| n.typ() != oci_spec::runtime::LinuxNamespaceType::Pid);
    linux.set_namespaces(Some(namespaces));
    let begin = Instant::now();
    let id = request.id.clone();
    let (status, out, _) = lab.run(request).await;
    assert_eq!((status.code, out.as_str()), (2, "started\n"));
    assert!(begin.elapsed() < Duration::from_secs(30));
    lab.nothing_left(&id);
}

pub async fn half_close_keeps_the_output() {
    let lab = Lab::new();
    let mut request = lab.shell("cat >/dev/null; sleep 0.2; echo after");
    request.io = IoConfig { open_stdin: true, stdin_once: true, ..IoConfig::default() };
    let shim = lab.runtime.create(request).await.unwrap();
    let attached = shim.attach(ALL).await.unwrap();
    shim.start().await.unwrap();
    drop(attached.input);
    let (out, _) = collect(attached.output).await;
    assert_eq!(out, "after\n");
    lab.end(&shim).await;
}

pub async fn long_paths() {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::below(dir, &"a-long-name/".repeat(12));
    let mut request = lab.shell("echo $0; read x");
    request.io = IoConfig { tty: true, open_stdin: true, ..IoConfig::default() };
    let shim = lab.runtime.create(request).await.unwrap();
    let mut attached = shim.attach(ALL).await.unwrap();
    shim.start().await.unwrap();
    until(&mut attached.output, "/bin/sh").await;
    assert!(lab.runtime.connect(shim.id()).await.unwrap().is_some());
    lab.end(&shim).await;
}
