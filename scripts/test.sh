#!/bin/sh
# Installs what the tests need and runs all of them.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

need_root
use_toolchain
# shellcheck disable=SC2086
install_packages $build_packages curl iproute2 util-linux bsdutils mount procps busybox-static containernetworking-plugins openssl restic \
    docker-registry runc crun nftables e2fsprogs xfsprogs btrfs-progs postgresql
install_docker_cli
install_vm_packages

# All network namespaces of a machine share one table of neighbours; tests that
# run side by side fill one of the usual size.
for family in ipv4 ipv6; do
    for limit in gc_thresh2:8192 gc_thresh3:16384; do
        file=/proc/sys/net/$family/neigh/default/${limit%:*}
        [ -w "$file" ] && [ "$(cat "$file")" -lt "${limit#*:}" ] && echo "${limit#*:}" >"$file"
    done
done

# The daemon under test has its fault points compiled in.
cargo test --workspace --features sampan/fault-points -- --test-threads=4
