#!/bin/sh
# Installs the release binary, its systemd unit, completions and man pages.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

need_root
use_toolchain
# shellcheck disable=SC2086
install_packages $build_packages
cargo build --release --bin sampan
sampan=$(release_binary)

prefix=${PREFIX:-/usr/local}
dest=${DESTDIR:-}
install -Dm755 "$sampan" "$dest$prefix/bin/sampan"
install -d "$dest/etc/systemd/system"
sed "s|@PREFIX@|$prefix|" packaging/sampan.service > "$dest/etc/systemd/system/sampan.service"
install -d "$dest$prefix/share/bash-completion/completions" "$dest$prefix/share/zsh/site-functions" \
    "$dest$prefix/share/fish/vendor_completions.d" "$dest$prefix/share/man/man1"
"$sampan" completion bash > "$dest$prefix/share/bash-completion/completions/sampan"
"$sampan" completion zsh > "$dest$prefix/share/zsh/site-functions/_sampan"
"$sampan" completion fish > "$dest$prefix/share/fish/vendor_completions.d/sampan.fish"
"$sampan" system man "$dest$prefix/share/man/man1"
[ -z "$dest" ] && command -v systemctl >/dev/null 2>&1 && [ -d /run/systemd/system ] && systemctl daemon-reload
echo "Installed. Start the daemon with: systemctl enable --now sampan"
