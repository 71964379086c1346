// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What the program and user space agree on: outcomes, map keys and values.
 *
 * Mirrored by ebpf/outcomes.py (numbers) and ebpf/layout.py (bytes); tests compare the three. The program writes
 * counters and the state of token buckets, user space all else.
 */
#ifndef POSTERN_ABI_H
#define POSTERN_ABI_H

#include <linux/types.h>

#define MAX_INTERFACES 8    /* offloaded interfaces, each also an egress */
#define MAX_OWN_ADDRESSES 8 /* per family */
#define MAX_LISTEN_PORTS 8
#define MAX_NEXT_HOPS 256	      /* slot 0 stands for "none" */
#define MAX_BUCKETS 16384	      /* users with a bandwidth of their own; slot 0 is the whole relay's */
#define BUCKET_DEPTH_NS 1000000000ULL /* a bucket holds what its rate gives in one second */

enum direction {
	DIRECTION_TO_PEER = 0,	       /* channel data in, plain UDP out */
	DIRECTION_TO_CLIENT = 1,       /* plain UDP in, channel data out */
	DIRECTION_BETWEEN_CLIENTS = 2, /* channel data in and out: both clients are ours */
	DIRECTION_NONE = 3,	       /* not known to belong to a flow */
	DIRECTION_COUNT = 4,
};

/*
 * Append-only within each range; a retired number stays unused. Forwarded below 16, handed to the stack (and thereby to
 * the Python path) from 16, dropped from 64.
 */
enum outcome {
	OUTCOME_CONTINUE = 0, /* no outcome yet; never counted */
	FORWARD_ROUTE = 1,    /* next hop from the kernel's routes and neighbours */
	FORWARD_NEXT_HOP = 2, /* the kernel does not forward: next hop learnt by user space */
	FORWARD_RETURN = 3,   /* neither: back to where the packet came from */
	FORWARD_PROBE = 4,    /* a frame of the egress self-test */

	PUNT_FIRST = 16,
	PUNT_NOT_IP = 16,
	PUNT_VLAN = 17,
	PUNT_TRUNCATED = 18, /* a header does not fit into the frame */
	PUNT_IPV4_OPTIONS = 19,
	PUNT_FRAGMENT = 20,
	PUNT_IPV6_EXTENSION = 21,
	PUNT_NOT_UDP = 22,
	PUNT_NOT_OURS = 23,	    /* the destination is no address of this relay */
	PUNT_BAD_LENGTH = 24,	    /* IP and UDP lengths disagree with each other or with the frame */
	PUNT_OTHER_PORT = 25,	    /* neither a listen port nor a possible relayed port */
	PUNT_NOT_CHANNEL_DATA = 26, /* on a listen port: STUN and all else that user space serves */
	PUNT_CHANNEL_LENGTH = 27,   /* channel length against UDP length: a super-packet of several, or nonsense */
	PUNT_PADDED = 28,	    /* 1 to 3 bytes of padding, which RFC 8656 permits */
	PUNT_NO_CHECKSUM = 29,	    /* IPv6 without a UDP checksum */
	PUNT_FROM_PEER = 30,	    /* generic mode: may be a super-packet and would become one message */
	PUNT_UNKNOWN_FLOW = 31,
	PUNT_EXPIRED = 32,
	PUNT_RECYCLED = 33, /* the entry was replaced while it was read */
	PUNT_TOO_LONG = 34, /* beyond 16 bits, or beyond what a checksum is recomputed over */
	PUNT_UNROUTABLE = 35,
	PUNT_NO_NEIGHBOUR = 36, /* sending from user space resolves it */
	PUNT_MTU = 37,
	PUNT_EGRESS = 38,	 /* leaves by an interface that is not offloaded or swallows frames */
	PUNT_HEADROOM = 39,	 /* the driver leaves no room to grow the packet */
	PUNT_IPV4_CHECKSUM = 40, /* a damaged header; the stack counts it and drops it */
	/* 41 is retired: empty messages went up once */

	DROP_FIRST = 64,
	DROP_REWRITE = 64,    /* the head moved, yet the headers do not fit: cannot happen, cannot be passed up */
	DROP_OVER_QUOTA = 65, /* the user's bandwidth, or the relay's */

