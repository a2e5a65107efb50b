// SPDX-License-Identifier: (Apache-2.0 OR MIT) OR GPL-2.0-only
/*
 * The packet filter of rudel: every frame to the cluster MAC reaches every node, and this program makes one of them
 * take it.
 *
 *   1. Not to the cluster MAC? Pass, untouched and uncounted. This is the node's own traffic; it costs one comparison.
 *   2. A peer's probe is counted by its sender and dropped. ARP, neighbour discovery and IGMP go up untouched on every
 *      node: the daemon and the stack answer them. What else is not IP is dropped.
 *   3. The flow key, by hash mode and side, and its bucket: the top byte of the kernel's jhash. On a router the two
 *      directions of a flow have one (router.h); a packet to a translated address has its port's.
 *   4. Not our bucket? Drop. With n nodes this is the fate of all but one packet in n, so nothing costlier than the
 *      table look-up comes before it.
 *   5. Our bucket, and the lease holds? The destination becomes this interface's own MAC, so that the stack takes the
 *      frame for its own, and up it goes. The lease makes a node whose daemon is dead, stopped or starved fall silent
 *      before others take its buckets over: nobody has to be alive for that.
 *   6. Only while a bucket's owner is not heard: what it may have missed of TCP is set aside as it is dropped, for whoever
 *      takes the bucket over.
 *   7. Only while a bucket moves: its old owner keeps the TCP connections that it knows, and its new owner leaves them
 *      to it (known.h). All else goes to the new owner, and so does everything that is routed.
 *
 * Every drop has a counter with a name (abi.h).
 */
#include "abi.h"
#include "hash.h"
#include "known.h"
#include "maps.h"
#include "parse.h"
#include "router.h"

/* Set by the loader for each interface; constants to the verifier, which removes the branches that they close. */
const volatile struct mac cluster_mac = {};
const volatile struct mac own_mac = {};
const volatile __u8 side = SIDE_SERVICE;
const volatile __u8 border = 0; /* enum border; of a router */
const volatile __u8 hash_mode = HASH_SOURCE_IP_PORT;
const volatile __u32 hash_seed = 0;
const volatile __u32 cluster_tag = 0; /* of probes, host order */
const volatile __u32 counter_slot = 0;

/* A frame starts two bytes before a multiple of four, so the first six are an aligned half-word and an aligned word. */
static __always_inline bool is_to_cluster(const void *frame)
{
	return *(const __u32 *)(frame + 2) == cluster_mac.tail && *(const __u16 *)frame == cluster_mac.head;
}

static __always_inline void send_to_self(void *frame)
{
	*(__u16 *)frame = own_mac.head;
	*(__u32 *)(frame + 2) = own_mac.tail;
}

static __always_inline bool is_our_probe(const struct probe_body *probe)
{
	return probe->magic == bpf_htonl(PROBE_MAGIC) && probe->version == PROBE_VERSION &&
	       probe->tag == bpf_htonl(cluster_tag);
}

/*
 * A probe is recognised where it stands if it is one, by a look at four bytes: nothing of the daily traffic pays for more.
 * PARSED: it is none.
 */
static __always_inline int take_probe(const struct cursor *at, __u32 ip_bytes, __u32 family)
{
	const void *ip = peek(at, ip_bytes + sizeof(struct ports_head) + 4 + sizeof(struct probe_body));
	struct probe_key key = { .slot = counter_slot, .family = family };
	struct probe_value *known, heard = { .count = 1 };
	const struct ethhdr *eth = at->data;
	const struct probe_body *probe;
	const struct ports_head *ports;
	__u8 protocol;

#ifdef WITHOUT_PROBES /* only the benchmark's, as the others below: to tell what it costs all other packets */
	return PARSED;
#endif
	if (!ip)
		return PARSED;
	probe = ip + ip_bytes + sizeof(struct ports_head) + 4;
	if (!is_our_probe(probe))
		return PARSED;
	ports = ip + ip_bytes;
	protocol = family == 4 ? ((const struct iphdr *)ip)->protocol : ((const struct ipv6hdr *)ip)->nexthdr;
	if (protocol != IPPROTO_UDP || ports->destination != bpf_htons(PROBE_PORT))
		return PARSED;

	key.sender = bpf_be64_to_cpu(probe->sender);
	heard.last_ns = bpf_ktime_get_boot_ns();
	heard.incarnation = bpf_be64_to_cpu(probe->incarnation);
	heard.number = bpf_be64_to_cpu(probe->number);
	heard.proof = bpf_be64_to_cpu(probe->proof);
	if (at->data + sizeof(*eth) <= at->end)
		__builtin_memcpy(heard.mac, eth->h_source, ETH_ALEN);
	known = bpf_map_lookup_elem(&probes, &key);
	if (known) {
		known->last_ns = heard.last_ns;
		known->incarnation = heard.incarnation;
		known->number = heard.number;
		known->proof = heard.proof;
		__builtin_memcpy(known->mac, heard.mac, ETH_ALEN);
		__sync_fetch_and_add(&known->count, 1);
	} else {
		bpf_map_update_elem(&probes, &key, &heard, BPF_ANY);
	}
	return VERDICT_PROBE;
}

