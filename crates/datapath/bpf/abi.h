/* SPDX-License-Identifier: (Apache-2.0 OR MIT) OR GPL-2.0-only */
/*
 * The whole contract between the packet filter and its loader: every constant and every structure that both sides
 * touch. src/abi.rs says the same in Rust; both assert the same literals, so neither can change alone. Raise
 * ABI_VERSION whenever a map that a predecessor may have pinned would mean something else than before.
 */
#ifndef RUDEL_ABI_H
#define RUDEL_ABI_H

#include <linux/types.h>

#define ABI_VERSION 6

/* Hash classes of flows. One byte of table for each; the bucket is the top byte of a 32-bit hash. */
#define BUCKET_COUNT 256

/* Interfaces of one node that can carry the filter, each with counters of its own. */
#define SLOT_COUNT 16

/* Senders times interfaces whose probes are remembered; the least recently heard gives way. */
#define PROBE_COUNT_MAX 1024

/* Bytes that a daemon can leave for its successor beside the maps. */
#define MEMO_BYTES_MAX 8188

/* State of a bucket on this node: one byte of struct bucket_table. Unknown values are treated as ignored. */
enum bucket_state {
	BUCKET_IGNORED = 0,          /* another node's, or nobody's: drop */
	BUCKET_OWNED = 1,            /* ours: pass while the lease holds */
	BUCKET_OWNED_WHILE_KEPT = 2, /* ours, but another keeps connections: as owned, less TCP segments unknown here */
	BUCKET_KEPT = 3,             /* given up with connections open here: pass their segments and nothing else */
	BUCKET_WATCHED = 4,          /* another node's, of whom nothing is heard: drop, but set TCP segments aside */
	BUCKET_KEPT_WATCHED = 5,     /* both: pass as kept, and set aside what is not passed */
};

/* What becomes of a frame to the cluster MAC. Index into struct interface_counters. */
enum verdict {
	VERDICT_PASSED = 0,    /* owned, lease valid: MAC rewritten, up the stack */
	VERDICT_IGNORED = 1,   /* not owned: dropped */
	VERDICT_FENCED = 2,    /* owned, but the lease has lapsed: dropped */
	VERDICT_MALFORMED = 3, /* truncated or contradictory headers: dropped */
	VERDICT_CONTROL = 4,   /* ARP, neighbour discovery, IGMP: up untouched, on every node */
	VERDICT_NOT_IP = 5,    /* any other EtherType: dropped */
	VERDICT_PROBE = 6,     /* a peer's probe: counted by sender, dropped */
	VERDICT_LEFT = 7,      /* owned while kept, of a connection unknown here: dropped, left to its keeper */
	VERDICT_ORPHAN = 8,    /* on a router, a fragment whose first one was not seen: dropped, its flow is unknown */
};
#define VERDICT_COUNT 9

/* Which end of a packet is the flow's own, that is, is hashed first. On a router, see also router.h. */
enum side {
	SIDE_SERVICE = 0, /* the source: clients talk to the cluster's addresses */
	SIDE_INSIDE = 1,  /* the source: the inside host sends through the cluster */
	SIDE_OUTSIDE = 2, /* the destination: the same inside host, seen from the other side */
};

/* What a router has to look at besides the side: bits of the filter's constant `border`. */
enum border {
	BORDER_TRANSLATES = 1, /* source NAT: packets to translated addresses belong to their ports' blocks */
	BORDER_SERVICES = 2,   /* static destination NAT */
	BORDER_MESHED = 4,     /* several inside networks, with flows between them */
	BORDER_FRAGMENTS = 8,  /* ports count: remember those of fragmented datagrams */
};

/*
 * Source NAT gives the flows of bucket b outside ports of block b alone, so that the answer's port names the bucket.
 * 256 blocks of 252 ports are all ports from 1024 on.
 */
#define BLOCK_FIRST_PORT 1024
#define BLOCK_PORTS 252
_Static_assert(BLOCK_FIRST_PORT + BUCKET_COUNT * BLOCK_PORTS == 65536, "mirrored in src/border.rs");

