// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Relays channel data and its answers without leaving the driver: parse, one lookup, next hop, move the head, write.
 *
 * A projection of the relay's channel bindings, never a decision of its own. What is not understood, not known, expired
 * or not sendable from here goes up untouched to the stack, where the relay's sockets are. A frame is passed up or
 * forwarded, never passed up modified: everything that can fail comes before the head moves. Dropped is only what user
 * space would drop: what is over a quota.
 *
 * Passed up, because what reads it already exists there and a program that read it too would be larger and slower for
 * all other packets: VLAN tags (the next hop's tag is not what the FIB look-up tells; a VLAN interface can be offloaded
 * itself), IPv4 options, fragments (only the first one has ports), IPv6 extension headers, padded channel data, and what
 * exceeds the MTU (sockets fragment it, unless they must not).
 *
 * Needs Linux 5.18 (live test frames, for its self-test); 6.1 verifies it, too. The helpers for routes and MTU ask for
 * a GPL-compatible licence.
 */
#define BPF_LICENSE GPL

#include <uapi/linux/bpf.h>

#include "abi.h"
#include "bucket.h"
#include "checksum.h"
#include "parse.h"
#include "parties.h"
#include "rewrite.h"
#include "sum.h"
#include "wire.h"

#ifndef FLOW_ENTRIES
#error "FLOW_ENTRIES: entries of each flow map"
#endif
#ifndef BINDINGS
#error "BINDINGS: channel bindings, slot 0 included"
#endif

#define FAMILY_IPV4 2  /* AF_INET */
#define FAMILY_IPV6 10 /* AF_INET6 */
#define LOOPBACK_IFINDEX 1

/*
 * The flows, by outer family of the arriving packet. A binding needs at most two entries, both in the same map when
 * client and peer share a family. Not LRU: evicting a live flow would be a decision. Not preallocated: an entry costs
 * 192 bytes (8 or 20 of key, 76 of value, 48 of element, rounded up by the allocator), so a full map of 131072 would hold
 * 24 MiB from the start; and only user space inserts, so no allocation ever happens on a packet's way. When full, the
 * insert fails and the flow stays in user space.
 */
BPF_F_TABLE("hash", struct flow_key_v4, struct flow, flows_v4, FLOW_ENTRIES, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct flow_key_v6, struct flow, flows_v6, FLOW_ENTRIES, BPF_F_NO_PREALLOC);

/* One hash look-up per packet: a flow names its slots here, and they are where user space looks and writes too. */
BPF_F_TABLE("array", __u32, struct binding, bindings, BINDINGS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct bucket, buckets, MAX_BUCKETS, BPF_F_MMAPABLE);

BPF_ARRAY(config, struct relay_config, 1);
BPF_ARRAY(next_hops, struct next_hop, MAX_NEXT_HOPS);

/* By outcome * DIRECTION_COUNT + direction. One copy per CPU and no preemption within a program: no atomics needed. */
BPF_PERCPU_ARRAY(outcome_stats, struct counter, OUTCOME_COUNT *DIRECTION_COUNT);

static __always_inline struct flow *find_flow(const struct packet *packet)
{
	__be16 selector_be = packet->is_channel_data ? packet->channel_be : packet->destination_port_be;

	if (packet->family == 4) {
		struct flow_key_v4 key = {
			.remote_address_be = packet->source_be[0],
			.remote_port_be = packet->source_port_be,
			.selector_be = selector_be,
		};

		return flows_v4.lookup(&key);
	} else {
		struct flow_key_v6 key = { .remote_port_be = packet->source_port_be, .selector_be = selector_be };

		__builtin_memcpy(key.remote_address_be, packet->source_be, sizeof(key.remote_address_be));
		return flows_v6.lookup(&key);
	}
}

