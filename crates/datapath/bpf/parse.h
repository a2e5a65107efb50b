/* SPDX-License-Identifier: (Apache-2.0 OR MIT) OR GPL-2.0-only */
/*
 * From a frame to the flow that it belongs to.
 *
 * Every helper advances the cursor past what it has read, checks bounds before it reads, and returns PARSED, or the
 * verdict that ends the packet's way here. Headers are read as far as the flow key needs; checksums, options and
 * everything behind the ports are the stack's business.
 */
#ifndef RUDEL_PARSE_H
#define RUDEL_PARSE_H

#include "abi.h"

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Tags of IEEE 802.1Q and 802.1ad in front of the payload. A third makes the frame one that is not IP. */
#define VLAN_DEPTH_MAX 2

/* Extension headers in front of the transport. RFC 8504 lets a node refuse longer chains; eight are absurd already. */
#define IPV6_CHAIN_MAX 8

#define PARSED (-1)

/* Headers that the kernel's UAPI spells in files which pull in libc. */
struct vlan_head {
	__be16 tci;
	__be16 ethertype;
};

struct extension_head {
	__u8 next;
	__u8 length; /* units and bias depend on the header */
};

struct fragment_head {
	__u8 next;
	__u8 reserved;
	__be16 offset; /* 13 bits of offset, 2 reserved, 1 "more fragments" */
	__be32 id;
};
#define FRAGMENT_OFFSET_OR_MORE 0xfff9
#define FRAGMENT_OFFSET 0xfff8

struct icmp_head {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id; /* of echo and its reply */
	__be16 sequence;
};

struct ports_head {
	__be16 source;
	__be16 destination;
};

#define IPV4_FRAGMENT 0x3fff /* "more fragments", and the offset */
#define IPV4_FRAGMENT_OFFSET 0x1fff

enum {
	ICMP_ECHO_REPLY = 0,
	ICMP_UNREACHABLE = 3,
	ICMP_SOURCE_QUENCH = 4,
	ICMP_REDIRECT = 5,
	ICMP_ECHO = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER_PROBLEM = 12,

	ICMPV6_UNREACHABLE = 1,
	ICMPV6_PARAMETER_PROBLEM = 4, /* 1 to 4 are the errors */
	ICMPV6_ECHO = 128,
	ICMPV6_ECHO_REPLY = 129,
	ICMPV6_NDISC_FIRST = 133, /* router solicitation */
	ICMPV6_NDISC_LAST = 137,  /* redirect */
};

/* A frame, and how far we have read it. Offsets are 2 more than a multiple of 4, as is the Ethernet header's length. */
struct cursor {
	void *data;
	void *end;
	__u32 offset;
};

/* No header that matters begins further behind; the verifier wants a bound below 64 kB for any offset. */
#define OFFSET_MAX 0x4000

/*
 * What the hash may ask of a flow. Everything as it stands in the packet; "own" is the source, and of a packet quoted in
 * an ICMP error, which went the other way, the destination. A router may turn a flow around (router.h).
 */
struct flow {
	__u32 address[4]; /* the own end's; IPv4 uses the first word */
	__u32 peer[4];    /* the other end's, on a router only */
	__be16 own_port;
	__be16 peer_port;
	bool ipv6;
	bool ports;    /* the ports are known; of an ICMP echo, both are its identifier */
	bool headless; /* on a router, a later fragment: its ports are those of the first, and their header is not here */
	bool local;    /* on a router: to an address of the cluster, and not through it */

	/* Where it stands, for whoever must look again; of a packet quoted in an ICMP error, the quoted one. */
	bool quoted;
	__u8 protocol;
	__u32 ip_at;
	__u32 transport_at;
};

/* What is known of a packet's place in a datagram. */
struct piece {
	bool fragment;
	bool first; /* its transport header follows */
	__be32 id;  /* of the datagram, between its two addresses and, of IPv4, for its protocol */
};

/* Every helper below: `reversed` says that the packet is the one inside an ICMP error, which went the other way. */

