#!/bin/sh
# Takes away what the demo made: container, daemon, bridge, directories.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

need_root
use_toolchain
sampan=$(release_binary)
. scripts/demo-daemon.sh

if [ -e "$home/data" ]; then
    # The container outlives its daemon, and a daemon takes it away.
    demo_daemon_runs || start_demo_daemon
    "$sampan" -H "$host" ps -aq | xargs -r "$sampan" -H "$host" rm -f >/dev/null
    kill "$(cat "$run/sampan.pid")"
    # The daemon's last act is to remove the file.
    while [ -e "$run/sampan.pid" ]; do sleep 0.1; done
fi
ip link del sampan-demo0 2>/dev/null || true
if command -v nft >/dev/null 2>&1; then
    nft delete table inet "$instance" 2>/dev/null || true
fi
find /sys/fs/cgroup -depth -type d -path "*/$instance*" -exec rmdir {} + 2>/dev/null || true
# What is pinned there, programs of ports, goes with the mount.
awk -v run="$run/" 'index($2, run) == 1 { print $2 }' /proc/mounts | sort -r | while read -r at; do
    umount "$at"
done
rm -rf "$home" "$run"
echo "The demo is gone."
