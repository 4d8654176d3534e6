// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Connections to published ports, past bridge, firewall and flow tracking.
 *
 * Hooks: tc ingress (clsact) of the host's interfaces with an address
 * (sampan_enter), and of the host's end of the veth pairs of containers with
 * published ports (sampan_answer). The first translates what comes for a
 * published port and continues in the container's namespace; the second
 * translates the answers back and sends them as the host's routes say.
 *
 *   a SYN makes a flow, in `brief`
 *   the client's first packet after the container's SYN|ACK moves it to `flows`
 *   both FINs, or an RST, move it back to `brief`
 *
 * Be aware:
 * - Only TCP over IPv4, whole, without options of IP. Everything else, and
 *   everything that is not known for certain, is left to the host's stack
 *   (TC_ACT_UNSPEC), which translates in the same way and is always complete.
 * - A flow begins with a SYN that the host would take for its own and could
 *   answer by the interface that it came by. So connections that were there
 *   before stay with flow tracking.
 * - `brief` forgets what was used least recently: handshakes that nobody
 *   completes, and connections that ended. `flows` forgets nothing. When it is
 *   full, the client's packet goes to the host's stack, which picks the
 *   connection up in the middle; so it is in draining.
 * - A packet of a flow that is in both maps is of the one in `flows`.
 * - bpf_fib_lookup is for programs of a licence that the GPL accepts.
 */
#include "sampan.h"
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

static long (*skb_store_bytes)(struct __sk_buff *skb, __u32 at, const void *from, __u32 length,
			       __u64 flags) = (void *)BPF_FUNC_skb_store_bytes;
static long (*skb_load_bytes)(const struct __sk_buff *skb, __u32 at, void *to, __u32 length) =
	(void *)BPF_FUNC_skb_load_bytes;
static long (*skb_pull_data)(struct __sk_buff *skb, __u32 length) = (void *)BPF_FUNC_skb_pull_data;
static long (*l3_csum_replace)(struct __sk_buff *skb, __u32 at, __u64 from, __u64 to, __u64 size) =
	(void *)BPF_FUNC_l3_csum_replace;
static long (*l4_csum_replace)(struct __sk_buff *skb, __u32 at, __u64 from, __u64 to, __u64 flags) =
	(void *)BPF_FUNC_l4_csum_replace;
static long (*redirect_neigh)(__u32 link, struct bpf_redir_neigh *by, int length, __u64 flags) =
	(void *)BPF_FUNC_redirect_neigh;
static long (*fib_lookup)(void *skb, struct bpf_fib_lookup *way, int length, __u32 flags) =
	(void *)BPF_FUNC_fib_lookup;
static long (*map_delete)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static __u64 (*now_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;

#define AT_IP ETH_HLEN
#define AT_TCP (AT_IP + sizeof(struct iphdr))
#define HEADERS (AT_TCP + sizeof(struct tcphdr))
/* What an ICMP error has of the packet that it is about. */
#define AT_INNER (AT_TCP + 8)
#define AT_INNER_PORTS (AT_INNER + sizeof(struct iphdr))
/* The bits MF and offset of iphdr.frag_off. */
#define FRAGMENT 0x3fff

#define IPV4 2 /* AF_INET */
/* linux/icmp.h includes what is not there for this target. */
#define ICMP_DEST_UNREACH 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define SECOND 1000000000ull

/* Addresses and ports are in network order. Written by
 * crates/sys/src/bpf/published.rs. */
struct port {
	__u32 address; /* 0: any of the host */
	__u16 number;
	__u16 zero;
};

struct container {
	__u32 address;
	__u16 port;
	__u8 draining; /* nothing begins, and what runs is handed over */
	__u8 zero;
	__u32 link; /* the host's end of the pair; 0: left to the host's stack */
	__u32 bridge;
	__u8 macs[2 * ETH_ALEN]; /* the container's, the bridge's */
};

struct flow {
	__u32 client;
	__u32 container;
	__u16 client_port;
	__u16 container_port;
	__u32 link;
};

struct state {
	__u32 address; /* that the client knows */
	__u16 port;
	__u8 answered;
	__u8 reset;
	__u8 client_fin;
	__u8 container_fin;
	__u16 zero;
	__u32 bridge;
	__u32 seen; /* seconds since the machine started */
};

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, 65536);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct port);
	MAP_TYPE(value, struct container);
} ports SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, 262144);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct flow);
	MAP_TYPE(value, struct state);
} flows SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_NUMBER(max_entries, 32768);
	MAP_TYPE(key, struct flow);
	MAP_TYPE(value, struct state);
} brief SEC(".maps");

