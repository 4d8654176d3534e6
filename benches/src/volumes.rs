//! Volumes: reading and writing in one against a directory of the host, and
//! the list of many.

use serde_json::json;

use crate::engine::Engine;

/// How many volumes are listed.
const MANY: usize = 10_000;

const ROUNDS: usize = 7;

/// Writes and reads a file of 256 MiB in blocks of 4 KiB, then makes and
/// removes 2,000 small files; prints how many hundredths of a second each took.
/// The page cache holds it all: what is compared is the way, not the disk.
const SCRIPT: &str = "
now() { read -r up _ < /proc/uptime; echo \"${up%.*}${up#*.}\"; }
began=$(now)
for i in 1 2 3 4; do
    dd if=/dev/zero of=file bs=4k count=65536 conv=notrunc 2> /dev/null
    dd if=file of=/dev/null bs=4k 2> /dev/null
done
half=$(now)
for round in 1 2 3 4 5; do
    i=0; while [ $i -lt 2000 ]; do echo content > small$i; i=$((i + 1)); done
    rm small*
done
echo $((half - began)) $(($(now) - half))";

/// Prints what the script takes in a volume, in its directory on the host, and
/// in the volume under the filter of system calls, which costs each of them
/// the same whatever it reads.
pub fn compare_io(engine: &Engine<'_>) {
    if let Err(e) = io_rounds(engine) {
        eprintln!("volume_io: {e}");
    }
}

fn io_rounds(engine: &Engine<'_>) -> Result<(), String> {
    for (name, options) in [("free", "--security-opt seccomp=unconfined"), ("io", "")] {
        engine.shell(&format!(
            "docker run -d --name {name} {options} -v bench-io:/v -w /v busybox sleep 100000"
        ))?;
    }
    let volume = engine.api("GET", "/volumes/bench-io", &json!({}))?;
    let volume = volume["Mountpoint"].as_str().ok_or("the volume has no place")?.to_owned();
    let script = engine.host().dir().join("io.sh");
    std::fs::write(&script, SCRIPT).map_err(|e| e.to_string())?;
    let script = script.display();
    // The same files: others may lie in the page cache in other pieces.
    let host = format!("cd {volume} && busybox sh {script}");
    let inside = |name: &str| format!("docker exec -i {name} sh < {script}");
    let mut figures = [const { [const { Vec::new() }; 3] }; 2];
    for _ in 0..ROUNDS {
        for (place, command) in [&inside("free"), &host, &inside("io")].into_iter().enumerate() {
            let text = engine.shell(command)?;
            for (part, number) in text.split_whitespace().enumerate().take(2) {
                let hundredths: f64 = number.parse().map_err(|_| text.clone())?;
                figures[part][place].push(hundredths * 10.0);
            }
        }
    }
    for (name, places) in ["volume_blocks", "volume_files"].iter().zip(figures) {
        let row = crate::row(&places.map(crate::median));
        println!("{name:<16} {:>6} {row}   (directory of the host; with the filter)", "ms");
    }
    engine.clear();
    engine.api("DELETE", "/volumes/bench-io", &json!({})).map(drop)
}

/// `docker volume ls` of 10,000 volumes, with the command's own time. Docker
/// is not asked: it takes minutes to make them.
pub fn list(engine: &Engine<'_>) -> Result<f64, String> {
    if engine.name == "docker" {
        return Err("not measured".to_owned());
    }
    for n in 0..MANY {
        engine.api("POST", "/volumes/create", &json!({ "Name": format!("many{n}") }))?;
    }
    let figure = crate::median_of(5, || {
        crate::timed(|| engine.shell("docker volume ls -q > /dev/null").map(drop))
    });
    engine.shell("docker volume prune -af")?;
    figure
}
