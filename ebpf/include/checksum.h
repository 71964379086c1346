// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Internet checksums (RFC 1071) and their incremental update (RFC 1624, equation 3: HC' = ~(~HC + ~m + m')).
 *
 * Sums are taken over words as they lie in memory, so no byte order is involved. A 32-bit word may be added whole: 2^32
 * and 2^16 are both congruent to 1 modulo 0xFFFF, hence folding at the end gives what adding its halves would. A 64-bit
 * accumulator cannot overflow over the few dozen words that are added here.
 */
#ifndef POSTERN_CHECKSUM_H
#define POSTERN_CHECKSUM_H

#include <linux/types.h>

/* To 16 bits, carries added back, not complemented. */
static __always_inline __u16 checksum_fold(__u64 sum)
{
	sum = (sum & 0xFFFFFFFF) + (sum >> 32);
	sum = (sum & 0xFFFF) + (sum >> 16);
	sum = (sum & 0xFFFF) + (sum >> 16);
	sum = (sum & 0xFFFF) + (sum >> 16);
	return (__u16)sum;
}

/* A UDP checksum field. Computed zero is sent as 0xFFFF, because zero says "none" (RFC 768). */
static __always_inline __u16 checksum_udp_field(__u64 sum)
{
	__u16 field = ~checksum_fold(sum);

	return field ? field : 0xFFFF;
}

static __always_inline __u64 checksum_replace16(__u64 sum, __u16 removed, __u16 added)
{
	return sum + (__u16)~removed + added;
}

static __always_inline __u64 checksum_replace32(__u64 sum, __u32 removed, __u32 added)
{
	return sum + (__u32)~removed + added;
}

/* Address words and the rest of a UDP pseudo-header; both families sum alike (RFC 768, RFC 8200 §8.1). */
static __always_inline __u64 checksum_pseudo_header(const __u32 source_be[4], const __u32 destination_be[4],
						    __u16 udp_length_be, __u16 protocol_be)
{
	__u64 sum = (__u64)udp_length_be + protocol_be;

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (__u64)source_be[i] + destination_be[i];
	return sum;
}

#endif
