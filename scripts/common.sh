# Shared by the scripts beside it: packages, the toolchain, messages.
# Sourced with `set -eu` on.

say() { printf '\n== %s\n' "$*"; }

need_root() {
    [ "$(id -u)" = 0 ] || { echo "this needs root: run it with sudo" >&2; exit 1; }
}

# Runs a command when the script ends, after those that were given before.
# A script that uses it must not end with exec.
at_exit_commands=
at_exit() {
    at_exit_commands="${at_exit_commands:+$at_exit_commands; }$1"
    # shellcheck disable=SC2064
    trap "$at_exit_commands" EXIT
}

enabled_units() { find /etc/systemd/system -type l 2>/dev/null || true; }

# Installs those of the named Debian packages that are not there yet. Services
# that come with them are neither started now nor at the next boot.
install_packages() {
    missing=
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing="$missing $package"
    done
    [ -z "$missing" ] && return 0
    say "Installing Debian packages:$missing"
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod +x "$policy"
        at_exit 'rm -f /usr/sbin/policy-rc.d'
    fi
    before=$(enabled_units)
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    enabled_units | while read -r unit; do
        printf '%s\n' "$before" | grep -qxF "$unit" || rm -f "$unit"
    done
}

# Debian's docker command comes with its daemon, which is not wanted here.
install_docker_cli() {
    command -v docker >/dev/null 2>&1 || install_packages docker.io
}

# Under sudo the toolchain is the calling user's. What cargo writes is given
# back to that user at the end.
use_toolchain() {
    if ! command -v cargo >/dev/null 2>&1 && [ -n "${SUDO_USER:-}" ]; then
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        export CARGO_HOME="${CARGO_HOME:-$home/.cargo}" RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}"
        export PATH="$CARGO_HOME/bin:$PATH"
        at_exit 'chown -R "$SUDO_USER:" "${CARGO_TARGET_DIR:-target}" "$CARGO_HOME" "$RUSTUP_HOME" 2>/dev/null || true'
    fi
    command -v cargo >/dev/null 2>&1 || {
        echo "cargo is not found: install the Rust toolchain (https://rustup.rs) first" >&2
        exit 1
    }
}

# The release binary's path.
release_binary() {
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    echo "$target/x86_64-unknown-linux-gnu/release/sampan"
}

build_packages="gcc clang libc6-dev libseccomp-dev pkg-config"

# What the emulated machine is made of: some 52 MB to download, 20 s. On a
# system that has no such kernel package its test skips itself, visibly.
vm_packages="qemu-system-x86 linux-image-cloud-amd64"
# What some of its checks run there: a file server and mkfs, 13 MB. Without them
# those checks skip themselves.
vm_programs="samba e2fsprogs xfsprogs"
install_vm_packages() {
    # shellcheck disable=SC2086
    install_packages $vm_packages || echo "the emulated machine can't be installed: its test will be skipped" >&2
    # shellcheck disable=SC2086
    install_packages $vm_programs || echo "some checks of the emulated machine will be skipped" >&2
}
