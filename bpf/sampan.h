/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every program here needs of the kernel's interface: sections, maps
 * with types (BTF), the helpers that are used. The numbers are those of
 * linux/bpf.h.
 */
#ifndef SAMPAN_H
#define SAMPAN_H

#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

/* The members of a map's definition, read by the loader from their types. */
#define MAP_NUMBER(name, value) int(*name)[value]
#define MAP_TYPE(name, type) typeof(type) *name

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*bpf_redirect_peer)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect_peer;

INLINE __u16 network_order(__u16 host)
{
	return __builtin_bswap16(host);
}

#endif
