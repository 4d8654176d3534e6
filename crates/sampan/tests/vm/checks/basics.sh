# Containers on a host with nothing but cgroup v2 and the kernel's own modules.

check_the_host_is_what_it_should_be() {
    is "$(grep -c '^[^ ]* [^ ]* cgroup' /proc/mounts)" 1
    has "$(cat /proc/mounts)" ' /sys/fs/cgroup cgroup2 '
    has "$(cat /sys/fs/cgroup/cgroup.controllers)" 'cpuset cpu io memory'
    has "$(sampan info)" 'Cgroup Version: 2'
}

check_run_prints_and_exits() {
    is "$(sampan run --rm busybox echo hello)" hello
    code=0
    sampan run --rm busybox sh -c 'exit 7' || code=$?
    is "$code" 7
}

check_exec_stop_and_restart() {
    sampan run -d --name c1 busybox sleep 600
    is "$(sampan exec c1 hostname)" "$(sampan inspect -f '{{.Config.Hostname}}' c1)"
    group=$(cgroup c1)
    [ -d "$group" ]
    sampan restart -t 1 c1
    sampan exec c1 true
    sampan stop -t 1 c1
    is "$(sampan inspect -f '{{.State.Status}}' c1)" exited
    sampan rm c1
    until_ok test ! -e "$group"
}

check_a_container_sees_its_own_cgroup() {
    is "$(sampan run --rm busybox cat /proc/self/cgroup)" 0::/
    has "$(sampan run --rm -m 64m busybox cat /sys/fs/cgroup/memory.max)" 67108864
    has "$(sampan run --rm --cgroupns host busybox cat /proc/self/cgroup)" 0::/sampan
    refused sampan run --rm busybox mkdir /sys/fs/cgroup/below
}

check_the_daemon_dies_and_containers_live() {
    web w1 -p 8080:80
    pid=$(cat /run/daemon.pid)
    kill -9 "$pid"
    until_ok test ! -e "/proc/$pid"
    is "$(ask 127.0.0.1:8080)" w1
    start_daemon
    is "$(sampan inspect -f '{{.State.Running}}' w1)" true
    [ -n "$(cat "$(cgroup w1)/cgroup.procs")" ]
    is "$(ask 127.0.0.1:8080)" w1
}
