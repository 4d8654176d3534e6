#!/bin/sh
# Takes away what the demo made: container, daemon, bridge, directories.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

need_root
home=${SAMPAN_DEMO_DIR:-/var/lib/sampan-demo}
run=/run/sampan-demo
if [ -s "$run/sampan.pid" ] && kill -0 "$(cat "$run/sampan.pid")" 2>/dev/null; then
    pid=$(cat "$run/sampan.pid")
    program=$(readlink "/proc/$pid/exe")
    DOCKER_HOST="unix://$run/sampan.sock" "${program% (deleted)}" rm -f demo-web >/dev/null 2>&1 || true
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
fi
ip link del sampan-demo0 2>/dev/null || true
rm -rf "$home" "$run"
echo "The demo is gone."
