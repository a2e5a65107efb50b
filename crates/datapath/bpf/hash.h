/* SPDX-License-Identifier: (Apache-2.0 OR MIT) OR GPL-2.0-only */
/*
 * The kernel's jhash (Bob Jenkins' lookup3), over the words that nftables would put into its registers for the same
 * fields: an address, then each port in the first two bytes of a word of its own. `jhash ... mod 256 seed S` in a rule
 * of nftables is the top byte of this hash. Words are read little-endian, so that nodes of either endianness agree.
 */
#ifndef RUDEL_HASH_H
#define RUDEL_HASH_H

#include "abi.h"

#include <bpf/bpf_endian.h>

#define JHASH_INITVAL 0xdeadbeef
#define KEY_WORDS_MAX 6

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define KEY_WORD(raw) ((__u32)(raw))
#define KEY_PORT(raw) ((__u32)(raw))
#else
#define KEY_WORD(raw) __builtin_bswap32(raw)
#define KEY_PORT(raw) ((__u32)__builtin_bswap16(raw))
#endif

static __always_inline __u32 rol32(__u32 word, int shift)
{
	return word << shift | word >> (32 - shift);
}

/* Hashes 1 to KEY_WORDS_MAX words; `count` should be a constant after inlining. */
static __always_inline __u32 jhash_words(const __u32 *word, int count, __u32 seed)
{
	__u32 a, b, c;

	a = b = c = JHASH_INITVAL + ((__u32)count << 2) + seed;

	if (count > 3) {
		a += word[0];
		b += word[1];
		c += word[2];
		a -= c, a ^= rol32(c, 4), c += b;
		b -= a, b ^= rol32(a, 6), a += c;
		c -= b, c ^= rol32(b, 8), b += a;
		a -= c, a ^= rol32(c, 16), c += b;
		b -= a, b ^= rol32(a, 19), a += c;
		c -= b, c ^= rol32(b, 4), b += a;
		word += 3;
		count -= 3;
	}

	if (count > 2)
		c += word[2];
	if (count > 1)
		b += word[1];
	a += word[0];

	c ^= b, c -= rol32(b, 14);
	a ^= c, a -= rol32(c, 11);
	b ^= a, b -= rol32(a, 25);
	c ^= b, c -= rol32(b, 16);
	a ^= c, a -= rol32(c, 4);
	b ^= a, b -= rol32(a, 14);
	c ^= b, c -= rol32(b, 24);
	return c;
}

#endif
