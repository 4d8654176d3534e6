//! The program that leads frames past a bridge, loaded and hung on a link.
//! Needs root.

use std::io::Write;
use std::os::fd::AsFd;

use sampan_sys::bpf::Redirect;
use sampan_sys::netlink::{
    LinkRef, NewVeth, Route, add_clsact, add_veth, delete_classifier, delete_link, set_classifier,
};
use sampan_sys::netns::NetNs;

#[test]
fn a_program_is_set_replaced_and_taken_off() {
    if !nix::unistd::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "skipped: needs root");
        return;
    }
    let (_host, route) = NetNs::create(Route::open).unwrap();
    let (inside, _) = NetNs::create(|| ()).unwrap();
    let mut route = route.unwrap();
    let veth = NewVeth {
        name: "veth0",
        peer: "eth0",
        peer_netns: inside.as_fd(),
        peer_mac: [2, 0, 0, 0, 0, 2],
        mtu: 1500,
        group: 0,
    };
    route.run(vec![add_veth(&veth)]).unwrap();
    let link = route.link("veth0").unwrap().unwrap().index;
    assert_eq!(route.classifier(link).unwrap(), None, "no discipline yet");
    let (first, second) = (Redirect::load().unwrap(), Redirect::load().unwrap());
    for program in [&first, &second] {
        let set = set_classifier(link, program.program(), Redirect::NAME);
        route.run(vec![add_clsact(link).present_ok(), set]).unwrap();
        let found = route.classifier(link).unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.program), (Redirect::NAME, program.id()));
    }
    route.run(vec![delete_classifier(link)]).unwrap();
    assert_eq!(route.classifier(link).unwrap(), None);
    route.run(vec![delete_classifier(link).absent_ok()]).unwrap();
    route.run(vec![delete_link(LinkRef::Index(link))]).unwrap();
    assert_eq!(route.classifier(link).unwrap(), None, "no link");

    // Entries: repeatable, and gone is gone.
    let mac = [2, 0, 0, 0, 0, 2];
    first.set_network(7, 1).unwrap();
    first.set_neighbour(1, mac, 7).unwrap();
    first.set_neighbour(1, mac, 8).unwrap();
    for _ in 0..2 {
        first.remove_network(7).unwrap();
        first.remove_neighbour(1, mac).unwrap();
    }
}
