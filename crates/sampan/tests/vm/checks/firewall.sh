# Bridge networks on a kernel whose bridges don't hand packets to the firewall.

check_bridges_are_not_filtered_here() {
    [ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ]
}

check_published_ports_work_from_everywhere() {
    web w1 -p 8080:80 -p 127.0.0.1:8081:80
    web w2
    is "$(ask 127.0.0.1:8080)" w1
    is "$(ask 10.99.0.1:8080)" w1
    is "$(outside 'wget -q -O - http://10.99.0.1:8080/')" w1
    is "$(sampan exec w2 wget -q -O - http://10.99.0.1:8080/)" w1
    is "$(sampan exec w1 wget -q -O - http://10.99.0.1:8080/)" w1
    is "$(ask 127.0.0.1:8081)" w1
    refused outside 'timeout 2 wget -q -O - http://10.99.0.1:8081/'
}

check_networks_are_apart() {
    sampan network create red
    sampan network create blue
    web ra --network red
    web rb --network red
    web ba --network blue
    is "$(sampan exec rb wget -q -O - "http://$(address ra red)/")" ra
    refused sampan exec ba timeout 2 wget -q -O - "http://$(address ra red)/"
    is "$(sampan exec ra wget -q -O - http://10.99.0.2/)" outside
}

check_containers_can_be_kept_from_each_other() {
    sampan network create -o com.docker.network.bridge.enable_icc=false quiet
    web qa --network quiet
    web qb --network quiet
    refused sampan exec qb timeout 2 wget -q -O - "http://$(address qa quiet)/"
    is "$(ask "$(address qa quiet)")" qa
}