/* The next header, if this much of it is there. */
static __always_inline void *peek(const struct cursor *at, __u32 bytes)
{
	void *head = at->data + at->offset;

	return head + bytes > at->end ? NULL : head;
}

/*
 * Makes the verifier forget which of the many ways led to this offset, so that it checks what follows once, and not
 * once for each number of VLAN tags times each length of the header chain. It does not see that two XORs with the same
 * number undo each other; the last line gives back the little that it has to know, and changes nothing either.
 */
static __always_inline int forget_way(struct cursor *at, __u32 noise)
{
	if (at->offset > OFFSET_MAX)
		return VERDICT_MALFORMED;
	asm volatile("%0 ^= %1\n\t%0 ^= %1" : "+r"(at->offset) : "r"(noise));
	at->offset = (at->offset & (2 * OFFSET_MAX - 4)) | 2;
	return PARSED;
}

static __always_inline int parse_ethernet(struct cursor *at, __be16 *ethertype)
{
	struct ethhdr *eth = peek(at, sizeof(*eth));
	struct vlan_head *tag;
	int depth;

	if (!eth)
		return VERDICT_MALFORMED;
	*ethertype = eth->h_proto;
	at->offset += sizeof(*eth);

#pragma unroll
	for (depth = 0; depth < VLAN_DEPTH_MAX; depth++) {
		if (*ethertype != bpf_htons(ETH_P_8021Q) && *ethertype != bpf_htons(ETH_P_8021AD))
			break;
		tag = peek(at, sizeof(*tag));
		if (!tag)
			return VERDICT_MALFORMED;
		*ethertype = tag->ethertype;
		at->offset += sizeof(*tag);
	}
	return forget_way(at, *ethertype);
}

static __always_inline int parse_ports(struct cursor *at, struct flow *flow, __u8 protocol, bool reversed)
{
	struct ports_head *ports = peek(at, sizeof(*ports));

	if (!ports)
		return VERDICT_MALFORMED;
	if (!reversed) {
		flow->own_port = ports->source;
		flow->peer_port = ports->destination;
	} else {
		flow->own_port = ports->destination;
		flow->peer_port = ports->source;
	}
	flow->ports = true;
	flow->protocol = protocol;
	flow->transport_at = at->offset;
	return PARSED;
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
	       protocol == IPPROTO_DCCP || protocol == IPPROTO_UDPLITE;
}

/* An echo's identifier stands for both ports: request and reply carry the same one. */
static __always_inline void take_echo_id(struct flow *flow, const struct icmp_head *icmp, __u8 protocol)
{
	flow->protocol = protocol;
	flow->own_port = icmp->id;
	flow->peer_port = icmp->id;
	flow->ports = true;
}

/* Leaves the cursor at the transport header, if the packet has one: see `piece`. `both`: the peer's address, too. */
static __always_inline int parse_ipv4(struct cursor *at, struct flow *flow, bool both, bool reversed, __u8 *protocol,
				      struct piece *piece)
{
	struct iphdr *ip = peek(at, sizeof(*ip));
	__u32 header_bytes, total_bytes;

	if (!ip)
		return VERDICT_MALFORMED;
	header_bytes = ip->ihl * 4;
	if (ip->version != 4 || header_bytes < sizeof(*ip) || !peek(at, header_bytes))
		return VERDICT_MALFORMED;

	/*
	 * The packet must be there in full. Inside an ICMP error it is cut, and in generic mode a TCP packet beyond
	 * 64 kB that the stack has still to segment says 0.
	 */
	total_bytes = bpf_ntohs(ip->tot_len);
	if (!reversed && total_bytes != 0 && (total_bytes < header_bytes || !peek(at, total_bytes)))
		return VERDICT_MALFORMED;

