#!/bin/sh
# Runs the checks of the emulated machine; words choose those whose names have
# the first of them.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

need_root
use_toolchain
# shellcheck disable=SC2086
install_packages $build_packages busybox-static iproute2 nftables
install_vm_packages

cargo test -p sampan --features fault-points --test vm -- "$@"
