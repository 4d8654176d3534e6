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

check_an_nfs_server_that_says_nothing_holds_up_nobody_else() {
    ip neigh replace 10.99.0.66 lladdr 02:00:00:00:00:66 dev eth0
    sampan volume create -o type=nfs -o o=addr=10.99.0.66,vers=4.2 -o device=:/export mute
    sampan run --name waits -v mute:/data busybox true > /dev/null 2>&1 &
    waits=$!
    until_ok sh -c 'cat /proc/[0-9]*/task/*/comm | grep volume-'
    is "$(sampan run --rm -v other:/data busybox echo hello)" hello
    timeout 10 sampan volume inspect mute
    timeout 10 sampan system df -v
    has "$(refused timeout 10 sampan volume rm mute)" 'is being copied or mounted'
    has "$(timeout 10 sampan volume prune -af)" other
    # The daemon that ends does not wait for the server either.
    [ -e "/proc/$waits" ]
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
