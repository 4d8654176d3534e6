// SPDX-License-Identifier: Apache-2.0
/*
 * Straight ways between the containers of one bridge network.
 *
 * Hook: tc ingress (clsact) of the host's end of each container's veth pair.
 * A frame for a neighbour on the same network continues in the neighbour's
 * namespace at once, past bridge, second veth and its queue.
 *
 * Be aware:
 * - Everything that is not known for certain is left to the bridge: groups,
 *   ARP, VLAN tags, unknown addresses, the gateway's. TC_ACT_UNSPEC lets
 *   other filters of the same hook see the frame too.
 * - The network is that of the link by which the frame came, never what the
 *   frame says: whatever addresses a container makes up, it stays inside.
 */
#include "sampan.h"
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

/* A neighbour, as crates/sys/src/bpf/redirect.rs writes it. */
struct neighbour {
	__u32 network;
	__u8 mac[ETH_ALEN];
	__u16 zero;
};

/* The network of a host's link, by the link's number. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, 65536);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u32);
} networks SEC(".maps");

/* The number of the host's link that leads to a neighbour. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, 65536);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct neighbour);
	MAP_TYPE(value, __u32);
} neighbours SEC(".maps");

SEC("classifier")
int sampan_redirect(struct __sk_buff *skb)
{
	const struct ethhdr *frame = (void *)(long)skb->data;
	const void *end = (void *)(long)skb->data_end;
	struct neighbour to = {};
	__u32 from = skb->ifindex;
	__u32 *network, *link;

	if (skb->vlan_present || (const void *)(frame + 1) > end)
		return TC_ACT_UNSPEC;
	if (frame->h_proto != network_order(ETH_P_IP) && frame->h_proto != network_order(ETH_P_IPV6))
		return TC_ACT_UNSPEC;
	if (frame->h_dest[0] & 1)
		return TC_ACT_UNSPEC;
	network = bpf_map_lookup_elem(&networks, &from);
	if (!network)
		return TC_ACT_UNSPEC;
	to.network = *network;
	__builtin_memcpy(to.mac, frame->h_dest, ETH_ALEN);
	link = bpf_map_lookup_elem(&neighbours, &to);
	if (!link || *link == from)
		return TC_ACT_UNSPEC;
	return bpf_redirect_peer(*link, 0);
}

char program_license[] SEC("license") = "Apache-2.0";
