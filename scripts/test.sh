#!/bin/sh
# Installs what the tests need and runs all of them.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

need_root
use_toolchain
# shellcheck disable=SC2086
install_packages $build_packages curl iproute2 util-linux bsdutils mount procps busybox-static containernetworking-plugins openssl \
    docker-registry runc crun nftables e2fsprogs
install_docker_cli
install_vm_packages

# The daemon under test has its fault points compiled in.
cargo test --workspace --features sampan/fault-points -- --test-threads=4
