/* SPDX-License-Identifier: (Apache-2.0 OR MIT) OR GPL-2.0-only */
/*
 * Does this node know a TCP connection? Asked of the kernel's own tables, and only in a handover: a bucket that is
 * going elsewhere leaves its connections where they are, and both its old and its new owner see every segment.
 *
 * A connection is known if it has a socket that is no listener, TIME_WAIT and SYN_RECV included; or if the segment
 * brings back a SYN cookie that a listener here has given out and so has no socket yet.
 */
#ifndef RUDEL_KNOWN_H
#define RUDEL_KNOWN_H

#include "parse.h"

#include <linux/tcp.h>

/* include/net/tcp_states.h, also enum BPF_TCP_LISTEN of the UAPI */
#define TCP_STATE_LISTEN 10

/* A bound for the verifier: offsets were checked when they were taken, but that is forgotten in a structure. */
static __always_inline void *header_at(const struct cursor *at, __u32 offset, __u32 bytes)
{
	void *head = at->data + (offset & (2 * OFFSET_MAX - 1));

	return head + bytes > at->end ? NULL : head;
}

/* The tuple of a segment as it comes in; of one quoted in an ICMP error, of the segment that it answers. */
static __always_inline __u32 take_tuple(const struct cursor *at, const struct flow *flow, struct bpf_sock_tuple *tuple)
{
	const struct ports_head *ports = header_at(at, flow->transport_at, sizeof(*ports));
	const struct ipv6hdr *ip6;
	const struct iphdr *ip4;

	if (!ports)
		return 0;
	if (flow->ipv6) {
		ip6 = header_at(at, flow->ip_at, sizeof(*ip6));
		if (!ip6)
			return 0;
		__builtin_memcpy(tuple->ipv6.saddr, flow->quoted ? &ip6->daddr : &ip6->saddr, 16);
		__builtin_memcpy(tuple->ipv6.daddr, flow->quoted ? &ip6->saddr : &ip6->daddr, 16);
		tuple->ipv6.sport = flow->quoted ? ports->destination : ports->source;
		tuple->ipv6.dport = flow->quoted ? ports->source : ports->destination;
		return sizeof(tuple->ipv6);
	}
	ip4 = header_at(at, flow->ip_at, sizeof(*ip4));
	if (!ip4)
		return 0;
	tuple->ipv4.saddr = flow->quoted ? ip4->daddr : ip4->saddr;
	tuple->ipv4.daddr = flow->quoted ? ip4->saddr : ip4->daddr;
	tuple->ipv4.sport = flow->quoted ? ports->destination : ports->source;
	tuple->ipv4.dport = flow->quoted ? ports->source : ports->destination;
	return sizeof(tuple->ipv4);
}

/* Does the segment bring back a cookie of this listener? The kernel looks first whether it gave any out lately. */
static __always_inline bool has_cookie(struct bpf_sock *listener, const struct cursor *at, const struct flow *flow)
{
	struct tcphdr *tcp = header_at(at, flow->transport_at, sizeof(*tcp));
	struct ipv6hdr *ip6 = header_at(at, flow->ip_at, sizeof(*ip6));
	struct iphdr *ip4 = header_at(at, flow->ip_at, sizeof(*ip4));

	if (!tcp || flow->quoted)
		return false;
	if (flow->ipv6)
		return ip6 && bpf_tcp_check_syncookie(listener, ip6, sizeof(*ip6), tcp, sizeof(*tcp)) == 0;
	return ip4 && bpf_tcp_check_syncookie(listener, ip4, sizeof(*ip4), tcp, sizeof(*tcp)) == 0;
}

static __always_inline bool is_known(struct xdp_md *ctx, const struct cursor *at, const struct flow *flow)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	__u32 bytes = take_tuple(at, flow, &tuple);
	bool known;

	if (bytes == 0)
		return false;
	/* Two calls, since the verifier wants each with a size that it knows. */
	if (flow->ipv6)
		sk = bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	known = sk->state != TCP_STATE_LISTEN || has_cookie(sk, at, flow);
	bpf_sk_release(sk);
	return known;
}

static __always_inline bool is_tcp(const struct flow *flow)
{
	return flow->ports && flow->protocol == IPPROTO_TCP;
}

/* A client's first segment: it belongs to whoever owns the bucket now, even where an old socket lingers. */
static __always_inline bool is_first(const struct cursor *at, const struct flow *flow)
{
	const struct tcphdr *tcp = header_at(at, flow->transport_at, sizeof(*tcp));

	return tcp && !flow->quoted && tcp->syn && !tcp->ack;
}

#endif
