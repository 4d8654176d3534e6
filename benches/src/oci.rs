//! A container's start against bare OCI runtimes on the same root file system.

use serde_json::{Value, json};

use crate::engine::Engine;
use crate::{median_of, timed};

const ROUNDS: usize = 5;
const RUNS: usize = 10;
const RUNTIMES: [&str; 2] = ["crun", "runc"];

/// Prints the time of `crun run` and `runc run` of `/bin/true` beside that of
/// a start through the engine, on the default bridge. All are taken in turns.
pub fn compare(engine: &Engine<'_>) {
    let mut ours = Vec::new();
    let mut theirs = RUNTIMES.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        ours.push(start(engine));
        for (runtime, figures) in RUNTIMES.iter().zip(&mut theirs) {
            figures.push(run(engine, runtime));
        }
    }
    let ours = middle(ours);
    println!("{:<16} {:>6} {:>12}", "oci: engine", "ms", show(&ours));
    for (runtime, figures) in RUNTIMES.iter().zip(theirs) {
        let theirs = middle(figures);
        let ratio = match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => format!("   ratio {:.3}", ours / theirs),
            _ => String::new(),
        };
        println!("{:<16} {:>6} {:>12}{ratio}", format!("oci: {runtime}"), "ms", show(&theirs));
    }
}

fn middle(figures: Vec<Result<f64, String>>) -> Result<f64, String> {
    let mut figures = figures.into_iter();
    median_of(figures.len(), || figures.next().unwrap_or_else(|| Err("no figure".to_owned())))
}

fn start(engine: &Engine<'_>) -> Result<f64, String> {
    median_of(RUNS, || {
        let id = engine.create(&json!({}))?;
        let figure = timed(|| engine.start(&id));
        engine.remove(&[id]);
        figure
    })
}

fn show(figure: &Result<f64, String>) -> String {
    match figure {
        Ok(figure) => format!("{figure:.2}"),
        Err(e) => e.clone(),
    }
}

/// The median time of `RUNTIME run` of `/bin/true`. crun refuses a host with
/// both versions of cgroups, so the unified mount is hidden from it.
fn run(engine: &Engine<'_>, runtime: &str) -> Result<f64, String> {
    let bundle = engine.host().dir().join(format!("bundle-{runtime}"));
    std::fs::create_dir_all(&bundle).map_err(|e| e.to_string())?;
    engine.shell(&format!("cd {} && rm -f config.json && {runtime} spec", bundle.display()))?;
    let file = bundle.join("config.json");
    let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
    let mut spec: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["/bin/true"]);
    spec["root"]["path"] = json!(engine.rootfs());
    std::fs::write(&file, spec.to_string()).map_err(|e| e.to_string())?;
    // One shell for all runs, so that only the runtime's own time counts.
    let script = format!(
        "umount /sys/fs/cgroup/unified 2>/dev/null; cd {}; \
         for i in $(seq {RUNS}); do {runtime} run bench-$i || exit 1; done",
        bundle.display()
    );
    let all = timed(|| engine.shell(&format!("unshare -m sh -c '{script}'")).map(drop))?;
    Ok(all / RUNS as f64)
}
