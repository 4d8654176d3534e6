# Shared by the scripts beside it: packages, the toolchain, messages.
# Sourced with `set -eu` on.

say() { printf '\n== %s\n' "$*"; }

need_root() {
    [ "$(id -u)" = 0 ] || { echo "this needs root: run it with sudo" >&2; exit 1; }
}

# Installs those of the named Debian packages that are not there yet.
install_packages() {
    missing=
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing="$missing $package"
    done
    [ -z "$missing" ] && return 0
    say "Installing Debian packages:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# Debian's docker command comes with its daemon; the package's service is not
# wanted here, so it is kept from starting.
install_docker_cli() {
    command -v docker >/dev/null 2>&1 && return 0
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod +x "$policy"
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    install_packages docker.io
    rm -f "$policy"
}

# Under sudo the toolchain is the calling user's. What cargo writes is given
# back to that user at the end.
use_toolchain() {
    if ! command -v cargo >/dev/null 2>&1 && [ -n "${SUDO_USER:-}" ]; then
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        export CARGO_HOME="${CARGO_HOME:-$home/.cargo}" RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}"
        export PATH="$CARGO_HOME/bin:$PATH"
        trap 'chown -R "$SUDO_USER" target "$CARGO_HOME/registry" 2>/dev/null || true' EXIT
    fi
    command -v cargo >/dev/null 2>&1 || {
        echo "cargo is not found: install the Rust toolchain (https://rustup.rs) first" >&2
        exit 1
    }
}

build_packages="gcc libc6-dev libseccomp-dev pkg-config"