/* Maps of a router's filter, which belong to the loaded program and are not pinned. */
#define HOST_COUNT_MAX 1024
#define SERVICE_COUNT_MAX 4096
#define NETWORK_COUNT_MAX 1024
#define FRAGMENT_COUNT_MAX 8192

/* Map "hosts": addresses of the cluster, on any interface. */
#define HOST_OWN 1
#define HOST_TRANSLATED 2 /* source NAT translates onto it */

struct host_key {
	__u32 address[4]; /* as in the packet */
};
_Static_assert(sizeof(struct host_key) == 16, "mirrored in src/abi.rs");

/* Map "services": the two ends of static destination NAT. */
#define SERVICE_OUTER 1
#define SERVICE_INNER 2

struct service_key {
	__u32 address[4];
	__be16 port;
	__u8 protocol;
	__u8 pad; /* zero */
};
_Static_assert(sizeof(struct service_key) == 20, "mirrored in src/abi.rs");

/* Map "networks": the longest prefix wins, so each has the flags of those that it lies in, too. */
#define NETWORK_INSIDE 1
#define NETWORK_TRANSLATED 2

struct network_key {
	__u32 prefix_bits; /* 0 to 128; of IPv4 96 more than it is written with */
	__u32 address[4];
};
_Static_assert(sizeof(struct network_key) == 20, "mirrored in src/abi.rs");

/* Map "fragments": only the filter reads and writes it. */
struct fragment_key {
	__u32 source[4];
	__u32 destination[4];
	__be32 id;
	__u8 protocol; /* zero with IPv6 */
	__u8 pad[3];   /* zero */
};
_Static_assert(sizeof(struct fragment_key) == 40, "no hidden padding");

struct fragment_value {
	__be16 own_port;
	__be16 peer_port;
	__u8 protocol;
	__u8 pad[3];
};

/* What of a flow is hashed. */
enum hash_mode {
	HASH_SOURCE_IP = 0,                /* own address */
	HASH_SOURCE_IP_PORT = 1,           /* own address, own port */
	HASH_SOURCE_IP_PORT_DEST_PORT = 2, /* own address, own port, peer's port */
	HASH_SOURCE_NET = 3,               /* own network: /24 of IPv4, /64 of IPv6 */
	HASH_NONE = 4,                     /* nothing: everything is bucket 0 */
};

/* A MAC address in the last six bytes, so that two aligned loads compare it with a frame's. */
struct mac {
	__u16 pad;
	__u16 head; /* bytes 0-1, as in the frame */
	__u32 tail; /* bytes 2-5, as in the frame */
};
_Static_assert(sizeof(struct mac) == 8, "mirrored in src/abi.rs");

/*
 * Probe: proof that packets to the cluster MAC still reach this interface. Once a second from every node, for each
 * family that the interface has addresses of: an IP packet to one of them, without options, UDP, and this body. It is
 * IP because switches that snoop look at the IP header: other EtherTypes pass where clients' packets do not. All numbers
 * in network order. The filter checks only whose cluster it is of, and keeps the last one of each sender: whether its
 * proof is good is the daemon's question, who has the key.
 */
#define PROBE_PORT 7442 /* not the heartbeats': what is done to those must not make a node deaf */
#define PROBE_MAGIC 0x52554450 /* "RUDP" */
#define PROBE_VERSION 1

struct probe_body {
	__be32 magic;
	__u8 version;
	__u8 pad[3];
	__be64 sender;      /* node id, unique in the cluster */
	__be64 incarnation; /* the sender's run */
	__be64 number;      /* rises from probe to probe of a run */
	__be64 proof;       /* that who made it has the cluster's key */
	__be32 tag;         /* of the cluster; others' probes are not ours */
} __attribute__((packed));
_Static_assert(sizeof(struct probe_body) == 44, "mirrored in src/abi.rs");
_Static_assert(__builtin_offsetof(struct probe_body, sender) == 8, "mirrored in src/abi.rs");
_Static_assert(__builtin_offsetof(struct probe_body, incarnation) == 16, "mirrored in src/abi.rs");
_Static_assert(__builtin_offsetof(struct probe_body, number) == 24, "mirrored in src/abi.rs");
_Static_assert(__builtin_offsetof(struct probe_body, proof) == 32, "mirrored in src/abi.rs");
_Static_assert(__builtin_offsetof(struct probe_body, tag) == 40, "mirrored in src/abi.rs");

