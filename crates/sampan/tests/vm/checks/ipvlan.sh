# Networks by ipvlan, which shares the parent's hardware address.

# The host's links, as a word.
links() { ip -o link | sed 's/^[0-9]*: \([^:@]*\).*/\1/' | sort | tr '\n' ' '; }

check_ipvlan_l2() {
    before=$(links)
    sampan network create -d ipvlan -o parent=eth0 --subnet 10.99.0.0/24 --gateway 10.99.0.2 \
        --ip-range 10.99.0.64/27 lan
    web ia --network lan
    web ib --network lan
    is "$(sampan exec ib wget -q -O - "http://$(address ia lan)/")" ia
    is "$(outside "wget -q -O - http://$(address ib lan)/")" ib
    is "$(sampan exec ia wget -q -O - http://10.99.0.2/)" outside
    has "$(sampan exec ia ip route)" 'default via 10.99.0.2 dev eth0'
    has "$(sampan exec ia ip link show eth0)" "$(cat /sys/class/net/eth0/address)"
    has "$(refused sampan network create -d ipvlan -o parent=eth0 --subnet 10.98.0.0/24 more)" \
        'parent interface eth0'
    has "$(refused sampan run --rm --network lan --mac-address 02:00:00:00:00:09 busybox true)" 'hardware address'
    sampan rm -f ia ib
    sampan network rm lan
    is "$(links)" "$before"
}

check_ipvlan_l2_private() {
    sampan network create -d ipvlan -o parent=eth0 -o ipvlan_flag=private --subnet 10.99.0.0/24 \
        --gateway 10.99.0.2 --ip-range 10.99.0.64/27 apart
    web pa --network apart
    web pb --network apart
    refused sampan exec pb timeout 2 wget -q -O - "http://$(address pa apart)/"
    is "$(outside "wget -q -O - http://$(address pa apart)/")" pa
}

# $1: the mode. Containers are on a subnet of their own, which the LAN is told
# to reach by the host.
routed() {
    sampan network create -d ipvlan -o parent=eth0 -o "ipvlan_mode=$1" --subnet 10.50.0.0/24 routed
    outside 'ip route replace 10.50.0.0/24 via 10.99.0.1'
    web ra --network routed
    web rb --network routed
    has "$(sampan exec ra ip route)" 'default dev eth0'
    is "$(sampan exec rb wget -q -O - "http://$(address ra routed)/")" ra
    is "$(sampan exec rb wget -q -O - http://10.99.0.2/)" outside
    is "$(outside "wget -q -O - http://$(address ra routed)/")" ra
    sampan exec ra ip link show eth0 | grep -q NOARP
    sampan restart -t 0 ra
    until_ok outside "wget -q -O - http://$(address ra routed)/"
    sampan rm -f ra rb
    sampan network rm routed
}

check_ipvlan_l3() {
    routed l3
}

check_ipvlan_l3s() {
    routed l3s
}

# Thousandths of a second in which container $1 gets half a million bytes from
# outside: at 2 Mbit/s two thousand of them.
fetch() {
    began=$(cut -d' ' -f1 /proc/uptime)
    sampan exec "$1" wget -q -O /dev/null http://10.99.0.2/half
    awk "BEGIN { print int(($(cut -d' ' -f1 /proc/uptime) - $began) * 1000) }"
}

check_ipvlan_limits_what_comes_in() {
    head -c 500000 /dev/zero > /www/half
    limit=driver-opt=sampan.rate.ingress=2mbit
    for mode in l2 l3; do
        sampan network create -d ipvlan -o parent=eth0 -o "ipvlan_mode=$mode" \
            --subnet 10.99.0.0/24 --gateway 10.99.0.2 --ip-range 10.99.0.64/27 slow
        web va --network slow
        web vb --network "name=slow,$limit"
        [ "$(fetch va)" -lt 1500 ] || fail "$mode: slow without a limit"
        [ "$(fetch vb)" -ge 1500 ] || fail "$mode: the limit does not hold"
        sampan restart -t 0 vb
        [ "$(fetch vb)" -ge 1500 ] || fail "$mode: the limit is lost with a restart"
        sampan network check slow
        sampan rm -f va vb
        sampan network rm slow
    done
    sampan network create -d ipvlan -o parent=eth0 -o ipvlan_mode=l3s --subnet 10.50.0.0/24 slow
    has "$(refused sampan run --rm --network "name=slow,$limit" busybox true)" l3s
    rm /www/half
}

check_ipvlan_without_a_parent() {
    before=$(links)
    sampan network create -d ipvlan --internal --subnet 10.60.0.0/24 inner
    has "$(links)" dm-
    web na --network inner
    web nb --network inner
    is "$(sampan exec nb wget -q -O - "http://$(address na inner)/")" na
    refused sh -c 'sampan exec nb ip route | grep default'
    sampan rm -f na nb
    sampan network rm inner
    is "$(links)" "$before"
}

check_ipvlan_by_ipv6() {
    sampan network create -d ipvlan -o parent=eth0 --ipv6 --subnet 10.99.0.0/24 \
        --gateway 10.99.0.2 --ip-range 10.99.0.64/27 --subnet fd99::/64 --gateway fd99::2 six
    web sa --network six
    web sb --network six
    six=$(sampan inspect -f '{{.NetworkSettings.Networks.six.GlobalIPv6Address}}' sa)
    sampan exec sb ping6 -c 1 -w 5 "$six"
    outside "ping6 -c 1 -w 5 $six"
}

check_ipvlan_l3_by_ipv6() {
    sampan network create -d ipvlan -o parent=eth0 -o ipvlan_mode=l3 --ipv6 --subnet 10.50.0.0/24 \
        --subnet fd50::/64 six3
    web ta --network six3
    web tb --network six3
    six=$(sampan inspect -f '{{.NetworkSettings.Networks.six3.GlobalIPv6Address}}' ta)
    has "$(sampan exec ta ip -6 route)" 'default dev eth0'
    sampan exec tb ping6 -c 1 -w 5 "$six"
    outside 'ip -6 route replace fd50::/64 via fd99::1'
    outside "ping6 -c 1 -w 5 $six"
    is "$(sampan inspect -f '{{.NetworkSettings.Networks.six3.Gateway}}' ta)" ''
}

check_ipvlan_outlives_the_daemon() {
    sampan network create -d ipvlan -o parent=eth0 -o ipvlan_mode=l3 --subnet 10.50.0.0/24 lives
    outside 'ip route replace 10.50.0.0/24 via 10.99.0.1'
    web la --network lives
    sampan network check lives
    pid=$(cat /run/daemon.pid)
    kill -9 "$pid"
    until_ok test ! -e "/proc/$pid"
    is "$(outside 'wget -q -O - http://10.50.0.2/')" la
    start_daemon
    is "$(outside 'wget -q -O - http://10.50.0.2/')" la
    sampan network check lives
    repairs=$(sampan events --since 1m --until "$(($(date +%s) + 1))" --filter event=repair)
    is "$repairs" ''
    nsenter --net="/proc/$(sampan inspect -f '{{.State.Pid}}' la)/ns/net" /usr/sbin/ip link delete eth0
    until_ok outside 'timeout 2 wget -q -O - http://10.50.0.2/'
}