	OUTCOME_COUNT = 72,
};

struct counter {
	__u64 packets;
	__u64 bytes; /* relayed message bytes where forwarded, frame bytes otherwise */
};

#define RELAY_FROM_PEER 1 /* plain UDP to relayed ports is forwarded too */

struct relay_config {
	__be16 listen_port_be[MAX_LISTEN_PORTS]; /* 0 = unused slot */
	__u32 flags;
	__u32 probe_ifindex;			  /* egress under self-test, 0 = none */
	__u32 egress_ifindex[MAX_INTERFACES];	  /* 0 = unused slot */
	__be32 own_ipv4_be[MAX_OWN_ADDRESSES];	  /* 0 = unused slot */
	__be32 own_ipv6_be[MAX_OWN_ADDRESSES][4]; /* :: = unused slot */
};

/*
 * Who sent it, and what it is addressed to: a channel number (0x4000 to 0x7FFF) or a relayed port (from 0x8000). The two
 * ranges cannot meet, so one map per outer family serves both directions. No implicit padding.
 */
struct flow_key_v4 {
	__be32 remote_address_be;
	__be16 remote_port_be;
	__be16 selector_be;
};

struct flow_key_v6 {
	__be32 remote_address_be[4];
	__be16 remote_port_be;
	__be16 selector_be;
};

/*
 * Addresses hold four words; IPv4 uses the first, the others are zero, so that both families sum alike. What changes
 * while a flow lives, its expiry and its counters, is in the slots of the bindings that it is made of.
 */
struct flow {
	/* Echo of the key. Written first and read last: tells an element that was recycled under the reader's hands. */
	__be32 remote_address_be[4];
	__be16 remote_port_be;
	__be16 selector_be;
	__be16 source_port_be;
	__be16 target_port_be;
	__be32 target_address_be[4];
	__be32 source_address_be[4]; /* zero: answer from the address that the packet was sent to */
	__be16 channel_be;	     /* put in front of the message; 0 = plain UDP */
	__u16 target_family;	     /* 4 or 6 */
	__u32 next_hop;		     /* slot in next_hops, 0 = none */
	__u32 sender;		     /* slot of the client that sends, 0 = a peer does */
	__u32 receiver;		     /* slot of the client that it goes to, 0 = a peer; both are set between clients */
	__be16 listen_port_be;	     /* the only one that the client's channel data may come to; 0 = a peer sends */
	__u16 unused;
};

/*
 * A channel binding: one line of cache in an array that user space has mapped. A refresh writes the expiry and nothing
 * else, so it loses no count; zero there ends the binding for both directions and for other clients at once.
 */
struct binding {
	__u64 expires_at_ns; /* CLOCK_MONOTONIC */
	__u32 bucket;	     /* of the client's user, 0 = without a limit of its own */
	__u32 unused;
	struct counter to_peer;
	struct counter to_client;
	__u64 padding[2];
};

/*
 * Tokens are time: a bucket knows until when its rate has been used up, no earlier than BUCKET_DEPTH_NS ago. In the
 * past: it lets through, whatever the size; else not.
 */
struct bucket {
	__u64 bytes_per_second;	 /* 0 = without limit */
	__u64 spent_until_ns[2]; /* DIRECTION_TO_PEER, DIRECTION_TO_CLIENT */
};

struct next_hop {
	__u32 ifindex; /* 0 = neighbour not resolved yet */
	__u32 mtu;
	__be16 destination[3];
	__be16 source[3];
};

_Static_assert(sizeof(struct counter) == 16, "mirrored by layout.py");
_Static_assert(sizeof(struct relay_config) == 216, "mirrored by layout.py");
_Static_assert(sizeof(struct flow_key_v4) == 8, "mirrored by layout.py");
_Static_assert(sizeof(struct flow_key_v6) == 20, "mirrored by layout.py");
_Static_assert(sizeof(struct flow) == 76, "mirrored by layout.py");
_Static_assert(sizeof(struct binding) == 64, "mirrored by layout.py");
_Static_assert(sizeof(struct bucket) == 24, "mirrored by layout.py");
_Static_assert(sizeof(struct next_hop) == 20, "mirrored by layout.py");

#endif
