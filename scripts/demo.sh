#!/bin/sh
# Shows Sampan from nothing: builds it, starts a daemon under directories of
# its own, makes an nginx image from Debian's packages, publishes it, fetches
# the page. The daemon and the container stay, to go on with.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

need_root
use_toolchain
# shellcheck disable=SC2086
install_packages $build_packages curl nginx-light iproute2

say "Building the release binary"
cargo build --release --bin sampan
sampan=$(release_binary)
. scripts/demo-daemon.sh
port=${SAMPAN_DEMO_PORT:-8080}

if demo_daemon_runs; then
    say "A demo daemon runs already (process $(cat "$run/sampan.pid")); it is used"
else
    say "Starting a daemon: state in $home, log in $home/daemon.log"
    start_demo_daemon
fi
export DOCKER_HOST="$host"

say "Making the image demo-nginx from the machine's own nginx (nothing is pulled)"
root=$(mktemp -d)
mkdir -p "$root/etc/nginx" "$root/var/log/nginx" "$root/var/lib/nginx" "$root/srv" "$root/tmp" "$root/run"
for file in /usr/sbin/nginx $(ldd /usr/sbin/nginx | grep -o '/[^ ]*'); do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
done
echo 'root:x:0:0:root:/root:/bin/sh' > "$root/etc/passwd"
echo 'root:x:0:' > "$root/etc/group"
echo '<h1>Served from a container by Sampan</h1>' > "$root/srv/index.html"
cat > "$root/etc/nginx/nginx.conf" <<'CONF'
daemon off; user root; worker_processes 1; pid /run/nginx.pid; error_log stderr;
events {}
http { access_log /dev/stdout; server { listen 80; root /srv; } }
CONF
tar -C "$root" -c . | "$sampan" import -c 'CMD ["nginx","-c","/etc/nginx/nginx.conf"]' -c 'EXPOSE 80' - demo-nginx:latest
rm -rf "$root"

say "Running it with port $port published"
"$sampan" rm -f demo-web >/dev/null 2>&1 || true
"$sampan" run -d --name demo-web -p "$port:80" demo-nginx:latest

say "Fetching http://127.0.0.1:$port/"
curl -fsS --retry 20 --retry-delay 1 --retry-connrefused --max-time 5 "http://127.0.0.1:$port/"

cat <<END

== Done. What there is now
   the daemon        process $(cat "$run/sampan.pid"), socket $run/sampan.sock
   the container     demo-web, its page on port $port of every address of this machine

   Go on with
     $sampan -H $host ps
     $sampan -H $host logs demo-web
     docker -H $host stats              (any docker command works)
     kill -9 $(cat "$run/sampan.pid")   (the page goes on being served; run the demo again to bring the daemon back)

   Take it all away with
     sudo make demo-clean
END