/* Elements are recycled at once; what was read is ours only if the echo, written first, is still right afterwards. */
static __always_inline int is_still_ours(const volatile struct flow *flow, const struct packet *packet)
{
	__be16 selector_be = packet->is_channel_data ? packet->channel_be : packet->destination_port_be;

	asm volatile("" ::: "memory"); /* no read of the flow moves behind the check */
	if (flow->remote_address_be[0] != packet->source_be[0] || flow->remote_port_be != packet->source_port_be ||
	    flow->selector_be != selector_be)
		return 0;
	return packet->family == 4 || (flow->remote_address_be[1] == packet->source_be[1] &&
				       flow->remote_address_be[2] == packet->source_be[2] &&
				       flow->remote_address_be[3] == packet->source_be[3]);
}

/* To where user space learnt, else to where the packet came from; only asked where the kernel must not forward. */
static __always_inline enum outcome unforwarded_egress(struct xdp_md *context, __u32 slot, struct rewrite *rewrite,
						       __u32 *ifindex)
{
	struct next_hop *hop = slot ? next_hops.lookup(&slot) : 0;
	struct ethernet_header *ethernet;
	void *data, *data_end;
	__u32 mtu = 0;

	if (hop) {
		if (!hop->ifindex)
			return PUNT_NO_NEIGHBOUR;
		*ifindex = hop->ifindex;
		__builtin_memcpy(rewrite->destination_mac, hop->destination, sizeof(rewrite->destination_mac));
		__builtin_memcpy(rewrite->source_mac, hop->source, sizeof(rewrite->source_mac));
		return rewrite->ip_length > hop->mtu ? PUNT_MTU : FORWARD_NEXT_HOP;
	}
	if (bpf_check_mtu(context, 0, &mtu, -rewrite->head_delta, 0))
		return PUNT_MTU;
	data = (void *)(long)context->data;
	data_end = (void *)(long)context->data_end;
	ethernet = data;
	if ((void *)(ethernet + 1) > data_end)
		return PUNT_TRUNCATED;
	*ifindex = context->ingress_ifindex;
	__builtin_memcpy(rewrite->destination_mac, ethernet->source, sizeof(rewrite->destination_mac));
	__builtin_memcpy(rewrite->source_mac, ethernet->destination, sizeof(rewrite->source_mac));
	return FORWARD_RETURN;
}

/* Next hop, egress and MTU by the kernel's own tables. */
static __always_inline enum outcome find_egress(struct xdp_md *context, __u32 slot, struct rewrite *rewrite,
						__u32 *ifindex)
{
	struct bpf_fib_lookup fib = {};
	long result;

	fib.ifindex = context->ingress_ifindex;
	fib.l4_protocol = PROTOCOL_UDP;
	fib.sport = rewrite->source_port_be;
	fib.dport = rewrite->target_port_be;
	fib.tot_len = rewrite->ip_length;
	if (rewrite->family == 4) {
		fib.family = FAMILY_IPV4;
		fib.tos = rewrite->tos;
		fib.ipv4_src = rewrite->source_be[0];
		fib.ipv4_dst = rewrite->target_be[0];
	} else {
		fib.family = FAMILY_IPV6;
		fib.flowinfo = swap32((__u32)rewrite->tos << 20);
		__builtin_memcpy(fib.ipv6_src, rewrite->source_be, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, rewrite->target_be, sizeof(fib.ipv6_dst));
	}
	result = bpf_fib_lookup(context, &fib, sizeof(fib), 0);
	switch (result) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		*ifindex = fib.ifindex;
		__builtin_memcpy(rewrite->destination_mac, fib.dmac, sizeof(rewrite->destination_mac));
		__builtin_memcpy(rewrite->source_mac, fib.smac, sizeof(rewrite->source_mac));
		return FORWARD_ROUTE;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		return unforwarded_egress(context, slot, rewrite, ifindex);
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return PUNT_NO_NEIGHBOUR;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return PUNT_MTU;
	default:
		return PUNT_UNROUTABLE;
	}
}

static __always_inline int is_egress(const struct relay_config *settings, __u32 ifindex)
{
#pragma unroll
	for (int i = 0; i < MAX_INTERFACES; i++)
		if (settings->egress_ifindex[i] && settings->egress_ifindex[i] == ifindex)
			return 1;
	return 0;
}