	flow->address[0] = reversed ? ip->daddr : ip->saddr;
	if (both) {
		flow->peer[0] = reversed ? ip->saddr : ip->daddr;
		flow->protocol = ip->protocol;
		flow->headless = false;
	}
	flow->ipv6 = false;
	flow->ports = false;
	flow->quoted = reversed;
	flow->ip_at = at->offset;
	*protocol = ip->protocol;
	piece->fragment = ip->frag_off & bpf_htons(IPV4_FRAGMENT);
	piece->first = !(ip->frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET));
	piece->id = ip->id;
	at->offset += header_bytes;
	return forget_way(at, ip->saddr);
}

static __always_inline bool is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING || protocol == IPPROTO_DSTOPTS ||
	       protocol == IPPROTO_AH || protocol == IPPROTO_FRAGMENT;
}

/* `through`: go on behind the header of a first fragment, to its transport header. */
static __always_inline int skip_extensions(struct cursor *at, __u32 noise, bool through, __u8 *protocol,
					   struct piece *piece)
{
	struct extension_head *extension;
	struct fragment_head *part;
	int depth;

	piece->fragment = false;
	piece->first = true;
	piece->id = 0;
	for (depth = 0; depth < IPV6_CHAIN_MAX && is_extension(*protocol); depth++) {
		/* None is shorter than eight bytes. */
		extension = peek(at, sizeof(*part));
		if (!extension)
			return VERDICT_MALFORMED;
		if (*protocol == IPPROTO_FRAGMENT) {
			part = (struct fragment_head *)extension;
			at->offset += sizeof(*part);
			*protocol = part->next;
			/* An atomic fragment (RFC 6946) is a whole packet. */
			if (part->offset & bpf_htons(FRAGMENT_OFFSET_OR_MORE)) {
				piece->fragment = true;
				piece->first = !(part->offset & bpf_htons(FRAGMENT_OFFSET));
				piece->id = part->id;
				if (!through || !piece->first)
					return PARSED;
			}
		} else {
			at->offset += *protocol == IPPROTO_AH ? (extension->length + 2) * 4
							      : (extension->length + 1) * 8;
			*protocol = extension->next;
		}
		if (forget_way(at, noise) != PARSED)
			return VERDICT_MALFORMED;
	}
	return is_extension(*protocol) || !peek(at, 0) ? VERDICT_MALFORMED : PARSED;
}

/* As parse_ipv4. */
static __always_inline int parse_ipv6(struct cursor *at, struct flow *flow, bool both, bool through, bool reversed,
				      __u8 *protocol, struct piece *piece)
{
	struct ipv6hdr *ip = peek(at, sizeof(*ip));
	const struct in6_addr *own, *peer;
	__u32 payload_bytes;

	if (!ip || ip->version != 6)
		return VERDICT_MALFORMED;

	/* As with IPv4; 0 also says "jumbogram". */
	payload_bytes = bpf_ntohs(ip->payload_len);
	if (!reversed && !peek(at, sizeof(*ip) + payload_bytes))
		return VERDICT_MALFORMED;

	own = reversed ? &ip->daddr : &ip->saddr;
	flow->address[0] = own->in6_u.u6_addr32[0];
	flow->address[1] = own->in6_u.u6_addr32[1];
	flow->address[2] = own->in6_u.u6_addr32[2];
	flow->address[3] = own->in6_u.u6_addr32[3];
	if (both) {
		peer = reversed ? &ip->saddr : &ip->daddr;
		flow->peer[0] = peer->in6_u.u6_addr32[0];
		flow->peer[1] = peer->in6_u.u6_addr32[1];
		flow->peer[2] = peer->in6_u.u6_addr32[2];
		flow->peer[3] = peer->in6_u.u6_addr32[3];
		flow->headless = false;
	}
	flow->ipv6 = true;
	flow->ports = false;
	flow->quoted = reversed;
	flow->ip_at = at->offset;
	*protocol = ip->nexthdr;
	at->offset += sizeof(*ip);
	return skip_extensions(at, ip->daddr.in6_u.u6_addr32[3], through, protocol, piece);
}

static __always_inline bool is_icmp_error(__u8 type)
{
	return type == ICMP_UNREACHABLE || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT ||
	       type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
}

