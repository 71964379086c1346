// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Who a flow is between: which way that is, whether it still lives, and what it has carried.
 */
#ifndef POSTERN_PARTIES_H
#define POSTERN_PARTIES_H

#include "abi.h"

/* The bindings that a flow is made of: the sender's, the receiver's, or both between two clients. */
struct parties {
	struct binding *sender;
	struct binding *receiver;
};

static __always_inline enum direction direction_of(const struct parties *parties)
{
	if (!parties->sender)
		return DIRECTION_TO_CLIENT;
	return parties->receiver ? DIRECTION_BETWEEN_CLIENTS : DIRECTION_TO_PEER;
}

/* Asked of every packet, so that neither an end that user space has not met yet nor the far one's is overlooked. */
static __always_inline int are_live(const struct parties *parties, __u64 now_ns)
{
	if (!parties->sender && !parties->receiver)
		return 0;
	return (!parties->sender || parties->sender->expires_at_ns > now_ns) &&
	       (!parties->receiver || parties->receiver->expires_at_ns > now_ns);
}

static __always_inline void count(struct counter *counter, __u64 bytes)
{
	__sync_fetch_and_add(&counter->packets, 1);
	__sync_fetch_and_add(&counter->bytes, bytes);
}

#endif