struct packet {
	struct ethhdr *frame;
	struct iphdr *ip;
	struct tcphdr *tcp;
};

INLINE int point(struct __sk_buff *skb, struct packet *packet)
{
	void *end = (void *)(long)skb->data_end;

	packet->frame = (void *)(long)skb->data;
	packet->ip = (void *)(packet->frame + 1);
	packet->tcp = (void *)(packet->ip + 1);
	return (void *)(packet->tcp + 1) <= end;
}

/* Finds the headers of a packet of IPv4, the third of at least 8 bytes. */
INLINE int find_headers(struct __sk_buff *skb, struct packet *packet)
{
	if (skb->vlan_present || skb->protocol != network_order(ETH_P_IP))
		return 0;
	if (!point(skb, packet)) {
		if (skb_pull_data(skb, HEADERS) || !point(skb, packet))
			return 0;
	}
	return packet->ip->version == 4 && packet->ip->ihl == 5 && packet->ip->ttl > 1 &&
	       !(packet->ip->frag_off & network_order(FRAGMENT));
}

INLINE struct container *container_of(__u32 address, __u16 number)
{
	struct port port = { .address = address, .number = number };
	struct container *container = bpf_map_lookup_elem(&ports, &port);

	if (!container) {
		port.address = 0;
		container = bpf_map_lookup_elem(&ports, &port);
	}
	return container && container->link ? container : 0;
}

/* Whether an address can be a client's at all. */
INLINE int is_usual(__u32 address)
{
	__u8 first = address & 0xff; /* little endian: the first byte */

	return first != 0 && first != 127 && first < 224;
}

/* Whether the host takes what goes to `address` for its own, and answers to
 * `client` by the link that its SYN came by. */
INLINE int is_ours(struct __sk_buff *skb, const struct container *container, __u32 address,
		   __u32 client)
{
	struct bpf_fib_lookup in = {
		.family = IPV4,
		.ifindex = skb->ifindex,
		.ipv4_src = client,
		.ipv4_dst = address,
	};
	struct bpf_fib_lookup out = {
		.family = IPV4,
		.ifindex = container->bridge,
		.ipv4_src = container->address,
		.ipv4_dst = client,
	};
	long way;

	if (skb->pkt_type != 0 /* PACKET_HOST */ || !is_usual(client) || !is_usual(address))
		return 0;
	if (fib_lookup(skb, &in, sizeof(in), 0) != BPF_FIB_LKUP_RET_NOT_FWDED)
		return 0;
	way = fib_lookup(skb, &out, sizeof(out), 0);
	/* A container's neighbour would answer to it directly, untranslated. */
	return (way == BPF_FIB_LKUP_RET_SUCCESS || way == BPF_FIB_LKUP_RET_NO_NEIGH) &&
	       out.ifindex == skb->ifindex && out.ifindex != container->bridge;
}

/* Replaces address and port of one side, and counts the hop. */
INLINE int translate(struct __sk_buff *skb, struct packet *packet, int source, __u32 address,
		     __u16 port)
{
	__u32 at_address = AT_IP + (source ? 12 : 16), at_port = AT_TCP + (source ? 0 : 2);
	__u32 from = source ? packet->ip->saddr : packet->ip->daddr;
	__u16 from_port = source ? packet->tcp->source : packet->tcp->dest;
	__u16 hops = *(__u16 *)&packet->ip->ttl, fewer = hops - 1; /* time to live, then protocol */

	return l4_csum_replace(skb, AT_TCP + 16, from, address, BPF_F_PSEUDO_HDR | 4) ||
	       l4_csum_replace(skb, AT_TCP + 16, from_port, port, 2) ||
	       l3_csum_replace(skb, AT_IP + 10, from, address, 4) ||
	       l3_csum_replace(skb, AT_IP + 10, hops, fewer, 2) ||
	       skb_store_bytes(skb, AT_IP + 8, &fewer, 1, 0) ||
	       skb_store_bytes(skb, at_address, &address, 4, 0) ||
	       skb_store_bytes(skb, at_port, &port, 2, 0);
}

INLINE __u32 now(void)
{
	return now_ns() / SECOND;
}

INLINE void touch(struct state *state)
{
	__u32 time = now();

	if (state->seen != time)
		state->seen = time;
}