static __always_inline bool is_icmp_echo(__u8 type)
{
	return type == ICMP_ECHO || type == ICMP_ECHO_REPLY;
}

static __always_inline bool is_icmpv6_error(__u8 type)
{
	return type >= ICMPV6_UNREACHABLE && type <= ICMPV6_PARAMETER_PROBLEM;
}

static __always_inline bool is_icmpv6_echo(__u8 type)
{
	return type == ICMPV6_ECHO || type == ICMPV6_ECHO_REPLY;
}

/* The flow of an IPv4 packet, or of the one inside an ICMP error. `through`: fragments have the ports of the first. */
static __always_inline int parse_ipv4_flow(struct cursor *at, struct flow *flow, bool both, bool through,
					   struct piece *piece)
{
	struct icmp_head *icmp;
	struct piece inner;
	__u8 protocol;
	int rc;

	rc = parse_ipv4(at, flow, both, false, &protocol, piece);
	if (rc != PARSED || (piece->fragment && !(through && piece->first)))
		return rc;
	if (has_ports(protocol))
		return parse_ports(at, flow, protocol, false);
	if (protocol == IPPROTO_IGMP && !piece->fragment)
		return VERDICT_CONTROL;
	if (protocol != IPPROTO_ICMP)
		return PARSED;

	icmp = peek(at, sizeof(*icmp));
	if (!icmp)
		return VERDICT_MALFORMED;
	if (is_icmp_echo(icmp->type))
		take_echo_id(flow, icmp, protocol);
	if (!is_icmp_error(icmp->type))
		return PARSED;

	at->offset += sizeof(*icmp);
	rc = parse_ipv4(at, flow, both, true, &protocol, &inner);
	if (rc != PARSED || (inner.fragment && !(through && inner.first)))
		return rc;
	if (has_ports(protocol))
		return parse_ports(at, flow, protocol, true);
	if (protocol != IPPROTO_ICMP)
		return PARSED;

	icmp = peek(at, sizeof(*icmp));
	if (!icmp)
		return VERDICT_MALFORMED;
	if (is_icmp_echo(icmp->type))
		take_echo_id(flow, icmp, protocol);
	return PARSED;
}

/* The same for IPv6. */
static __always_inline int parse_ipv6_flow(struct cursor *at, struct flow *flow, bool both, bool through,
					   struct piece *piece)
{
	struct icmp_head *icmp;
	struct piece inner;
	__u8 protocol;
	int rc;

	rc = parse_ipv6(at, flow, both, through, false, &protocol, piece);
	if (both)
		flow->protocol = protocol;
	if (rc != PARSED || (piece->fragment && !(through && piece->first)))
		return rc;
	if (has_ports(protocol))
		return parse_ports(at, flow, protocol, false);
	if (protocol != IPPROTO_ICMPV6)
		return PARSED;

	icmp = peek(at, sizeof(*icmp));
	if (!icmp)
		return VERDICT_MALFORMED;
	/* RFC 6980 forbids fragments of these. */
	if (icmp->type >= ICMPV6_NDISC_FIRST && icmp->type <= ICMPV6_NDISC_LAST && !piece->fragment)
		return VERDICT_CONTROL;
	if (is_icmpv6_echo(icmp->type))
		take_echo_id(flow, icmp, protocol);
	if (!is_icmpv6_error(icmp->type))
		return PARSED;

	at->offset += sizeof(*icmp);
	rc = parse_ipv6(at, flow, both, through, true, &protocol, &inner);
	if (both)
		flow->protocol = protocol;
	if (rc != PARSED || (inner.fragment && !(through && inner.first)))
		return rc;
	if (has_ports(protocol))
		return parse_ports(at, flow, protocol, true);
	if (protocol != IPPROTO_ICMPV6)
		return PARSED;

	icmp = peek(at, sizeof(*icmp));
	if (!icmp)
		return VERDICT_MALFORMED;
	if (is_icmpv6_echo(icmp->type))
		take_echo_id(flow, icmp, protocol);
	return PARSED;
}

#endif
