# Networks by macvlan, on VLANs among others.

check_macvlan_on_a_vlan() {
    outside 'ip link add link lan0 name lan0.10 type vlan id 10
        ip addr add 10.10.0.2/24 dev lan0.10; ip link set lan0.10 up'
    sampan network create -d macvlan -o parent=eth0.10 --subnet 10.10.0.0/24 \
        --gateway 10.10.0.2 tagged
    ip -d link show eth0.10 | grep -q 'vlan protocol 802.1Q id 10'
    web va --network tagged
    web vb --network tagged
    is "$(sampan exec vb wget -q -O - "http://$(address va tagged)/")" va
    is "$(sampan exec va wget -q -O - http://10.10.0.2/)" outside
    is "$(outside "wget -q -O - http://$(address va tagged)/")" va
    sampan rm -f va vb
    sampan network rm tagged
    refused ip link show eth0.10
    outside 'ip link delete lan0.10'
}

check_a_vlan_of_others_stays() {
    ip link add link eth0 name eth0.20 type vlan id 20
    ip link set eth0.20 up
    sampan network create -d macvlan -o parent=eth0.20 --subnet 10.20.0.0/24 theirs
    web ta --network theirs
    sampan rm -f ta
    sampan network rm theirs
    ip link show eth0.20
    ip link delete eth0.20
}

check_a_vlan_that_is_deleted_comes_back() {
    sampan network create -d macvlan -o parent=eth0.30 --subnet 10.30.0.0/24 back
    web ba --network back
    web bb --network back
    ip link delete eth0.30
    until_ok sampan exec bb timeout 2 wget -q -O - "http://$(address ba back)/"
}

check_macvlan_modes() {
    for mode in bridge private vepa; do
        sampan network create -d macvlan -o parent=eth0 -o "macvlan_mode=$mode" \
            --subnet 10.99.0.0/24 --gateway 10.99.0.2 --ip-range 10.99.0.64/27 modal
        web ma --network modal
        web mb --network modal
        is "$(outside "wget -q -O - http://$(address ma modal)/")" ma
        if [ "$mode" = bridge ]; then
            is "$(sampan exec mb wget -q -O - "http://$(address ma modal)/")" ma
        else
            refused sampan exec mb timeout 2 wget -q -O - "http://$(address ma modal)/"
        fi
        sampan rm -f ma mb
        sampan network rm modal
    done
}

check_macvlan_with_access_of_the_host() {
    sampan network create -d macvlan -o parent=eth0 -o host_access=true --subnet 10.99.0.0/24 \
        --gateway 10.99.0.2 --ip-range 10.99.0.64/27 access
    web ha --network access
    is "$(ask "$(address ha access)")" ha
    httpd -p 10.99.0.1:8090 -h /www
    is "$(sampan exec ha wget -q -O - http://10.99.0.1:8090/)" outside
    sampan rm -f ha
    sampan network rm access
    refused sh -c 'ip -o link | grep mv-'
}

check_a_missing_parent_is_named() {
    has "$(refused sampan network create -d macvlan -o parent=nosuch0 --subnet 10.40.0.0/24 mm)" nosuch0
    has "$(refused sampan network create -d macvlan -o parent=nosuch0.7 --subnet 10.40.0.0/24 mm)" nosuch0
    has "$(refused sampan network create -d macvlan -o parent=eth0 -o mode=x --subnet 10.40.0.0/24 mm)" mode
    is "$(sampan network ls -q -f name=mm)" ''
}
