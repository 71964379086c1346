// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Token buckets without a lock.
 *
 * How right on several CPUs: no token is spent twice and none is lost, because what is spent is added atomically and the
 * head start of an idle bucket is given by compare-and-swap, once. CPUs that look at the same moment may all be let
 * through: a bucket is overdrawn by at most one packet per CPU, and pays that back before it opens again.
 */
#ifndef POSTERN_BUCKET_H
#define POSTERN_BUCKET_H

#include "abi.h"

#define NANOSECONDS 1000000000ULL

/* Whether anything may pass at this moment. The direction is that of the client whose user pays. */
static __always_inline int bucket_is_open(const struct bucket *bucket, enum direction direction, __u64 now_ns)
{
	return !bucket->bytes_per_second || bucket->spent_until_ns[direction & 1] <= now_ns;
}

static __always_inline void bucket_spend(struct bucket *bucket, enum direction direction, __u64 bytes, __u64 now_ns)
{
	__u64 rate = bucket->bytes_per_second;
	__u64 *spent_until_ns = &bucket->spent_until_ns[direction & 1];
	__u64 seen_ns = *spent_until_ns;

	if (!rate)
		return;
	if (seen_ns + BUCKET_DEPTH_NS < now_ns)
		__sync_val_compare_and_swap(spent_until_ns, seen_ns, now_ns - BUCKET_DEPTH_NS);
	__sync_fetch_and_add(spent_until_ns, bytes * NANOSECONDS / rate);
}

#endif