static __always_inline __u32 bucket_of(struct flow *flow)
{
	__u32 key[KEY_WORDS_MAX];
	__u32 hash;
	int block;

	if (side != SIDE_SERVICE) {
		block = orient(flow, side, border);
		if (block >= 0 && hash_mode != HASH_NONE) {
			/* The compiler knows the quotient's range and drops the mask; the verifier does not. */
			asm volatile("" : "+r"(block));
			return block & (BUCKET_COUNT - 1);
		}
	}

	if (hash_mode == HASH_NONE)
		return 0;

	key[0] = KEY_WORD(flow->address[0]);
	if (flow->ipv6) {
		key[1] = KEY_WORD(flow->address[1]);
		key[2] = KEY_WORD(flow->address[2]);
		key[3] = KEY_WORD(flow->address[3]);
	}

	if (hash_mode == HASH_SOURCE_NET) {
		if (flow->ipv6)
			key[2] = key[3] = 0;
		else
			key[0] &= 0x00ffffff;
	}

	if (flow->ports && hash_mode == HASH_SOURCE_IP_PORT_DEST_PORT) {
		if (flow->ipv6) {
			key[4] = KEY_PORT(flow->own_port);
			key[5] = KEY_PORT(flow->peer_port);
			hash = jhash_words(key, 6, hash_seed);
		} else {
			key[1] = KEY_PORT(flow->own_port);
			key[2] = KEY_PORT(flow->peer_port);
			hash = jhash_words(key, 3, hash_seed);
		}
	} else if (flow->ports && hash_mode == HASH_SOURCE_IP_PORT) {
		if (flow->ipv6) {
			key[4] = KEY_PORT(flow->own_port);
			hash = jhash_words(key, 5, hash_seed);
		} else {
			key[1] = KEY_PORT(flow->own_port);
			hash = jhash_words(key, 2, hash_seed);
		}
	} else {
		hash = flow->ipv6 ? jhash_words(key, 4, hash_seed) : jhash_words(key, 1, hash_seed);
	}
	return hash >> 24;
}

/*
 * The exact clock, although the coarse one costs a third of it: that one lags by two ticks on a busy machine, and by
 * however long a hypervisor keeps the CPU that moves it. A lease cannot allow for that. And the one that goes on while
 * the machine is suspended: others do not wait.
 */
static __always_inline __u64 clock_ns(void)
{
#if defined(WITHOUT_CLOCK)
	return 0;
#elif defined(WITHOUT_SUSPEND)
	return bpf_ktime_get_ns();
#else
	return bpf_ktime_get_boot_ns();
#endif
}

static __always_inline bool is_leased(void)
{
	const __u32 only = 0;
	const volatile struct lease *held = bpf_map_lookup_elem(&lease, &only);

	return held && clock_ns() < held->until_ns;
}

/* Connections have a socket at their keeper to be known by. What a router forwards has none. */
static __always_inline bool can_be_kept(const struct flow *flow)
{
	return is_tcp(flow) && (side == SIDE_SERVICE || (flow->local && !flow->headless));
}

/*
 * Not to be passed now, but perhaps in a moment, by the daemon and through this very program. Of TCP only: its ends cope with
 * a segment that comes twice, if the owner has passed it after all.
 */
static __always_inline void set_aside(struct xdp_md *ctx, const struct flow *flow, __u8 bucket)
{
	const __u32 bytes = ctx->data_end - ctx->data;
	struct aside_head head = { .ifindex = ctx->ingress_ifindex, .bytes = bytes, .bucket = bucket };

	if (!is_tcp(flow) || flow->quoted || bytes > ASIDE_BYTES_MAX)
		return;
	/* A router's own connections stay where they are when a bucket moves, and must not be begun anew elsewhere. */
	if (side != SIDE_SERVICE && (flow->local || flow->headless))
		return;
	head.at_ns = bpf_ktime_get_boot_ns();
	/* Without a reader, or without room, it is as lost as it would have been. */
	bpf_perf_event_output(ctx, &aside, ((__u64)bytes << 32) | BPF_F_CURRENT_CPU, &head, sizeof(head));
}

