//! Copying trees against `cp -a --reflink=auto`, on file systems that share
//! content and on one that does not. Both are taken in turns and end in the
//! page cache: whoever needs more calls for it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use sampan_testkit::Disk;
use sampan_volume::{Watch, copy_tree};

use crate::median_of;

const ROUNDS: usize = 5;
const SMALL_FILES: usize = 20_000;
const LARGE_FILE: usize = 512 << 20;

/// Prints the time of both for each kind of file system and tree.
pub fn compare() {
    for kind in ["ext4", "btrfs", "xfs"] {
        let dir = std::env::temp_dir().join(format!("sampan-benches-{}", std::process::id()));
        let _ = fs::create_dir_all(&dir);
        if let Some(disk) = Disk::new_or_skip("copy", &dir, kind, 6 << 30, &[], "") {
            for (name, make) in [("small", small as fn(&Path)), ("large", large)] {
                let source = disk.path().join(name);
                make(&source);
                show(kind, name, &source, &disk.path());
                let _ = fs::remove_dir_all(source);
            }
        }
        let _ = fs::remove_dir_all(&dir);
    }
}

/// Many small files in some directories.
fn small(root: &Path) {
    for n in 0..SMALL_FILES {
        let dir = root.join(format!("d{}", n / 200));
        let _ = fs::create_dir_all(&dir);
        let _ = fs::write(dir.join(format!("f{n}")), vec![1u8; 500 + n % 8000]);
    }
}

fn large(root: &Path) {
    let _ = fs::create_dir_all(root);
    let _ = fs::write(root.join("f"), vec![1u8; LARGE_FILE]);
}

fn show(kind: &str, name: &str, source: &Path, disk: &Path) {
    let mut turn = 0;
    let mut target = || {
        turn += 1;
        disk.join(format!("copy{turn}"))
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(timed(&target(), |to| {
            fs::create_dir(to).map_err(|e| e.to_string())?;
            copy_tree(source, to, &Watch::default()).map_err(|e| e.to_string())
        }));
        theirs.push(timed(&target(), |to| {
            let cp = Command::new("cp").args(["-a", "--reflink=auto"]).arg(source).arg(to).status();
            match cp {
                Ok(status) if status.success() => Ok(()),
                other => Err(format!("cp: {other:?}")),
            }
        }));
    }
    let middle = |figures: Vec<Result<f64, String>>| {
        let mut figures = figures.into_iter();
        median_of(ROUNDS, || figures.next().unwrap_or_else(|| Err("no figure".to_owned())))
    };
    match (middle(ours), middle(theirs)) {
        (Ok(ours), Ok(theirs)) => println!(
            "{:<16} {:>6} {ours:>12.1} {theirs:>12.1}   ratio {:.3}",
            format!("copy: {kind} {name}"),
            "ms",
            ours / theirs
        ),
        (ours, theirs) => println!("copy: {kind} {name}: {ours:?} {theirs:?}"),
    }
}

/// Milliseconds; what was copied is removed again, and the disk at rest.
fn timed(to: &Path, copy: impl Fn(&Path) -> Result<(), String>) -> Result<f64, String> {
    let _ = Command::new("sync").status();
    let begun = Instant::now();
    copy(to)?;
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    let _ = fs::remove_dir_all(to);
    Ok(took)
}
