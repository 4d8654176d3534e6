# The demo's daemon: where it lives, and how it is started. Sourced after
# common.sh, with `$sampan` naming the binary.

home=${SAMPAN_DEMO_DIR:-/var/lib/sampan-demo}
run=/run/sampan-demo
# The mark of an instance with this exec-root, which its cgroup and table bear.
instance=sampan-73ca6a4a
host="unix://$run/sampan.sock"

demo_daemon_runs() {
    curl -fs --max-time 5 --unix-socket "$run/sampan.sock" http://sampan/_ping >/dev/null 2>&1
}

start_demo_daemon() {
    mkdir -p "$home" "$run"
    setsid "$sampan" daemon -H "$host" --data-root "$home/data" --exec-root "$run/exec" \
        --pidfile "$run/sampan.pid" --bridge sampan-demo0 --bip 172.31.250.1/24 \
        </dev/null >>"$home/daemon.log" 2>&1 &
    tries=0
    until demo_daemon_runs; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || { tail -n 20 "$home/daemon.log" >&2; exit 1; }
        sleep 0.1
    done
}