/*
 * The checksum of the arriving packet becomes a complete one. The field is none if it is zero (IPv4 only), or if it
 * equals the folded, uncomplemented sum of the pseudo-header: then the sender left the rest to its device.
 */
static __always_inline enum outcome complete_checksum(struct xdp_md *context, struct packet *packet)
{
	__u64 sum = checksum_pseudo_header(packet->source_be, packet->destination_be, packet->udp_length_be,
					   swap16(PROTOCOL_UDP));
	enum outcome outcome;

	if (!packet->checksum_be && packet->family == 6)
		return PUNT_NO_CHECKSUM;
	if (packet->checksum_be && packet->checksum_be != checksum_fold(sum))
		return OUTCOME_CONTINUE;
	outcome = sum_datagram(context, packet, &sum);
	packet->checksum_be = checksum_udp_field(sum);
	return outcome;
}

static __always_inline enum outcome send_rewritten(struct xdp_md *context, struct rewrite *rewrite)
{
	if (bpf_xdp_adjust_head(context, rewrite->head_delta))
		return PUNT_HEADROOM;
	/* The head moved: every earlier packet pointer is void. */
	return write_headers((void *)(long)context->data, (void *)(long)context->data_end, rewrite);
}

/* One client's part of the way: what its user has left, and what the whole relay has. */
static __always_inline int take_tokens(const struct binding *binding, enum direction direction, __u64 bytes,
				       __u64 now_ns)
{
	__u32 slot = binding->bucket, zero = 0;
	struct bucket *user = slot ? buckets.lookup(&slot) : 0;
	struct bucket *whole = buckets.lookup(&zero);

	if ((user && !bucket_is_open(user, direction, now_ns)) || (whole && !bucket_is_open(whole, direction, now_ns)))
		return 0;
	if (user)
		bucket_spend(user, direction, bytes, now_ns);
	if (whole)
		bucket_spend(whole, direction, bytes, now_ns);
	return 1;
}

static __always_inline int is_within_quota(const struct parties *parties, __u64 bytes, __u64 now_ns)
{
	return (!parties->sender || take_tokens(parties->sender, DIRECTION_TO_PEER, bytes, now_ns)) &&
	       (!parties->receiver || take_tokens(parties->receiver, DIRECTION_TO_CLIENT, bytes, now_ns));
}

/* What there is to tell about a packet, besides its outcome. */
struct passage {
	enum direction direction;
	__u32 ifindex; /* where it leaves */
	__u64 bytes;
};

/* A packet of a known flow, up to and including its departure. */
static __always_inline enum outcome relay_flow(struct xdp_md *context, const struct relay_config *settings,
					       const struct packet *packet, const struct parties *parties,
					       const struct flow *flow, __u64 message_bytes, __u32 *ifindex)
{
	struct rewrite rewrite = {};
	enum outcome outcome, egress;
	__u32 slot = flow->next_hop;
	/*
	 * As of the last tick, 1 to 10 ms ago: a tenth of the program's time less than asking the clock, and exact enough
	 * for buckets that hold a second. An expiry that is written is a tick early, so that nothing passes late.
	 */
	__u64 now_ns = bpf_ktime_get_coarse_ns();

	if (!are_live(parties, now_ns))
		return PUNT_EXPIRED;
	outcome = plan_rewrite(packet, flow, &rewrite);
	if (outcome)
		return outcome;
	if (!is_still_ours(flow, packet))
		return PUNT_RECYCLED;
	egress = find_egress(context, slot, &rewrite, ifindex);
	if (egress >= PUNT_FIRST)
		return egress;
	if (!is_egress(settings, *ifindex))
		return PUNT_EGRESS;
	if (!is_within_quota(parties, message_bytes, now_ns))
		return DROP_OVER_QUOTA;
	rewrite.checksum_be = rewritten_checksum(packet, &rewrite);
	outcome = send_rewritten(context, &rewrite);
	return outcome ? outcome : egress;
}

static __always_inline struct binding *find_binding(__u32 slot)
{
	return slot ? bindings.lookup(&slot) : 0;
}

