//! An emulated machine while it runs.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::kernel::Kernel;

/// How many of the console's last lines are kept.
const KEPT: usize = 200;

/// What the console says next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A line.
    Text(String),
    /// Nothing in the time that was given.
    Silence,
    /// Nothing more: the machine is off.
    Off,
}

/// A machine. It is switched off when this value goes.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    lines: Receiver<String>,
    tail: VecDeque<String>,
}

impl Machine {
    /// Boots `kernel` with the file system in `initramfs`, two processors and
    /// 1.5 GB; `arguments` are added to the kernel's command line.
    ///
    /// # Errors
    /// When qemu can't be started.
    pub fn boot(kernel: &Kernel, initramfs: &Path, arguments: &str) -> io::Result<Self> {
        let accel = std::env::var("SAMPAN_VM_ACCEL").unwrap_or_else(|_| "tcg".to_owned());
        let cpu = if accel == "kvm" { "host" } else { "max" };
        let line = format!(
            "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on {arguments}"
        );
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", &accel, "-cpu", cpu, "-smp", "2", "-m", "1536"]);
        command.args(["-nic", "none", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
        command.args(["-append", line.trim_end()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn()?;
        let (send, lines) = mpsc::channel();
        if let Some(console) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                    if send.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self { child, lines, tail: VecDeque::new() })
    }

    /// The console's next line, waited for until `deadline`.
    pub fn next(&mut self, deadline: Instant) -> Line {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left.max(Duration::from_millis(1))) {
            Ok(line) => {
                // What is said to the test is not said twice.
                if !line.starts_with("@@") {
                    self.tail.push_back(line.clone());
                }
                if self.tail.len() > KEPT {
                    self.tail.pop_front();
                }
                Line::Text(line)
            }
            Err(RecvTimeoutError::Timeout) => Line::Silence,
            Err(RecvTimeoutError::Disconnected) => Line::Off,
        }
    }

    /// The console's last lines, but for those that begin with `@@`.
    #[must_use]
    pub fn tail(&self) -> String {
        self.tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
