//! Backups of a volume with many small files against `restic`.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::engine::Engine;

/// How many files, in how many directories.
const FILES: usize = 100_000;
const DIRECTORIES: usize = 500;

const ROUNDS: usize = 3;

const PASSPHRASE: &str = "bench";

/// Prints how long the first and the second backup take, each into a new
/// repository, in turns.
pub fn compare(engine: &Engine<'_>) {
    if !sampan_testkit::missing_programs(&["restic"]).is_empty() {
        eprintln!("restic is not installed: nothing to compare with");
        return;
    }
    if let Err(e) = rounds(engine) {
        eprintln!("backup: {e}");
    }
}

fn rounds(engine: &Engine<'_>) -> Result<(), String> {
    engine.api("POST", "/volumes/create", &json!({ "Name": "bench-backup" }))?;
    let volume = engine.api("GET", "/volumes/bench-backup", &json!({}))?;
    let path = volume["Mountpoint"].as_str().ok_or("the volume has no place")?.to_owned();
    fill(Path::new(&path)).map_err(|e| e.to_string())?;
    let (mut ours, mut theirs) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
    for round in 0..ROUNDS {
        let dir = engine.host().dir().join(format!("backups{round}"));
        let (sampan, restic) = (dir.join("sampan"), dir.join("restic"));
        fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        let command = |verb: &str| {
            format!("RESTIC_PASSWORD={PASSPHRASE} restic -q -r {} {verb}", restic.display())
        };
        engine.shell(&command("init"))?;
        for run in 0..2 {
            let began = Instant::now();
            backup(engine, &sampan)?;
            ours[run].push(began.elapsed().as_secs_f64());
            let began = Instant::now();
            engine.shell(&command(&format!("backup {path}")))?;
            theirs[run].push(began.elapsed().as_secs_f64());
        }
        fs::remove_dir_all(&dir).map_err(|e| e.to_string())?;
    }
    for (name, run) in [("backup_first", 0), ("backup_second", 1)] {
        let figures = [crate::median(ours[run].clone()), crate::median(theirs[run].clone())];
        println!("{name:<16} {:>6} {}   (restic)", "s", crate::row(&figures));
    }
    engine.api("DELETE", "/volumes/bench-backup", &json!({}))?;
    Ok(())
}

fn backup(engine: &Engine<'_>, to: &Path) -> Result<(), String> {
    let body = json!({ "Repository": to, "Secret": PASSPHRASE });
    let path = "/sampan/volumes/bench-backup/backup";
    let (_, messages) =
        crate::client::request(&engine.host().socket(), "POST", path, &body.to_string())?;
    if messages.contains("errorDetail") { Err(messages) } else { Ok(()) }
}

/// Files of 100 to 2,100 bytes that don't compress well.
fn fill(root: &Path) -> std::io::Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for n in 0..FILES {
        let dir = root.join(format!("d{}", n % DIRECTORIES));
        if n < DIRECTORIES {
            fs::create_dir(&dir)?;
        }
        let mut content = Vec::new();
        for _ in 0..(100 + n * 7919 % 2000) / 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend(state.to_le_bytes());
        }
        fs::write(dir.join(format!("f{n}")), content)?;
    }
    Ok(())
}
