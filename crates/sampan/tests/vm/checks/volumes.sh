# Volumes on what the kernel at hand may not have: network file systems, whose
# servers run in this machine, and project quotas.

# Serves /export at 127.0.0.1 by NFS 4. What exportfs and rpc.mountd would
# answer when the kernel asks is put into its caches before.
nfs_server() {
    if [ -e /proc/fs/nfsd/threads ]; then return 0; fi
    modprobe nfsd
    [ -e /proc/fs/nfsd/threads ] || mount -t nfsd none /proc/fs/nfsd
    # Where it notes its clients.
    mkdir -p /export /var/lib/nfs/v4recovery
    # Version 3 would want rpcbind.
    echo '-3 +4 +4.1 +4.2' > /proc/fs/nfsd/versions
    always=2147483647
    echo "nfsd 127.0.0.1 $always all" > /proc/net/rpc/auth.unix.ip/channel
    # Flags: the root of version 4, numbered, no subtree check; path and number.
    echo "all / $always 0x12401 65534 65534 0" > /proc/net/rpc/nfsd.export/channel
    echo "all /export $always 0x2400 65534 65534 1" > /proc/net/rpc/nfsd.export/channel
    printf '%s\n' "all 1 \\x00000000 $always /" > /proc/net/rpc/nfsd.fh/channel
    printf '%s\n' "all 1 \\x01000000 $always /export" > /proc/net/rpc/nfsd.fh/channel
    echo 2 > /proc/fs/nfsd/threads
    # There is nobody who could take up what an earlier server gave.
    echo Y > /proc/fs/nfsd/v4_end_grace
}

# Fails when a volume of file system type $1 is mounted still.
none_mounted() { is "$(grep "/volumes/.* $1" /proc/mounts || true)" ''; }

# shared VOLUME DIRECTORY: containers that use the volume see each other's
# files, which are in the server's directory, and stay there.
shared() {
    is "$(sampan inspect -f '{{.State.Running}}' first)" true
    sampan run --rm -v "$1:/data" busybox sh -c 'cat /data/one > /data/two'
    is "$(cat "$2/one" "$2/two")" "$(printf '1\n1')"
    is "$(sampan exec first cat /data/two)" 1
    echo 3 > "$2/three"
    until_ok sampan exec first cat /data/three
}

check_an_nfs_export_is_a_volume() {
    nfs_server
    sampan volume create -o type=nfs -o o=addr=127.0.0.1,vers=4,rw -o device=:/export share
    sampan run -d --name first -v share:/data busybox sh -c 'echo 1 > /data/one; exec sleep 600'
    until_ok grep 1 /export/one
    has "$(grep /volumes/share/_data /proc/mounts)" ' nfs4 rw,'
    shared share /export
    has "$(refused sampan run --rm -v share:/data:ro busybox touch /data/x)" 'Read-only'
    sampan rm -f first
    none_mounted nfs
    sampan volume rm share
    is "$(cat /export/three)" 3
}

check_an_nfs_server_that_is_not_there_is_named() {
    nfs_server
    nfs() { sampan volume create -o type=nfs -o "o=vers=4.2,$1" -o "device=:$2" bad; }
    nfs addr=127.0.0.1 /nothing
    said=$(refused sampan run --rm -v bad:/data busybox true)
    has "$said" "mount :/nothing:"
    has "$said" 'no such file or directory'
    sampan volume rm bad
    nfs addr=127.0.0.1,port=2050 /export
    has "$(refused sampan run --rm -v bad:/data busybox true)" 'connection refused'
    sampan volume rm bad
    none_mounted nfs
}

# Starts a container that waits for a silent server.
start_it() {
    sampan create --name starts -v mute:/data busybox true
    sampan start starts >> /tmp/starts 2>&1 &
}

# The daemon may see the removal before the start: then all over again.
is_starting() {
    if sampan rm starts > /tmp/removed 2>&1; then
        start_it
        return 1
    fi
    grep 'being started' /tmp/removed
}

