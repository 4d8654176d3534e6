#!/bin/sh
# Fuzzes every target for SECONDS_EACH (default 60). Needs a nightly toolchain
# and cargo-fuzz.
set -eu
cd "$(dirname "$0")"
command -v cargo-fuzz >/dev/null 2>&1 || cargo install cargo-fuzz --locked
for target in $(sed -n 's/^name = "\(.*\)"/\1/p' Cargo.toml | tail -n +2); do
    echo "== $target"
    cargo +nightly fuzz run "$target" --target x86_64-unknown-linux-gnu -- \
        -max_total_time="${SECONDS_EACH:-60}" -max_len=65536
done
