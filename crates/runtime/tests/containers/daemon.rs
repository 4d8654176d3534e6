//! Daemons and shims that die.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_runtime::Runtime;
use sampan_types::ContainerId;

use crate::lab::{BOTH, Lab, collect, config, exec_request, request};

/// Creates and starts a container, execs in it, says so, and waits.
pub async fn be_a_daemon(args: &[String]) -> ExitCode {
    let [dir, parent, id, command] = args else { return ExitCode::FAILURE };
    let dir = Path::new(dir);
    let config = config(dir, parent.clone());
    let id: ContainerId = id.parse().unwrap();
    let runtime = Runtime::new(config.clone()).unwrap();
    let request = request(&config, &dir.join("rootfs"), id.clone(), &["/bin/sh", "-c", command]);
    let shim = runtime.create(request).await.unwrap();
    let _attached = shim.attach(BOTH).await.unwrap();
    shim.start().await.unwrap();
    let exec =
        runtime.exec(&id, exec_request(&["/bin/sh", "-c", "sleep 1; exit 43"])).await.unwrap();
    exec.start().await.unwrap();
    println!("{} {} {}", shim.pid(), shim.shim_pid(), exec.id());
    std::future::pending::<()>().await;
    ExitCode::SUCCESS
}

struct Daemon {
    child: Child,
    pid: u32,
    shim: u32,
    exec: String,
}