check_an_nfs_server_that_says_nothing_holds_up_nobody_else() {
    ip neigh replace 10.99.0.66 lladdr 02:00:00:00:00:66 dev eth0
    sampan volume create -o type=nfs -o o=addr=10.99.0.66,vers=4.2 -o device=:/export mute
    # The image has something there: it is mounted before the container is made.
    sampan run --name waits -v mute:/etc busybox true > /tmp/waits 2>&1 &
    until_ok sh -c 'cat /proc/[0-9]*/task/*/comm | grep volume-'
    is "$(sampan run --rm -v other:/data busybox echo hello)" hello
    timeout 10 sampan system df -v
    has "$(refused timeout 10 sampan volume rm mute)" 'is being copied or mounted'
    timeout 10 sampan rm -f waits
    until_ok grep 'creation of container waits was cancelled: it is being removed' /tmp/waits
    start_it
    until_ok is_starting
    timeout 10 sampan rm -f starts
    until_ok grep 'start of container starts was cancelled: it is being removed' /tmp/starts
    # The daemon that ends does not wait for the server either.
    grep volume- /proc/[0-9]*/task/*/comm
    stop_daemon
    start_daemon
    is "$(sampan ps -aq)" ''
    sampan volume rm mute
    none_mounted nfs
}

# Serves /share to the user web at 127.0.0.1 by SMB.
smb_server() {
    command -v smbd || skip 'samba is not installed'
    if [ -d /share ]; then return 0; fi
    mkdir -p /share /etc/samba /run/samba /var/log/samba /var/cache/samba /var/lib/samba/private
    chown web /share
    printf '%s\n' '[global]' 'interfaces = lo' 'bind interfaces only = yes' 'disable netbios = yes' \
        'smb ports = 445' 'disable spoolss = yes' 'load printers = no' \
        '[share]' 'path = /share' 'read only = no' > /etc/samba/smb.conf
    printf 's3cret\ns3cret\n' | smbpasswd -s -a web
    smbd -D
    until_ok grep ':01BD 0*:0000 0A' /proc/net/tcp
}

check_an_smb_share_is_a_volume() {
    smb_server
    sampan volume create -o type=cifs -o o=addr=127.0.0.1,username=web,password=s3cret \
        -o device=//127.0.0.1/share share
    sampan run -d --name first -v share:/data busybox sh -c 'echo 1 > /data/one; exec sleep 600'
    until_ok grep 1 /share/one
    has "$(grep /volumes/share/_data /proc/mounts)" ' cifs rw,'
    shared share /share
    sampan rm -f first
    none_mounted cifs
    sampan volume rm share
    is "$(cat /share/three)" 3
}

check_a_wrong_smb_password_is_not_shown() {
    smb_server
    size=$(wc -c < /var/log/sampan.log)
    for key in password pass; do
        sampan volume create -o type=cifs -o "o=addr=127.0.0.1,username=web,$key=wr0ng" \
            -o device=//127.0.0.1/share bad
        said=$(refused sampan run --rm -v bad:/data busybox true)
        has "$said" 'mount //127.0.0.1/share:'
        has "$said" 'permission denied'
        case $said in *wr0ng*) fail "it has the password" ;; esac
        sampan volume rm bad
    done
    refused sh -c "tail -c +$((size + 1)) /var/log/sampan.log | grep wr0ng"
    none_mounted cifs
}

# on_disk TYPE MOUNT-OPTIONS [option of mkfs…]: the daemon with a data root on a
# file system of its own, until the check ends.
on_disk() {
    type=$1 with=$2
    shift 2
    command -v "mkfs.$type" || skip "mkfs.$type is not installed"
    modprobe loop
    truncate -s 320M /disk.img
    "mkfs.$type" -q "$@" /disk.img
    mkdir -p /disk
    mount -t "$type" -o "loop,$with" /disk.img /disk
    stop_daemon
    start_daemon --data-root /disk/data
    make_image
}

# dies_at POINT DATA-ROOT COMMAND…: the daemon dies there in the middle of the
# command, and another one starts.
dies_at() {
    point=$1 root=$2
    shift 2
    stop_daemon
    export SAMPAN_FAULT="$point"
    start_daemon --data-root "$root"
    unset SAMPAN_FAULT
    refused "$@"
    until_ok test ! -e "/proc/$(cat /run/daemon.pid)"
    start_daemon --data-root "$root"
    is "$(ls -A "$root/volumes" | grep '^[.]' || true)" ''
}

# What inspect says of volume $1 under Status: $2.
status() { sampan volume inspect -f "{{.Status.$2}}" "$1"; }

# Writes $2 MiB into the volume of container $1.
write() { sampan exec "$1" dd if=/dev/zero of=/data/x bs=1M count="$2"; }

# limited SAID: a volume has a project quota, which it says that it exceeded.
limited() {
    sampan volume create -o size=20m lim
    has "$(status lim storage)" 'project quota'
    grep -q '"project": *1400000000\b' /disk/data/volumes/lim/volume.json
    sampan run -d --name wr -v lim:/data -v free:/free busybox sleep 600
    has "$(refused write wr 40)" "$1"
    used=$(status lim used)
    [ "$used" -gt 19000000 ] && [ "$used" -le 20971520 ] || fail "used: $used"
    sampan exec wr dd if=/dev/zero of=/free/x bs=1M count=30

    sampan volume resize lim 50m
    write wr 40
    has "$(refused sampan volume resize lim 30m)" 'it holds 40'
    has "$(sampan system df -v | grep '^lim ')" 41.9
    # Walking would count it.
    sampan exec wr sh -c ': > /data/x; truncate -s 1G /data/x'
    [ "$(status lim used)" -lt 1000000 ]
    sampan volume resize lim 10m
    has "$(refused write wr 20)" "$1"
    sampan rm -f wr
    sampan volume rm lim
    # Its id is free: nothing is counted for it, and nothing forbidden.
    sampan volume create -o size=15m again
    grep -q '"project": *1400000000\b' /disk/data/volumes/again/volume.json
    sampan run --rm -v again:/data busybox dd if=/dev/zero of=/data/x bs=1M count=14
}

check_a_project_quota_of_ext4_limits_a_volume() {
    on_disk ext4 prjquota -O quota,project -E quotatype=prjquota -I 256
    limited 'quota exceeded'
    dies_at volume-create:after-directory /disk/data sampan volume create -o size=5m second
    is "$(status again limit)" 15728640
    sampan volume create -o size=5m second
    # The volume that was not made has no id.
    grep -q '"project": *1400000001\b' /disk/data/volumes/second/volume.json
}

check_a_project_quota_of_xfs_limits_a_volume() {
    on_disk xfs pquota
    limited 'No space left'
}

# Making a key takes seconds here.
check_an_encrypted_directory_has_a_project_quota() {
    on_disk ext4 prjquota -O encrypt,quota,project -E quotatype=prjquota -I 256
    echo right > /key
    data=/disk/data/volumes/enc/_data
    make() { sampan volume create -o encrypted=true -o key-file=/key -o size=10m enc; }
    dies_at volume-create:after-key /disk/data make
    make
    has "$(status enc storage)" 'project quota'
    sampan create --name wr -v enc:/data busybox sh -c 'echo plain > /data/plain; exec sleep 600'
    # What is being started then is started by the next daemon.
    dies_at volume-mount:after-key /disk/data sampan start wr
    until_ok sampan exec wr cat /data/plain
    has "$(refused write wr 20)" 'quota exceeded'
    stop_daemon
    start_daemon --data-root /disk/data
    is "$(sampan exec wr cat /data/plain)" plain
    sampan rm -f wr
    refused ls "$data/plain"
    is "$(ls "$data" | wc -l)" 2
    refused cat "$data/"*
    sampan volume rm enc
}

# Before Linux 6.15 its file system is mounted beside for a moment.
check_a_death_while_an_encrypted_image_is_mounted() {
    command -v mkfs.ext4 || skip 'mkfs.ext4 is not installed'
    modprobe loop
    echo right > /key
    volumes=/var/lib/sampan/volumes
    sampan volume create -o encrypted=true -o key-file=/key -o size=8m img
    sampan create --name wr -v img:/data busybox sleep 600
    dies_at volume-mount:after-place /var/lib/sampan sampan start wr
    until_ok sampan exec wr true
    has "$(refused write wr 20)" 'No space left'
    is "$(grep -c " $volumes/img/" /proc/mounts)" 1
    is "$(cat /sys/block/loop*/loop/backing_file)" "$volumes/img/content.img"
    sampan rm -f wr
    none_mounted ext4
    is "$(ls -A "$volumes/img" | tr '\n' ' ')" '_data content.img volume.json '
    until_ok sh -c '! cat /sys/block/loop*/loop/backing_file'
}

