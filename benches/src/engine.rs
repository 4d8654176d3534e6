//! The engines that are measured, each on a test host of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sampan_testkit::{Host, Lan};
use serde_json::{Value, json};

use crate::{client, traffic};

/// An engine under measurement.
pub struct Engine<'a> {
    /// Its name in the table.
    pub name: &'static str,
    lan: &'a Lan,
    host: Host,
    /// Docker's daemon, which the test host does not manage itself.
    docker: Option<Child>,
}

impl<'a> Engine<'a> {
    /// Sampan's daemon, with further flags.
    pub fn sampan(lan: &'a Lan, name: &'static str, program: &str, flags: &[&str]) -> Self {
        let mut host = lan.host(name);
        host.start_daemon(program, flags);
        Self { name, lan, host, docker: None }.with_images()
    }

    /// Debian's dockerd, when it is installed.
    pub fn docker(lan: &'a Lan) -> Option<Self> {
        if !sampan_testkit::missing_programs(&["dockerd", "containerd"]).is_empty() {
            eprintln!("dockerd is not installed: nothing to compare with");
            return None;
        }
        let host = lan.host("docker");
        let log = std::fs::File::create(host.dir().join("dockerd.log")).ok()?;
        let mut command = host.command("dockerd");
        command.args(["-H", &format!("unix://{}", host.socket().display())]);
        command.arg("--data-root").arg(host.data_root()).arg("--exec-root").arg(host.exec_root());
        command.env_remove("DOCKER_HOST").stdin(Stdio::null());
        command.stdout(log.try_clone().ok()?).stderr(log);
        let docker = command.spawn().ok()?;
        let engine = Self { name: "docker", lan, host, docker: Some(docker) };
        let began = Instant::now();
        while engine.host.api("GET", "/_ping", None).status != 200 {
            if began.elapsed() > Duration::from_secs(60) {
                eprintln!("dockerd did not come up");
                return None;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(engine.with_images())
    }

    /// `busybox`, and `bench` with what makes traffic as far as it is installed.
    fn with_images(self) -> Self {
        self.host.import_busybox();
        let root = self.rootfs();
        for program in traffic::PROGRAMS {
            if let Err(e) = sampan_testkit::add_program(&root, program) {
                eprintln!("{program}: {e}");
            }
        }
        let made = traffic::configure(&root).map_err(|e| e.to_string()).and_then(|()| {
            self.shell(&format!("tar -C {} -c . | docker import - bench:latest", root.display()))
        });
        if let Err(e) = made {
            eprintln!("image bench: {e}");
        }
        self
    }

    /// Runs a shell script as the client outside every host.
    pub fn outside(&self, script: &str) -> Result<String, String> {
        let outcome = self.lan.outside(script);
        if outcome.code == 0 {
            Ok(outcome.text())
        } else {
            Err(format!("{script}: {}", outcome.errors()))
        }
    }

    /// Sends a request to the engine's API; the body of the answer.
    pub fn api(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let (_, text) = client::request(&self.host.socket(), method, path, &body.to_string())?;
        // Between the lines of a chunked body's lengths, if it is one.
        let start = text.find('{').unwrap_or(text.len());
        let end = text.rfind('}').map_or(start, |e| e + 1);
        Ok(serde_json::from_str(text.get(start..end).unwrap_or_default()).unwrap_or(Value::Null))
    }

    /// A directory with the image's files.
    pub fn rootfs(&self) -> PathBuf {
        self.host.dir().join("rootfs")
    }

    /// The host's directory.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Runs a shell script on the engine's host.
    pub fn shell(&self, script: &str) -> Result<String, String> {
        let outcome = self.host.run(script);
        if outcome.code == 0 {
            Ok(outcome.text())
        } else {
            Err(format!("{script}: {}", outcome.errors()))
        }
    }

    /// Creates a container that sleeps.
    pub fn create(&self, host_config: &Value) -> Result<String, String> {
        // Docker publishes only what is exposed too.
        let ports = host_config["PortBindings"].as_object().into_iter().flatten();
        let exposed: serde_json::Map<_, _> =
            ports.map(|(port, _)| (port.clone(), json!({}))).collect();
        let body = json!({"Image": "busybox", "Cmd": ["sleep", "100000"],
            "ExposedPorts": exposed, "HostConfig": host_config});
        let answer = self.api("POST", "/containers/create", &body)?;
        answer["Id"].as_str().map(str::to_owned).ok_or_else(|| format!("create: {answer}"))
    }

    /// Starts a container.
    pub fn start(&self, id: &str) -> Result<(), String> {
        client::request(&self.host.socket(), "POST", &format!("/containers/{id}/start"), "")
            .map(drop)
    }

    /// Removes containers.
    pub fn remove(&self, ids: &[String]) {
        let _ = self.shell(&format!("docker rm -f {}", ids.join(" ")));
    }

    /// Removes every container.
    pub fn clear(&self) {
        let _ = self.shell("docker ps -aq | xargs -r docker rm -f; docker network prune -f");
    }

    /// The PSS of all processes on the host but for the containers', in MiB
    /// (proc_pid_smaps(5), smaps_rollup).
    pub fn own_memory(&self) -> Result<f64, String> {
        let ours = std::fs::read_link(format!("/proc/{}/ns/mnt", self.host.pid()))
            .map_err(|e| format!("host: {e}"))?;
        let processes = std::fs::read_dir("/proc").map_err(|e| format!("/proc: {e}"))?;
        let kilobytes: u64 = processes
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|dir| std::fs::read_link(dir.join("ns/mnt")).is_ok_and(|ns| ns == ours))
            .filter(|dir| {
                std::fs::read_to_string(dir.join("comm")).is_ok_and(|c| c.trim() != "sleep")
            })
            .filter_map(|dir| std::fs::read_to_string(dir.join("smaps_rollup")).ok())
            .filter_map(|text| {
                let line = text.lines().find(|l| l.starts_with("Pss:"))?;
                line.split_whitespace().nth(1)?.parse::<u64>().ok()
            })
            .sum();
        Ok(kilobytes as f64 / 1024.0)
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        self.clear();
        if let Some(docker) = &mut self.docker {
            let _ = Command::new("kill").arg(docker.id().to_string()).status();
            let _ = docker.wait();
        }
    }
}
