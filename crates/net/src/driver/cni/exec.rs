//! Running a CNI plugin.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::result::refusal;

/// How long a plugin may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Where the programs that plugins run themselves are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a plugin is run for.
#[derive(Debug, Clone)]
pub(super) struct Invocation<'a> {
    /// `ADD`, `DEL` or `CHECK`.
    pub command: &'a str,
    /// The container's id.
    pub container: &'a str,
    /// The namespace's file.
    pub netns: &'a Path,
    /// The interface's name inside.
    pub interface: &'a str,
}

/// The plugin's program.
pub(super) fn program(kind: &str, path: &[PathBuf]) -> Result<PathBuf, String> {
    let found = path.iter().map(|dir| dir.join(kind)).find(|p| p.is_file());
    found.ok_or_else(|| {
        let looked: Vec<_> = path.iter().map(|d| d.display().to_string()).collect();
        format!("CNI plugin {kind} is not in {}", looked.join(", "))
    })
}

/// Runs a plugin. Its result is `Null` when it says nothing.
pub(super) async fn run(
    kind: &str,
    path: &[PathBuf],
    invocation: &Invocation<'_>,
    input: &Value,
) -> Result<Value, String> {
    let joined = std::env::join_paths(path).map_err(|e| e.to_string())?;
    let mut child = Command::new(program(kind, path)?)
        .env_clear()
        .env("PATH", PATH)
        .env("CNI_COMMAND", invocation.command)
        .env("CNI_CONTAINERID", invocation.container)
        .env("CNI_NETNS", invocation.netns)
        .env("CNI_IFNAME", invocation.interface)
        .env("CNI_PATH", joined)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("CNI plugin {kind} can't be run: {e}"))?;
    let text = input.to_string();
    let stdin = child.stdin.take();
    let talk = async {
        if let Some(mut stdin) = stdin {
            // One that does not read what it is given says so by its status.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let done = tokio::time::timeout(LIMIT, talk).await;
    let done =
        done.map_err(|_| format!("CNI plugin {kind}: no end within {} s", LIMIT.as_secs()))?;
    let output = done.map_err(|e| format!("CNI plugin {kind}: {e}"))?;
    if !output.status.success() {
        let why = refusal(&output.stdout, &output.stderr);
        return Err(format!("CNI plugin {kind} refused {}: {why}", invocation.command));
    }
    if output.stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("CNI plugin {kind} answered {} with no JSON: {e}", invocation.command))
}