# Neither a loop device nor a mapping is left.
no_devices() {
    until_ok sh -c '! cat /sys/block/loop*/loop/backing_file'
    until_ok sh -c '! cat /sys/block/dm-*/dm/name'
}

check_a_volume_is_encrypted_below_its_file_system() {
    command -v mkfs.ext4 || skip 'mkfs.ext4 is not installed'
    echo right > /key
    image=/var/lib/sampan/volumes/blk/content.img
    make() { sampan volume create -o encrypted=dm-crypt -o key-file=/key -o size=16m blk; }
    dies_at volume-mount:after-mapping /var/lib/sampan make
    no_devices
    make
    is "$(status blk encryption)" dm-crypt
    no_devices
    sampan create --name wr -v blk:/data busybox \
        sh -c 'echo in-plain-words > /data/f; exec sleep 600'
    # What is being started then is started by the next daemon.
    dies_at volume-mount:after-mapping /var/lib/sampan sampan start wr
    until_ok sampan exec wr grep words /data/f
    has "$(cat /sys/block/dm-*/dm/name)" sampan-volume-
    sync
    # What is found on the mapping is not in the file.
    head -c 8388608 "/dev/$(cd /sys/block && ls -d dm-*)" | grep -a -q in-plain-words
    refused sh -c "head -c 8388608 $image | grep -a in-plain-words"
    has "$(refused write wr 30)" 'No space left'
    sampan volume resize blk 64m
    write wr 30
    stop_daemon
    start_daemon
    is "$(sampan exec wr cat /data/f)" in-plain-words
    sampan rm -f wr
    no_devices
    none_mounted ext4
}

check_a_volume_that_is_encrypted_below_is_cared_for() {
    command -v mkfs.ext4 || skip 'mkfs.ext4 is not installed'
    echo right > /key
    sampan volume create -o encrypted=dm-crypt -o key-file=/key -o size=16m blk
    sampan run --rm -v blk:/data busybox sh -c 'echo 1 > /data/f'
    sampan volume clone blk twin
    no_devices
    # It grows while nobody has it, too.
    sampan volume resize twin 64m
    sampan run --rm -v twin:/data busybox dd if=/dev/zero of=/data/x bs=1M count=40
    is "$(sampan run --rm -v twin:/data busybox cat /data/f)" 1
    echo wrong > /key
    has "$(refused sampan run --rm -v blk:/data busybox true)" 'key'
    no_devices
    sampan volume rm blk twin
}
