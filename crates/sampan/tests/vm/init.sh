#!/bin/sh
# The first process of the emulated machine: brings the system up, starts the
# daemon, runs the checks and switches the machine off. What it says to the
# test begins with "@@".
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C

if [ "$1" != second ]; then
    # A container's root can't be changed on the file system that the kernel
    # boots with: everything moves to another one.
    /bin/mkdir /system
    /bin/mount -t tmpfs -o size=70%,mode=755 none /system
    for entry in /*; do
        case $entry in /system | /proc | /sys | /dev) ;; *) /bin/cp -a "$entry" /system/ ;; esac
    done
    /bin/mkdir /system/proc /system/sys /system/dev
    exec /bin/switch_root /system /init second
fi

mkdir -p /sbin /run /tmp /var/lib /var/log
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
mount -t cgroup2 none /sys/fs/cgroup
mount --make-rshared /
ln -sf /bin/modprobe /sbin/modprobe
hostname vm
echo 'nameserver 127.0.0.1' > /etc/resolv.conf
ip link set lo up
# What the emulated kernel reports in red is of interest only after a failure.
dmesg -n 1

. /checks/lib.sh

# The LAN: eth0 here, a namespace "outside" at the other end.
modprobe -a bridge veth overlay tun
# It brings a dummy0 along otherwise.
modprobe dummy numdummies=0
ip netns add outside
ip link add eth0 type veth peer name lan0 netns outside
ip addr add 10.99.0.1/24 dev eth0
ip addr add fd99::1/64 dev eth0 nodad
ip link set eth0 up
outside 'ip link set lo up; ip addr add 10.99.0.2/24 dev lan0
    ip addr add fd99::2/64 dev lan0 nodad; ip link set lan0 up'
mkdir -p /www
echo outside > /www/index.html
outside 'httpd -p 80 -h /www'

echo "@@ up $(cut -d' ' -f1 /proc/uptime)"
export RUST_BACKTRACE=1
start_daemon
if ! sampan version > /dev/null 2>&1; then
    sed 's/^/@@ | /' /var/log/sampan.log
    echo '@@ failed the-daemon-starts 0'
    poweroff -f
fi
mkdir -p /image/bin /image/etc /image/tmp /image/root
cp /bin/busybox /image/bin/
for applet in $(busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "/image/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' > /image/etc/passwd
make_image
echo "@@ ready $(cut -d' ' -f1 /proc/uptime)"

for file in /checks/*.sh; do
    for check in $(sed -n 's/^check_\([a-z0-9_]*\)() {$/\1/p' "$file"); do
        case $check in *"$only"*) ;; *) continue ;; esac
        echo "@@ begin $check"
        began=$(cut -d' ' -f1 /proc/uptime)
        size=$(wc -c < /var/log/sampan.log)
        if timeout 90 sh -euxc ". /checks/lib.sh; . $file; check_$check" > /tmp/output 2>&1; then
            result=ok
            [ ! -e /tmp/skipped ] || result=skipped
        else
            result=failed
            { tail -n 60 /tmp/output; echo '-- daemon:'; tail -c "+$((size + 1))" /var/log/sampan.log | tail -n 20
                echo '-- kernel:'; dmesg | tail -n 10; } |
                sed 's/^/@@ | /'
        fi
        if [ $result = skipped ]; then
            echo "@@ skipped $check $(cat /tmp/skipped)"
        else
            echo "@@ $result $check $(awk "BEGIN { print $(cut -d' ' -f1 /proc/uptime) - $began }")"
        fi
        rm -f /tmp/skipped
        sh -c '. /checks/lib.sh; clean' > /dev/null 2>&1
    done
done
echo '@@ done'
sync
poweroff -f
