# Limits by cgroup v2 with its controllers.

check_memory_is_limited_and_the_kill_is_flagged() {
    code=0
    sampan run --name hog -m 32m busybox tail /dev/zero || code=$?
    is "$code" 137
    is "$(sampan inspect -f '{{.State.OOMKilled}}' hog)" true
    sampan run --name good -m 32m busybox true
    is "$(sampan inspect -f '{{.State.OOMKilled}}' good)" false
}

check_a_child_that_is_killed_for_memory_is_flagged_at_the_end() {
    sampan run -d --name parent -m 32m busybox sh -c 'tail /dev/zero; sleep 600'
    until_ok sh -c "grep -q 'oom_kill [1-9]' $(cgroup parent)/memory.events"
    is "$(sampan inspect -f '{{.State.Running}}' parent)" true
    sampan stop -t 0 parent
    is "$(sampan inspect -f '{{.State.OOMKilled}}' parent)" true
    has "$(sampan events --since 1h --until "$(($(date +%s) + 1))" --filter event=oom)" name=parent
}

check_limits_are_where_the_kernel_reads_them() {
    sampan run -d --name lim -m 64m --memory-swap 96m --memory-reservation 32m --cpus 0.5 \
        --cpu-shares 512 --cpuset-cpus 1 --pids-limit 20 busybox sleep 600
    group=$(cgroup lim)
    is "$(cat "$group/memory.max")" 67108864
    is "$(cat "$group/memory.swap.max")" 33554432
    is "$(cat "$group/memory.low")" 33554432
    is "$(cat "$group/cpu.max")" '50000 100000'
    is "$(cat "$group/cpu.weight")" 59
    is "$(cat "$group/cpuset.cpus")" 1
    is "$(cat "$group/pids.max")" 20
    is "$(sampan exec lim sed -n 's/^Cpus_allowed_list:\t//p' /proc/self/status)" 1
}

check_limits_change_while_it_runs() {
    sampan run -d --name upd -m 64m busybox sleep 600
    group=$(cgroup upd)
    sampan update -m 128m --memory-swap -1 --cpus 1.5 --cpu-shares 2048 --pids-limit 30 \
        --cpuset-cpus 0 upd
    is "$(cat "$group/memory.max")" 134217728
    is "$(cat "$group/memory.swap.max")" max
    is "$(cat "$group/cpu.max")" '150000 100000'
    is "$(cat "$group/cpu.weight")" 174
    is "$(cat "$group/pids.max")" 30
    is "$(cat "$group/cpuset.cpus")" 0
    sampan update --pids-limit -1 upd
    is "$(cat "$group/pids.max")" max
    sampan restart -t 0 upd
    is "$(cat "$(cgroup upd)/memory.max")" 134217728
}

check_processors_are_throttled() {
    sampan run -d --name busy --cpus 0.2 busybox sh -c 'while :; do :; done'
    group=$(cgroup busy)
    until_ok sh -c "grep -q 'nr_throttled [1-9]' $group/cpu.stat"
}

check_processes_are_limited() {
    sampan run -d --name few --pids-limit 6 busybox sleep 600
    said=$(sampan exec few sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 60 & done' 2>&1 || true)
    has "$said" fork
    is "$(sed -n 's/^max //p' "$(cgroup few)/pids.events" | grep -c '^0$')" 0
}

check_stats_are_true() {
    sampan run -d --name st -m 64m --pids-limit 10 busybox \
        sh -c 'dd if=/dev/zero of=/dev/shm/x bs=1M count=20; while :; do :; done'
    until_ok sh -c "[ \$(cat $(cgroup st)/memory.current) -gt 20000000 ]"
    line=$(sampan stats --no-stream --format '{{.MemUsage}} {{.PIDs}} {{.CPUPerc}}' st)
    has "$line" '/ 64MiB'
    used=$(echo "$line" | sed -n 's/^\([0-9]*\)[.0-9]*MiB.*/\1/p')
    [ "$used" -ge 20 ] && [ "$used" -lt 64 ] || fail "$line"
    percent=$(echo "$line" | sed -n 's/.* \([0-9]*\)[.0-9]*%$/\1/p')
    [ "$percent" -ge 10 ] || fail "$line"
}

check_pause_freezes_and_stop_ends_a_paused_one() {
    sampan run -d --name pz busybox sh -c 'while :; do date +%s%N > /tick; done'
    sampan pause pz
    group=$(cgroup pz)
    has "$(cat "$group/cgroup.events")" 'frozen 1'
    is "$(sampan inspect -f '{{.State.Status}}' pz)" paused
    sampan unpause pz
    has "$(cat "$group/cgroup.events")" 'frozen 0'
    sampan pause pz
    sampan rm -f pz
    until_ok test ! -e "$group"
}

check_devices_are_guarded() {
    sampan run --rm busybox sh -c 'cat /dev/null; head -c 1 /dev/urandom > /dev/null'
    refused sampan run --rm busybox sh -c 'mknod /tmp/tun c 10 200 && : < /tmp/tun'
    sampan run --rm --device /dev/net/tun:/dev/tun:r busybox sh -c ': < /dev/tun'
    refused sampan run --rm --device /dev/net/tun:/dev/tun:r busybox sh -c ': > /dev/tun'
    sampan run --rm --privileged busybox sh -c 'mknod /tmp/tun c 10 200 && : < /tmp/tun'
}

check_a_cgroup_parent_is_used() {
    sampan run -d --name cp --cgroup-parent /mine -m 64m busybox sleep 600
    has "$(cgroup cp)" /sys/fs/cgroup/mine/
    is "$(cat "$(cgroup cp)/memory.max")" 67108864
}

check_fork_bombs_end() {
    sampan run -d --name bomb --pids-limit 200 busybox sh -c 'b() { b | b & }; b; sleep 600'
    until_ok sh -c "[ \$(cat $(cgroup bomb)/pids.current) -gt 100 ]"
    group=$(cgroup bomb)
    sampan rm -f bomb
    until_ok test ! -e "$group"
}
