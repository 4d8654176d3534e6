#!/bin/sh
# Fuzzes every target, or those named, for SECONDS_EACH (default 60). Needs a
# nightly toolchain and cargo-fuzz. Finds are kept below artifacts/.
set -eu
cd "$(dirname "$0")"
command -v cargo-fuzz >/dev/null 2>&1 || cargo install cargo-fuzz --locked
# Sanitizers need the dynamic C library; cargo-fuzz sets RUSTFLAGS, which takes
# the place of the workspace's static flags.
# What a thread has that is just about to end looks leaked.
# Stores are made and removed thousands of times: in memory.
[ -d /dev/shm ] && export TMPDIR="${TMPDIR:-/dev/shm}"
[ $# -gt 0 ] || set -- $(sed -n 's/^name = "\(.*\)"/\1/p' Cargo.toml | tail -n +2)
for target in "$@"; do
    echo "== $target"
    mkdir -p "corpus/$target"
    cargo +nightly fuzz run --dev "$target" "corpus/$target" "seeds/$target" --target x86_64-unknown-linux-gnu -- \
        -max_total_time="${SECONDS_EACH:-60}" -max_len=65536 -rss_limit_mb=4096 -detect_leaks=0 -print_final_stats=1
done