impl Daemon {
    fn start(lab: &Lab, id: &ContainerId, command: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("daemon")
            .arg(lab.dir.path())
            .args([lab.config.cgroup_parent.as_str(), id.as_str(), command])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |i: usize| words[i].parse().unwrap();
        Self { child, pid: number(0), shim: number(1), exec: words[2].to_owned() }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn exists(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}/exe")).read_link().is_ok()
}

pub async fn container_outlives_its_daemon() {
    let lab = Lab::new();
    let id = ContainerId::random();
    let command =
        "trap 'echo bye; exit 8' TERM; i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done";
    let mut daemon = Daemon::start(&lab, &id, command);
    daemon.kill();
    let before = lab.log_of(&id).lines().count();
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    assert!(lab.log_of(&id).lines().count() > before, "the log stands still");
    let shim = lab.runtime.connect(&id).await.unwrap().unwrap();
    assert_eq!((shim.pid(), shim.shim_pid(), shim.generation()), (daemon.pid, daemon.shim, 1));
    assert!(shim.started().is_some());
    let attached = shim.attach(BOTH).await.unwrap();
    shim.signal(15).await.unwrap();
    let (out, _) = collect(attached.output).await;
    assert!(out.ends_with("bye\n"), "{out:?}");
    assert_eq!(shim.wait().await.code, 8);
    lab.end(&shim).await;
}

pub async fn exit_without_a_daemon() {
    let lab = Lab::new();
    let id = ContainerId::random();
    let mut daemon = Daemon::start(&lab, &id, "sleep 0.5; echo done; exit 17");
    daemon.kill();
    while exists(daemon.shim) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(lab.runtime.connect(&id).await.unwrap().is_none());
    let status = lab.runtime.recorded_exit(&id).unwrap().unwrap();
    assert_eq!((status.code, status.generation), (17, 1));
    assert!(lab.log_of(&id).contains("done"));
    lab.runtime.cleanup(&id).await.unwrap();
    lab.nothing_left(&id);
}

pub async fn exec_outlives_its_daemon() {
    let lab = Lab::new();
    let id = ContainerId::random();
    let mut daemon = Daemon::start(&lab, &id, "sleep 1000");
    daemon.kill();
    let exec = daemon.exec.parse().unwrap();
    let living = lab.runtime.connect_exec(&id, &exec).await.unwrap().unwrap();
    assert_eq!(living.wait().await.code, 43);
    let recorded = lab.runtime.recorded_exec_exit(&id, &exec).unwrap().unwrap();
    assert_eq!(recorded.code, 43);
    lab.runtime.cleanup(&id).await.unwrap();
    lab.nothing_left(&id);
}

pub async fn killed_shim() {
    let lab = Lab::new();
    let shim = lab.idle().await;
    let attached = shim.attach(BOTH).await.unwrap();
    kill(Pid::from_raw(i32::try_from(shim.shim_pid()).unwrap()), Signal::SIGKILL).unwrap();
    let status = shim.wait().await;
    assert_eq!((status.code, status.error.as_deref()), (137, Some("shim died")));
    collect(attached.output).await;
    assert!(!exists(shim.pid()), "the container lives on");
    assert!(shim.signal(15).await.unwrap_err().to_string().contains("is not running"));
    assert_eq!(lab.runtime.recorded_exit(shim.id()).unwrap().unwrap().code, 137);
    assert!(lab.runtime.connect(shim.id()).await.unwrap().is_none());
    lab.runtime.cleanup(shim.id()).await.unwrap();
    lab.nothing_left(shim.id());
}

pub async fn created_container_can_be_deleted() {
    let lab = Lab::new();
    let shim = lab.runtime.create(lab.request(&["/bin/true"])).await.unwrap();
    assert!(shim.started().is_none() && exists(shim.pid()));
    lab.end(&shim).await;
    assert!(!exists(shim.pid()));
    assert_eq!(lab.runtime.recorded_exit(shim.id()).unwrap(), None);
    // A living one can be cleaned up just so, and made again.
    let shim = lab.idle().await;
    let request = crate::lab::request(
        &lab.config,
        &lab.rootfs(),
        shim.id().clone(),
        &["/bin/sh", "-c", "exit 1"],
    );
    let (status, ..) = lab.run(request).await;
    assert_eq!(status.code, 1);
    assert!(!exists(shim.pid()));
}

pub async fn memory_of_a_shim() {
    let lab = Lab::new();
    let shim = lab.idle().await;
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", shim.shim_pid())).unwrap();
    let of = |name: &str| -> u64 {
        text.lines()
            .find_map(|l| l.strip_prefix(name))
            .and_then(|l| l.trim_start_matches(':').trim().trim_end_matches(" kB").parse().ok())
            .unwrap()
    };
    let private = of("Private_Dirty") + of("Private_Clean");
    println!("shim: private {private} kB, pss {} kB", of("Pss"));
    assert!(private < 2048, "{private} kB");
    lab.end(&shim).await;
}

pub async fn many_at_once() {
    let lab = std::sync::Arc::new(Lab::new());
    let tasks: Vec<_> = (0..12)
        .map(|i| {
            let lab = std::sync::Arc::clone(&lab);
            tokio::spawn(async move {
                let (status, out, _) = lab.run(lab.shell(&format!("echo {i}; exit {i}"))).await;
                assert_eq!((status.code, out), (i, format!("{i}\n")));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Prints how long the steps of a container's life take: `containers bench`.
pub async fn bench() -> ExitCode {
    let lab = Lab::new();
    let mut steps: [Vec<u128>; 4] = Default::default();
    for _ in 0..30 {
        let mut request = lab.request(&["/bin/true"]);
        let profile = sampan_runtime::seccomp::default_profile(crate::lab::CAPS, (6, 1));
        request.spec.linux_mut().as_mut().unwrap().set_seccomp(Some(profile));
        let begin = std::time::Instant::now();
        let shim = lab.runtime.create(request).await.unwrap();
        steps[0].push(begin.elapsed().as_micros());
        shim.start().await.unwrap();
        steps[1].push(begin.elapsed().as_micros());
        shim.wait().await;
        steps[2].push(begin.elapsed().as_micros());
        lab.runtime.cleanup(shim.id()).await.unwrap();
        steps[3].push(begin.elapsed().as_micros());
    }
    for (name, times) in ["created", "started", "ended", "cleaned up"].iter().zip(&mut steps) {
        times.sort_unstable();
        println!("{name}: median {} us, least {} us", times[times.len() / 2], times[0]);
    }
    ExitCode::SUCCESS
}