/* Who takes this flow's packets? */
static __always_inline int judge(struct xdp_md *ctx, const struct cursor *at, struct flow *flow)
{
	const __u32 only = 0;
	const volatile struct bucket_table *table;
	struct bucket_counters *counts;
	__u32 bucket = bucket_of(flow);
	__u8 state;

	table = bpf_map_lookup_elem(&buckets, &only);
	counts = bpf_map_lookup_elem(&bucket_counters, &only);
	if (!table || !counts)
		return VERDICT_FENCED; /* cannot happen: both maps have an entry 0 */

	counts->buckets[bucket].seen++;
	state = table->state[bucket];
	switch (state) {
	case BUCKET_OWNED:
		if (!is_leased())
			return VERDICT_FENCED;
		break;
#ifndef WITHOUT_HANDOVER
	case BUCKET_OWNED_WHILE_KEPT:
		if (!is_leased())
			return VERDICT_FENCED;
		if (can_be_kept(flow) && !is_first(at, flow) && !is_known(ctx, at, flow))
			return VERDICT_LEFT;
		break;
	case BUCKET_KEPT:
	case BUCKET_KEPT_WATCHED:
		if (can_be_kept(flow) && !is_first(at, flow) && is_leased() && is_known(ctx, at, flow))
			break;
		if (state == BUCKET_KEPT)
			return VERDICT_IGNORED;
		/* fall through */
#endif
#ifndef WITHOUT_ASIDE
	case BUCKET_WATCHED:
		set_aside(ctx, flow, bucket);
		return VERDICT_IGNORED;
#endif
	default:
		return VERDICT_IGNORED;
	}
	counts->buckets[bucket].passed++;
	return VERDICT_PASSED;
}

static __always_inline int decide(struct xdp_md *ctx, struct cursor *at)
{
	const bool routes = side != SIDE_SERVICE;
	const bool joins = routes && (border & BORDER_FRAGMENTS);
	struct piece piece;
	struct flow flow;
	__be16 ethertype;
	int rc;

	rc = parse_ethernet(at, &ethertype);
	if (rc != PARSED)
		return rc;

	switch (ethertype) {
	case bpf_htons(ETH_P_IP):
		rc = take_probe(at, sizeof(struct iphdr), 4);
		if (rc == PARSED)
			rc = parse_ipv4_flow(at, &flow, routes, joins, &piece);
		break;
	case bpf_htons(ETH_P_IPV6):
		rc = take_probe(at, sizeof(struct ipv6hdr), 6);
		if (rc == PARSED)
			rc = parse_ipv6_flow(at, &flow, routes, joins, &piece);
		break;
	case bpf_htons(ETH_P_ARP):
		return VERDICT_CONTROL;
	default:
		return VERDICT_NOT_IP;
	}
	if (joins && rc == PARSED && piece.fragment)
		rc = join_fragments(&flow, &piece);
	return rc == PARSED ? judge(ctx, at, &flow) : rc;
}

SEC("xdp")
int rudel_filter(struct xdp_md *ctx)
{
	struct cursor at = { .data = (void *)(long)ctx->data, .end = (void *)(long)ctx->data_end };
	const __u32 bytes = ctx->data_end - ctx->data;
	const __u32 slot = counter_slot;
	struct interface_counters *counts;
	int verdict;

	if (at.data + ETH_ALEN > at.end || !is_to_cluster(at.data))
		return XDP_PASS;

	verdict = decide(ctx, &at);

	counts = bpf_map_lookup_elem(&counters, &slot);
	if (!counts || verdict < 0 || verdict >= VERDICT_COUNT)
		return XDP_DROP; /* cannot happen: the loader chose the slot, and decide() a verdict */
	counts->verdicts[verdict].packets++;
	counts->verdicts[verdict].bytes += bytes;

	switch (verdict) {
	case VERDICT_PASSED:
		send_to_self(at.data);
		return XDP_PASS;
	case VERDICT_CONTROL:
		return XDP_PASS;
	default:
		return XDP_DROP;
	}
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
