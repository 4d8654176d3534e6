# What the checks share. Sourced with `set -eu` on; a check fails with its
# first command that fails.

# The shell takes its own applets before programs of the same name.
ip() { /usr/sbin/ip "$@"; }

# Runs a script in the namespace on the other side of the LAN.
outside() { nsenter --net=/run/netns/outside sh -ec ". /checks/lib.sh; $1"; }

# Asks the web server at $1; run it where the question comes from.
ask() { timeout 5 wget -q -O - "http://$1/"; }

# Ends the check, which can't run here.
skip() { echo "$*" > /tmp/skipped; exit 0; }

fail() { echo "$*" >&2; exit 1; }

# is GOT WANTED
is() { [ "$1" = "$2" ] || fail "got '$1' instead of '$2'"; }

has() { case $1 in *"$2"*) ;; *) fail "'$2' is not in '$1'" ;; esac; }

# Fails when its command succeeds; prints what that says.
refused() {
    if said=$("$@" 2>&1); then fail "should have failed: $*: $said"; fi
    echo "$said"
}

# Waits until a command succeeds, 10 s at most.
until_ok() {
    for _ in $(seq 100); do
        if "$@" > /dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    "$@"
}

# Starts the daemon with these options, and waits until it answers, 60 s at
# most. When it ends it gives up soon what still goes on.
start_daemon() {
    sampan daemon --shutdown-timeout 1 "$@" >> /var/log/sampan.log 2>&1 &
    echo $! > /run/daemon.pid
    for _ in $(seq 600); do
        if sampan version > /dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
}

stop_daemon() {
    pid=$(cat /run/daemon.pid)
    kill "$pid"
    until_ok test ! -e "/proc/$pid"
}

# Makes the image busybox.
make_image() { tar -C /image -c . | sampan import - busybox:latest > /dev/null; }

# A container that serves its name: web NAME [option…]
web() {
    name=$1
    shift
    sampan run -d --name "$name" "$@" busybox \
        sh -c "mkdir -p /www; echo $name > /www/index.html; exec httpd -f -p 80 -h /www" > /dev/null
}

# The address of container $1 on network $2.
address() { sampan inspect -f "{{(index .NetworkSettings.Networks \"$2\").IPAddress}}" "$1"; }

# The directory of a container's cgroup.
cgroup() {
    pid=$(sampan inspect -f '{{.State.Pid}}' "$1")
    echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")"
}

# Removes what a check left.
clean() {
    all=$(sampan ps -aq)
    # shellcheck disable=SC2086
    [ -z "$all" ] || sampan rm -f $all
    sampan network prune -f
    sampan volume prune -af
    if [ -e /disk.img ]; then
        stop_daemon
        start_daemon
        umount -l /disk
        rm /disk.img
    fi
}