/* Map "probes". */
struct probe_key {
	__u64 sender; /* node id, host order */
	__u32 slot;   /* of the interface that heard it, [0, SLOT_COUNT) */
	__u32 family; /* 4 or 6 */
};
_Static_assert(sizeof(struct probe_key) == 16, "mirrored in src/abi.rs");

struct probe_value {
	__u64 count;
	__u64 last_ns;     /* CLOCK_BOOTTIME */
	__u64 incarnation; /* the last one's, host order; these three may be of two probes that come at once */
	__u64 number;      /* the last one's, host order */
	__u64 proof;       /* the last one's, host order */
	__u8 mac[6];       /* the source of its frame */
	__u8 pad[2];       /* zero */
};
_Static_assert(sizeof(struct probe_value) == 48, "mirrored in src/abi.rs");

/* Map "buckets": a single entry, so that one write replaces the table. Each byte is an enum bucket_state. */
struct bucket_table {
	__u8 state[BUCKET_COUNT];
};
_Static_assert(sizeof(struct bucket_table) == 256, "mirrored in src/abi.rs");

/* Map "lease": a single entry. Owned buckets are passed while the clock is below it. */
struct lease {
	__u64 until_ns; /* CLOCK_BOOTTIME; 0 = lapsed */
};
_Static_assert(sizeof(struct lease) == 8, "mirrored in src/abi.rs");

struct count {
	__u64 packets;
	__u64 bytes; /* of frames, Ethernet header included; in generic mode a GSO packet counts once */
};
_Static_assert(sizeof(struct count) == 16, "mirrored in src/abi.rs");

/* Map "counters": per CPU, one entry per slot. */
struct interface_counters {
	struct count verdicts[VERDICT_COUNT];
};
_Static_assert(sizeof(struct interface_counters) == 144, "mirrored in src/abi.rs");

struct bucket_count {
	__u64 seen; /* packets of this bucket, whatever became of them */
	__u64 passed;
};
_Static_assert(sizeof(struct bucket_count) == 16, "mirrored in src/abi.rs");

/* Map "bucket_counters": per CPU, a single entry for all interfaces. */
struct bucket_counters {
	struct bucket_count buckets[BUCKET_COUNT];
};
_Static_assert(sizeof(struct bucket_counters) == 4096, "mirrored in src/abi.rs");

/* Map "slots": which interface counts in which slot. Only the loader reads and writes it. */
struct slot {
	__u32 ifindex; /* 0 = free */
	__u8 name[16]; /* NUL-padded, at most 15 bytes of name */
};
_Static_assert(sizeof(struct slot) == 20, "mirrored in src/abi.rs");

/* Map "memo": a single entry, opaque to everybody but the daemon. */
struct memo {
	__u32 bytes; /* used of data */
	__u8 data[MEMO_BYTES_MAX];
};
_Static_assert(sizeof(struct memo) == 8192, "mirrored in src/abi.rs");

/*
 * Map "aside": one ring per CPU, to the daemon. What is set aside of a watched bucket: this, and the frame behind it. Frames
 * that are longer are not set aside: the kernel could not be given them back (BPF_PROG_TEST_RUN, less than a page).
 */
#define ASIDE_BYTES_MAX 3000

struct aside_head {
	__u64 at_ns;   /* when, CLOCK_BOOTTIME: the order of segments that two CPUs took */
	__u32 ifindex; /* where it came in */
	__u16 bytes;   /* of the frame; padding may follow it */
	__u8 bucket;
	__u8 pad; /* zero */
};
_Static_assert(sizeof(struct aside_head) == 16, "mirrored in src/abi.rs");

/* Map "abi": a single entry, by which a successor recognises maps that it can adopt. */
struct abi {
	__u32 version; /* ABI_VERSION */
};
_Static_assert(sizeof(struct abi) == 4, "mirrored in src/abi.rs");

#endif
