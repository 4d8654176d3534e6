// SPDX-License-Identifier: Apache-2.0
/*
 * Connections of the host's own programs to published ports by IPv6, where
 * packets would find no way: the container has no IPv6, or the answers to
 * ::1 would be lost.
 *
 * Hooks: connect, sendmsg, recvmsg and getpeername of IPv6 sockets, at the
 * root of the control groups. Where a socket goes is changed once, before it
 * has a flow; no packet is.
 *
 * Be aware:
 * - The hooks see the sockets of the whole machine. Those of other network
 *   namespaces than the daemon's are left alone after one comparison, and so
 *   are sockets that are bound to an address or an interface.
 * - A process of the host that listens where the socket would go has it.
 * - Datagrams of a socket that is not connected can't go to an address of
 *   IPv4 from here: the kernel forbids it. They stay as they are.
 */
#include "sampan.h"
#include <linux/in.h>

#define ALLOW 1

/* Addresses are in network order, as in struct bpf_sock_addr. The structures
 * are as crates/sys/src/bpf/connect.rs writes them. */
struct address {
	__u32 words[4];
};

/* Where a socket is told to go: the address, or none for every address of the
 * host, with port and protocol. */
struct place {
	struct address address;
	__u16 port;
	__u16 protocol;
};

/* An address with a port: a container's, or one that leads to it. Port 0: the
 * place is not to be led anywhere. */
struct endpoint {
	struct address address;
	__u32 port;
};

/* Whom a socket talks to in truth. */
struct peer {
	__u64 socket;
	struct endpoint endpoint;
	__u32 zero;
};

/* The cookie of the daemon's network namespace. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u64);
} home SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, 262144);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct place);
	MAP_TYPE(value, struct endpoint);
} endpoints SEC(".maps");

/* The host's own addresses. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, 65536);
	MAP_NUMBER(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct address);
	MAP_TYPE(value, __u32);
} own SEC(".maps");

/* What a socket was told of its peer: the names that it is shown. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_NUMBER(max_entries, 4096);
	MAP_TYPE(key, struct peer);
	MAP_TYPE(value, struct endpoint);
} names SEC(".maps");

INLINE int is_at_home(struct bpf_sock_addr *ctx)
{
	__u32 zero = 0;
	const __u64 *cookie = bpf_map_lookup_elem(&home, &zero);

	return cookie && *cookie == bpf_get_netns_cookie(ctx);
}

INLINE void read_endpoint(struct bpf_sock_addr *ctx, struct endpoint *to)
{
	to->address.words[0] = ctx->user_ip6[0];
	to->address.words[1] = ctx->user_ip6[1];
	to->address.words[2] = ctx->user_ip6[2];
	to->address.words[3] = ctx->user_ip6[3];
	to->port = ctx->user_port;
}

INLINE void write_endpoint(struct bpf_sock_addr *ctx, const struct endpoint *from)
{
	ctx->user_ip6[0] = from->address.words[0];
	ctx->user_ip6[1] = from->address.words[1];
	ctx->user_ip6[2] = from->address.words[2];
	ctx->user_ip6[3] = from->address.words[3];
	ctx->user_port = from->port;
}

INLINE int is_mapped_ipv4(const struct address *a)
{
	return !a->words[0] && !a->words[1] && a->words[2] == __builtin_bswap32(0xffff);
}

/* Whether the socket chose where its packets come from. */
INLINE int is_bound(const struct bpf_sock *sk)
{
	return sk->bound_dev_if ||
	       (sk->src_ip6[0] | sk->src_ip6[1] | sk->src_ip6[2] | sk->src_ip6[3]);
}

/* Whether a process of the host has the port itself. */
INLINE int is_served(struct bpf_sock_addr *ctx, const struct endpoint *at)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;

	__builtin_memcpy(tuple.ipv6.daddr, at->address.words, sizeof(tuple.ipv6.daddr));
	tuple.ipv6.dport = at->port;
	if (ctx->protocol == IPPROTO_TCP)
		sk = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	bpf_sk_release(sk);
	return 1;
}

INLINE const struct endpoint *endpoint_of(__u32 protocol, const struct endpoint *asked)
{
	struct place place = {};
	const struct endpoint *found;

	place.address = asked->address;
	place.port = asked->port;
	place.protocol = protocol;
	found = bpf_map_lookup_elem(&endpoints, &place);
	if (found || !bpf_map_lookup_elem(&own, &asked->address))
		return found;
	__builtin_memset(&place.address, 0, sizeof(place.address));
	return bpf_map_lookup_elem(&endpoints, &place);
}

/* Sends the socket elsewhere, and remembers what it asked for. */
INLINE void lead(struct bpf_sock_addr *ctx, const struct endpoint *asked, const struct endpoint *to)
{
	struct peer peer = {};

	peer.socket = bpf_get_socket_cookie(ctx);
	peer.endpoint = *to;
	bpf_map_update_elem(&names, &peer, asked, BPF_ANY);
	write_endpoint(ctx, &peer.endpoint);
}

SEC("cgroup/connect6")
int sampan_connect(struct bpf_sock_addr *ctx)
{
	const struct endpoint *to;
	struct endpoint asked;

	if (!is_at_home(ctx) || (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP))
		return ALLOW;
	read_endpoint(ctx, &asked);
	to = endpoint_of(ctx->protocol, &asked);
	if (!to || !to->port || !ctx->sk || is_bound(ctx->sk) || is_served(ctx, &asked))
		return ALLOW;
	lead(ctx, &asked, to);
	return ALLOW;
}

SEC("cgroup/sendmsg6")
int sampan_sendmsg(struct bpf_sock_addr *ctx)
{
	const struct endpoint *to;
	struct endpoint asked;

	if (!is_at_home(ctx) || ctx->protocol != IPPROTO_UDP)
		return ALLOW;
	read_endpoint(ctx, &asked);
	to = endpoint_of(IPPROTO_UDP, &asked);
	if (!to || !to->port || is_mapped_ipv4(&to->address) || !ctx->sk || is_bound(ctx->sk))
		return ALLOW;
	if (ctx->msg_src_ip6[0] | ctx->msg_src_ip6[1] | ctx->msg_src_ip6[2] | ctx->msg_src_ip6[3])
		return ALLOW;
	if (is_served(ctx, &asked))
		return ALLOW;
	lead(ctx, &asked, to);
	return ALLOW;
}

/* The name that a socket is shown is the one that it asked for. */
INLINE int show(struct bpf_sock_addr *ctx)
{
	struct peer peer = {};
	const struct endpoint *asked;

	if (!is_at_home(ctx))
		return ALLOW;
	peer.socket = bpf_get_socket_cookie(ctx);
	read_endpoint(ctx, &peer.endpoint);
	asked = bpf_map_lookup_elem(&names, &peer);
	if (asked)
		write_endpoint(ctx, asked);
	return ALLOW;
}

SEC("cgroup/recvmsg6")
int sampan_recvmsg(struct bpf_sock_addr *ctx)
{
	return show(ctx);
}

SEC("cgroup/getpeername6")
int sampan_getpeer(struct bpf_sock_addr *ctx)
{
	return show(ctx);
}

char program_license[] SEC("license") = "Apache-2.0";