/* Ends a flow for `flows`. */
INLINE void end(const struct flow *flow, const struct state *state)
{
	struct state last = *state;

	bpf_map_update_elem(&brief, flow, &last, BPF_ANY);
	map_delete(&flows, flow);
}

INLINE int is_over(const struct state *state)
{
	return state->reset || (state->client_fin && state->container_fin);
}

/* Begins a flow. Says whether it has one. */
INLINE int begin(struct __sk_buff *skb, const struct container *container, const struct flow *flow,
		 __u32 address, __u16 port)
{
	struct state *known = bpf_map_lookup_elem(&flows, flow);
	struct state state = {
		.address = address,
		.port = port,
		.bridge = container->bridge,
		.seen = now(),
	};

	if (!is_ours(skb, container, address, flow->client))
		return 0;
	/* Its connection is not known to have ended. It is the one that the
	 * client knows, or another one of the same client to the same container. */
	if (known)
		return known->address == address && known->port == port;
	return !bpf_map_update_elem(&brief, flow, &state, BPF_ANY);
}

/* A client's packet of a flow that was begun. Says whether it still is one. */
INLINE int go_on(const struct container *container, const struct flow *flow,
		 const struct tcphdr *tcp)
{
	struct state *state = bpf_map_lookup_elem(&flows, flow);

	if (state) {
		touch(state);
		/* The bridge may have been made anew. */
		if (state->bridge != container->bridge)
			state->bridge = container->bridge;
		if (tcp->rst)
			state->reset = 1;
		if (tcp->fin)
			state->client_fin = 1;
		if (is_over(state))
			end(flow, state);
		return 1;
	}
	state = bpf_map_lookup_elem(&brief, flow);
	if (!state)
		return 0;
	if (tcp->fin)
		state->client_fin = 1;
	if (state->answered && !tcp->rst && !(state->client_fin && state->container_fin)) {
		struct state whole = *state;

		whole.reset = 0;
		whole.seen = now();
		if (bpf_map_update_elem(&flows, flow, &whole, BPF_ANY)) {
			map_delete(&brief, flow);
			return 0;
		}
	}
	return 1;
}

