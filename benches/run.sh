#!/bin/sh
# Measures the release binary against what can be installed here: crun, runc,
# and Debian's dockerd when it is there. Arguments are names of measurements.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

need_root
use_toolchain
# shellcheck disable=SC2086
install_packages $build_packages curl iproute2 util-linux procps busybox-static runc crun iptables \
    iperf3 wrk dnsperf nginx-light restic
# Debian's package has both the docker command and the daemon to compare with.
command -v dockerd >/dev/null 2>&1 || install_packages docker.io
cargo build --release --bin sampan --package sampan
cargo build --release --package sampan-benches
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
built="$target/x86_64-unknown-linux-gnu/release"
"$built/sampan-benches" "$built/sampan" "$@"
