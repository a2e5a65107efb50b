// SPDX-License-Identifier: (Apache-2.0 OR MIT) OR GPL-2.0-only
/* What it costs to run any program at all: the benchmark's unit. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int baseline(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