/* An error about a packet of the container's, from wherever on its way. */
INLINE int enter_error(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 type = *(const __u8 *)packet->tcp;
	struct container *container;
	struct flow flow = {};
	struct iphdr inner;
	__u16 inner_ports[2], hops, fewer;
	__u32 outer = packet->ip->daddr, address;
	__u8 macs[2 * ETH_ALEN];
	struct state *state;

	if (type != ICMP_DEST_UNREACH && type != ICMP_TIME_EXCEEDED &&
	    type != ICMP_PARAMETERPROB)
		return TC_ACT_UNSPEC;
	hops = *(__u16 *)&packet->ip->ttl;
	fewer = hops - 1;
	if (skb_load_bytes(skb, AT_INNER, &inner, sizeof(inner)) ||
	    skb_load_bytes(skb, AT_INNER_PORTS, inner_ports, sizeof(inner_ports)))
		return TC_ACT_UNSPEC;
	if (inner.ihl != 5 || inner.protocol != IPPROTO_TCP || inner.saddr != outer)
		return TC_ACT_UNSPEC;
	container = container_of(inner.saddr, inner_ports[0]);
	if (!container)
		return TC_ACT_UNSPEC;
	flow.client = inner.daddr;
	flow.client_port = inner_ports[1];
	flow.container = container->address;
	flow.container_port = container->port;
	flow.link = container->link;
	state = bpf_map_lookup_elem(&flows, &flow);
	if (!state)
		state = bpf_map_lookup_elem(&brief, &flow);
	if (!state || state->address != inner.saddr || state->port != inner_ports[0])
		return TC_ACT_UNSPEC;
	address = flow.container;
	__builtin_memcpy(macs, container->macs, sizeof(macs));
	/* The inner header's sum makes up for its address: to that of ICMP, only
	 * the port is another. */
	if (l3_csum_replace(skb, AT_INNER + 10, outer, address, 4) ||
	    skb_store_bytes(skb, AT_INNER + 12, &address, 4, 0) ||
	    l4_csum_replace(skb, AT_TCP + 2, inner_ports[0], flow.container_port, 2) ||
	    skb_store_bytes(skb, AT_INNER_PORTS, &flow.container_port, 2, 0) ||
	    l3_csum_replace(skb, AT_IP + 10, outer, address, 4) ||
	    l3_csum_replace(skb, AT_IP + 10, hops, fewer, 2) ||
	    skb_store_bytes(skb, AT_IP + 8, &fewer, 1, 0) ||
	    skb_store_bytes(skb, AT_IP + 16, &address, 4, 0) ||
	    skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return TC_ACT_SHOT;
	return bpf_redirect_peer(flow.link, 0);
}

SEC("classifier/enter")
int sampan_enter(struct __sk_buff *skb)
{
	struct container *container;
	struct packet packet;
	struct flow flow = {};
	__u8 macs[2 * ETH_ALEN];
	int known;

	if (!find_headers(skb, &packet))
		return TC_ACT_UNSPEC;
	if (packet.ip->protocol == IPPROTO_ICMP)
		return enter_error(skb, &packet);
	if (packet.ip->protocol != IPPROTO_TCP)
		return TC_ACT_UNSPEC;
	container = container_of(packet.ip->daddr, packet.tcp->dest);
	if (!container)
		return TC_ACT_UNSPEC;
	flow.client = packet.ip->saddr;
	flow.client_port = packet.tcp->source;
	flow.container = container->address;
	flow.container_port = container->port;
	flow.link = container->link;
	if (container->draining) {
		map_delete(&flows, &flow);
		map_delete(&brief, &flow);
		return TC_ACT_UNSPEC;
	}
	if (packet.tcp->syn && !packet.tcp->ack)
		known = begin(skb, container, &flow, packet.ip->daddr, packet.tcp->dest);
	else
		known = go_on(container, &flow, packet.tcp);
	if (!known)
		return TC_ACT_UNSPEC;
	__builtin_memcpy(macs, container->macs, sizeof(macs));
	if (translate(skb, &packet, 0, flow.container, flow.container_port) ||
	    skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return TC_ACT_SHOT;
	return bpf_redirect_peer(flow.link, 0);
}

/* Notes what a container's packet says of its connection. */
INLINE void note(const struct flow *flow, struct state *state, const struct tcphdr *tcp, int whole)
{
	if (tcp->syn && tcp->ack && !state->answered)
		state->answered = 1;
	if (tcp->fin)
		state->container_fin = 1;
	if (tcp->rst)
		state->reset = 1;
	if (whole) {
		touch(state);
		if (is_over(state))
			end(flow, state);
	}
}

SEC("classifier/answer")
int sampan_answer(struct __sk_buff *skb)
{
	struct bpf_fib_lookup way = { .family = IPV4 };
	struct bpf_redir_neigh by = {};
	struct packet packet;
	struct flow flow = {};
	struct state *state;
	__u32 address;
	__u16 port;
	long found;
	int whole;

	if (!find_headers(skb, &packet) || packet.ip->protocol != IPPROTO_TCP)
		return TC_ACT_UNSPEC;
	flow.client = packet.ip->daddr;
	flow.client_port = packet.tcp->dest;
	flow.container = packet.ip->saddr;
	flow.container_port = packet.tcp->source;
	flow.link = skb->ifindex;
	state = bpf_map_lookup_elem(&flows, &flow);
	whole = !!state;
	if (!state)
		state = bpf_map_lookup_elem(&brief, &flow);
	if (!state)
		return TC_ACT_UNSPEC;
	address = state->address;
	port = state->port;
	way.ifindex = state->bridge;
	way.ipv4_src = flow.container;
	way.ipv4_dst = flow.client;
	way.tos = packet.ip->tos;
	/* Of many packets in one, each has to fit. */
	way.tot_len = skb->gso_size ? skb->gso_size + sizeof(struct iphdr) + packet.tcp->doff * 4 :
				      network_order(packet.ip->tot_len);
	found = fib_lookup(skb, &way, sizeof(way), 0);
	/* Too long, no way, forbidden: the host's stack tells the container. */
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return TC_ACT_UNSPEC;
	if (!point(skb, &packet))
		return TC_ACT_UNSPEC;
	note(&flow, state, packet.tcp, whole);
	if (translate(skb, &packet, 1, address, port))
		return TC_ACT_SHOT;
	by.nh_family = way.family;
	__builtin_memcpy(by.ipv6_nh, way.ipv6_dst, sizeof(by.ipv6_nh));
	return redirect_neigh(way.ifindex, &by, sizeof(by), 0);
}

char program_license[] SEC("license") = "Dual MIT/GPL";