static __always_inline enum outcome relay_datagram(struct xdp_md *context, const struct relay_config *settings,
						   struct packet *packet, struct passage *passage)
{
	struct parties parties = {};
	enum outcome outcome;
	struct flow *flow;
	__u64 message_bytes;

	if (!is_own_address(settings, packet))
		return PUNT_NOT_OURS;
	outcome = classify_packet(settings, packet);
	if (outcome)
		return outcome;
	flow = find_flow(packet);
	/* A client that sends to another listen port of ours is another five-tuple, whose channels are others. */
	if (!flow || (packet->is_channel_data && flow->listen_port_be != packet->destination_port_be))
		return PUNT_UNKNOWN_FLOW;
	/* Here, where the verifier has come by few ways; refused below, where it is known whose packet it was. */
	outcome = complete_checksum(context, packet);
	parties.sender = find_binding(flow->sender);
	parties.receiver = find_binding(flow->receiver);
	passage->direction = direction_of(&parties);
	if (outcome)
		return outcome;
	message_bytes = packet->udp_length - sizeof(struct udp_header) -
			(packet->is_channel_data ? sizeof(struct channel_header) : 0);
	outcome = relay_flow(context, settings, packet, &parties, flow, message_bytes, &passage->ifindex);
	if (outcome < PUNT_FIRST) {
		passage->bytes = message_bytes;
		if (parties.sender)
			count(&parties.sender->to_peer, message_bytes);
		if (parties.receiver)
			count(&parties.receiver->to_client, message_bytes);
	}
	return outcome;
}

static __always_inline enum outcome relay_packet(struct xdp_md *context, const struct relay_config *settings,
						 struct passage *passage)
{
	void *data = (void *)(long)context->data;
	void *data_end = (void *)(long)context->data_end;
	struct packet packet = {};
	enum outcome outcome;

	passage->bytes = data_end - data;
	outcome = parse_packet(data, data_end, &packet);
	if (outcome)
		return outcome;
	/* Twice the same, each copy for a family that the compiler knows: a tenth of the program's time. */
	if (packet.family == 4) {
		packet.family = 4;
		return relay_datagram(context, settings, &packet, passage);
	}
	packet.family = 6;
	return relay_datagram(context, settings, &packet, passage);
}

#ifdef POISON_HEADROOM
/* For tests: the runner hands out zeroed headroom, which would hide header bytes that are never written. */
static __always_inline void poison_headroom(struct xdp_md *context)
{
	__u8 *data;

	if (bpf_xdp_adjust_head(context, -32))
		return;
	data = (void *)(long)context->data;
	if ((void *)(data + 32) <= (void *)(long)context->data_end)
		__builtin_memset(data, 0xFF, 32);
	bpf_xdp_adjust_head(context, 32);
}
#endif

int postern_relay(struct xdp_md *context)
{
	struct passage passage = { .direction = DIRECTION_NONE };
	enum outcome outcome;
	struct relay_config *settings;
	struct counter *counter;
	int zero = 0, index;

#ifdef POISON_HEADROOM
	poison_headroom(context);
#endif
	settings = config.lookup(&zero);
	if (!settings)
		return XDP_PASS;
	outcome = relay_packet(context, settings, &passage);
	/* The egress self-test: live test frames carry loopback as their ingress, frames off a wire do not. */
	if ((outcome == PUNT_NOT_IP || outcome == PUNT_NOT_UDP) && settings->probe_ifindex &&
	    context->ingress_ifindex == LOOPBACK_IFINDEX) {
		outcome = FORWARD_PROBE;
		passage.ifindex = settings->probe_ifindex;
	}
	index = outcome * DIRECTION_COUNT + passage.direction;
	counter = outcome_stats.lookup(&index);
	if (counter) {
		counter->packets += 1;
		counter->bytes += passage.bytes;
	}
	if (outcome >= DROP_FIRST)
		return XDP_DROP;
	if (outcome >= PUNT_FIRST)
		return XDP_PASS;
	/* Also where it leaves by the interface it came in on: on veth, XDP_TX does not wake the far end. */
	return bpf_redirect(passage.ifindex, 0);
}
