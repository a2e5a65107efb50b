/* SPDX-License-Identifier: (Apache-2.0 OR MIT) OR GPL-2.0-only */
/*
 * A router's flows: which end of a packet is the flow's own, so that both directions of a flow through the cluster have
 * one bucket, on whichever interfaces they come in. src/border.rs says the same in Rust, and why.
 *
 * Addresses in the maps below are those of IPv6; an IPv4 address stands there in its mapped form (RFC 4291, 2.5.5.2).
 * The maps are filled before the program is attached, and belong to it alone: with a new configuration comes a new
 * program with new maps.
 */
#ifndef RUDEL_ROUTER_H
#define RUDEL_ROUTER_H

#include "abi.h"
#include "parse.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HOST_COUNT_MAX);
	__type(key, struct host_key);
	__type(value, __u8);
} hosts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SERVICE_COUNT_MAX);
	__type(key, struct service_key);
	__type(value, __u8);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, NETWORK_COUNT_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network_key);
	__type(value, __u8);
} networks SEC(".maps");

/*
 * The ports of datagrams that come in fragments, by what all fragments of one have in common. Only the first fragment
 * names them, and every node sees every fragment, so each can remember.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FRAGMENT_COUNT_MAX);
	__type(key, struct fragment_key);
	__type(value, struct fragment_value);
} fragments SEC(".maps");

static __always_inline void fill_address(__u32 word[4], const __u32 address[4], bool ipv6)
{
	word[0] = ipv6 ? address[0] : 0;
	word[1] = ipv6 ? address[1] : 0;
	word[2] = ipv6 ? address[2] : bpf_htonl(0xffff);
	word[3] = ipv6 ? address[3] : address[0];
}

static __always_inline __u8 host_flags(const __u32 address[4], bool ipv6)
{
	struct host_key key;
	const __u8 *flags;

	fill_address(key.address, address, ipv6);
	flags = bpf_map_lookup_elem(&hosts, &key);
	return flags ? *flags : 0;
}

static __always_inline __u8 network_flags(const __u32 address[4], bool ipv6)
{
	struct network_key key = { .prefix_bits = 128 };
	const __u8 *flags;

	fill_address(key.address, address, ipv6);
	flags = bpf_map_lookup_elem(&networks, &key);
	return flags ? *flags : 0;
}

static __always_inline __u8 service_flags(const struct flow *flow, const __u32 address[4], __be16 port)
{
	struct service_key key = { .port = port, .protocol = flow->protocol };
	const __u8 *flags;

	fill_address(key.address, address, flow->ipv6);
	flags = bpf_map_lookup_elem(&services, &key);
	return flags ? *flags : 0;
}

/* Turns a flow around: the peer's end becomes the own one. */
static __always_inline void turn(struct flow *flow)
{
	__be16 port = flow->own_port;
	__u32 word;

	flow->own_port = flow->peer_port;
	flow->peer_port = port;
	word = flow->address[0], flow->address[0] = flow->peer[0], flow->peer[0] = word;
	if (flow->ipv6) {
		word = flow->address[1], flow->address[1] = flow->peer[1], flow->peer[1] = word;
		word = flow->address[2], flow->address[2] = flow->peer[2], flow->peer[2] = word;
		word = flow->address[3], flow->address[3] = flow->peer[3], flow->peer[3] = word;
	}
}

/* Is the peer's address the lower one, in network order? */
static __always_inline bool peer_is_lower(const struct flow *flow)
{
	int words = flow->ipv6 ? 4 : 1;
	int at;

	for (at = 0; at < 4; at++) {
		__u32 own = bpf_ntohl(flow->address[at]), peer = bpf_ntohl(flow->peer[at]);

		if (at >= words || own < peer)
			return false;
		if (peer < own)
			return true;
	}
	return false;
}

/* Protocols whose ports, or echo identifiers, are translated; others keep theirs and are told apart by address. */
static __always_inline bool has_blocks(const struct flow *flow)
{
	return flow->ports && (flow->protocol == IPPROTO_TCP || flow->protocol == IPPROTO_UDP ||
			       flow->protocol == IPPROTO_ICMP || flow->protocol == IPPROTO_ICMPV6);
}

/*
 * Makes the own end of a flow the one that both its directions agree on. Returns the bucket where a translated port
 * says it, else NO_BLOCK.
 */
#define NO_BLOCK (-1)
static __always_inline int orient(struct flow *flow, __u8 side, __u8 border)
{
	__u8 to;

	/*
	 * A service behind the firewall spreads by its clients, as one of the cluster's own does. It has one port outside
	 * and another inside, which no key may tell apart.
	 */
	if ((border & BORDER_SERVICES) && flow->ports) {
		flow->local = false;
		if (service_flags(flow, flow->peer, flow->peer_port)) {
			flow->peer_port = 0;
			return NO_BLOCK;
		}
		if (service_flags(flow, flow->address, flow->own_port) & SERVICE_INNER) {
			turn(flow);
			flow->peer_port = 0;
			return NO_BLOCK;
		}
	}

	to = host_flags(flow->peer, flow->ipv6);
	flow->local = to != 0;
	if (to & HOST_TRANSLATED) {
		__u16 port = bpf_ntohs(flow->peer_port);

		if (!has_blocks(flow)) {
			flow->ports = false;
			flow->local = false;
		} else if (port >= BLOCK_FIRST_PORT) {
			flow->local = false;
			return (port - BLOCK_FIRST_PORT) / BLOCK_PORTS;
		}
	}
	if (to)
		return NO_BLOCK;

	if (side == SIDE_OUTSIDE) {
		turn(flow);
		return NO_BLOCK;
	}
	if ((border & BORDER_MESHED) && (network_flags(flow->peer, flow->ipv6) & NETWORK_INSIDE)) {
		if (peer_is_lower(flow))
			turn(flow);
		return NO_BLOCK;
	}
	if ((border & BORDER_TRANSLATES) && !has_blocks(flow) &&
	    (network_flags(flow->address, flow->ipv6) & NETWORK_TRANSLATED)) {
		turn(flow);
		flow->ports = false;
	}
	return NO_BLOCK;
}

/* A fragment: the first one's ports are remembered, the later ones' looked up. */
static __always_inline int join_fragments(struct flow *flow, const struct piece *piece)
{
	struct fragment_key key = { .id = piece->id };
	struct fragment_value first = {}, *known;

	fill_address(key.source, flow->address, flow->ipv6);
	fill_address(key.destination, flow->peer, flow->ipv6);
	/* Of IPv6 the chain of headers hides the protocol from the later ones, and identifiers are unique without it. */
	if (!flow->ipv6)
		key.protocol = flow->protocol;

	if (piece->first) {
		if (flow->ports && !flow->quoted) {
			first.own_port = flow->own_port;
			first.peer_port = flow->peer_port;
			first.protocol = flow->protocol;
			bpf_map_update_elem(&fragments, &key, &first, BPF_ANY);
		}
		return PARSED;
	}
	known = bpf_map_lookup_elem(&fragments, &key);
	if (known) {
		flow->own_port = known->own_port;
		flow->peer_port = known->peer_port;
		flow->protocol = known->protocol;
		flow->ports = true;
		flow->headless = true;
		return PARSED;
	}
	if (has_ports(flow->protocol) || flow->protocol == IPPROTO_ICMP || flow->protocol == IPPROTO_ICMPV6 ||
	    is_extension(flow->protocol))
		return VERDICT_ORPHAN;
	return PARSED;
}

#endif
