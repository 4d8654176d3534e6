//! Compiles the eBPF programs of `bpf/` with clang, one object for each hook.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The programs: `bpf/NAME.bpf.c`.
const PROGRAMS: &[&str] = &["connect", "published", "redirect"];

fn main() -> ExitCode {
    println!("cargo:rerun-if-env-changed=CLANG");
    println!("cargo:rerun-if-changed=build.rs");
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("cargo::error={reason}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let root = variable("CARGO_MANIFEST_DIR")?;
    let sources = Path::new(&root).join("../../bpf");
    println!("cargo:rerun-if-changed={}", sources.display());
    let out = PathBuf::from(variable("OUT_DIR")?);
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    for name in PROGRAMS {
        let source = sources.join(format!("{name}.bpf.c"));
        let object = out.join(format!("{name}.bpf.o"));
        let mut command = Command::new(&clang);
        // The kernel's headers that depend on the machine are in a directory
        // that clang does not search for this target.
        command.args(["-O2", "-g", "-target", "bpf", "-Wall", "-Werror", "-idirafter"]);
        command.arg(format!("/usr/include/{}-linux-gnu", variable("CARGO_CFG_TARGET_ARCH")?));
        command.arg("-c").arg(&source).arg("-o").arg(&object);
        let output = command.output().map_err(|e| {
            format!(
                "can't run {clang}, which compiles the eBPF programs: {e}; install it \
                 (Debian: apt-get install clang), or say where it is: CLANG=/path/to/clang"
            )
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | ");
            return Err(format!("{clang} can't compile {}: {said}", source.display()));
        }
    }
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("{name}: {e}"))
}
