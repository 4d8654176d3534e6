//! Commands of the engine's own in containers: a health probe, a hook. They
//! are run once, with a limit on their time, and forgotten.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use sampan_types::docker::ExecConfig;

use crate::Engine;
use crate::container::Container;
use crate::exec::Exec;

/// How a command ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself.
    Exited {
        code: i32,
        /// What it wrote, cut off.
        output: String,
    },
    /// It could not be started.
    Failed(String),
    /// It took too long, and was killed.
    TimedOut,
}

impl Engine {
    /// Runs a command in a running container; kills it when it takes longer
    /// than `patience`. Keeps so many bytes of what it writes.
    pub(crate) async fn exec_once(
        &self,
        c: &Arc<Container>,
        command: Vec<String>,
        patience: Duration,
        keep: usize,
    ) -> Ended {
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command),
            ..Default::default()
        };
        let exec = self.exec_prepare(c, config);
        // Also when this future is dropped: it does not outlive who asked.
        let guard = Guard { exec: Arc::clone(&exec), engine: self.clone() };
        let run = async {
            let streams = self.exec_run(c, &exec, true, None).await.map_err(|e| e.to_string())?;
            let mut output = Vec::new();
            if let Some(mut streams) = streams {
                while let Some((_, chunk)) = streams.output.next().await {
                    let room = keep.saturating_sub(output.len());
                    output.extend_from_slice(&chunk[..chunk.len().min(room)]);
                }
            }
            let code = match exec.process() {
                Some(process) => process.wait().await.code,
                None => exec.exit_code().unwrap_or(-1),
            };
            Ok::<_, String>((code, output))
        };
        let ended = match tokio::time::timeout(patience, run).await {
            Ok(Ok((code, output))) => {
                Ended::Exited { code, output: String::from_utf8_lossy(&output).into_owned() }
            }
            Ok(Err(error)) => Ended::Failed(error),
            Err(_) => Ended::TimedOut,
        };
        drop(guard);
        ended
    }
}

/// Ends the process and forgets the exec, whatever happens to who asked.
struct Guard {
    exec: Arc<Exec>,
    engine: Engine,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.engine.forget_exec(&self.exec);
        if let Some(process) = self.exec.process() {
            self.engine.inner.tasks.spawn(async move {
                // It may have ended by itself.
                let _ = process.signal(nix::libc::SIGKILL).await;
            });
        }
    }
}
