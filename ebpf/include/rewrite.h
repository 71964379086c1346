// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Writing the outgoing headers. One template for all twelve cases:
 *
 *   in    Ethernet | IPv4 or IPv6 | UDP | channel header, if from a client | message
 *   out   Ethernet | IPv4 or IPv6 | UDP | channel header, if to a client   | message
 *
 * The message never moves: the head does, by the difference of both header stacks (-24 to +24 bytes), and all headers
 * are written anew. The checksum is that of the arriving packet with every changed word replaced (RFC 1624).
 */
#ifndef POSTERN_REWRITE_H
#define POSTERN_REWRITE_H

#include "abi.h"
#include "checksum.h"
#include "parse.h"
#include "wire.h"

#define HOP_LIMIT 64 /* a new datagram of the relay: RFC 8656 §13, alternate behaviour */

/* The whole L3 and L4 decision about the outgoing packet. */
struct rewrite {
	__u32 source_be[4];
	__u32 target_be[4];
	__u16 source_port_be;
	__u16 target_port_be;
	__u16 channel_be; /* 0 = plain UDP */
	__u16 message_length_be;
	__u16 id_be;
	__u16 fragment_be;
	__u16 udp_length_be;
	__u16 checksum_be;
	__u32 ip_length;  /* IP header included */
	__s32 head_delta; /* for bpf_xdp_adjust_head: positive shrinks */
	__u8 family;
	__u8 tos;
	__be16 destination_mac[3];
	__be16 source_mac[3];
	__u16 unused;
};

static __always_inline __u32 ip_header_length(__u8 family)
{
	return family == 4 ? sizeof(struct ipv4_header) : sizeof(struct ipv6_header);
}

/* Addresses, ports and lengths; the checksum comes later, when the packet is known to be forwarded. */
static __always_inline enum outcome plan_rewrite(const struct packet *packet, const struct flow *flow,
						 struct rewrite *rewrite)
{
	__u32 channel_in = packet->is_channel_data ? sizeof(struct channel_header) : 0;
	__u32 channel_out = flow->channel_be ? sizeof(struct channel_header) : 0;
	__u32 udp_length = packet->udp_length - channel_in + channel_out;
	__u32 headers_in = ip_header_length(packet->family) + channel_in;
	__u32 headers_out;

	rewrite->family = flow->target_family;
	headers_out = ip_header_length(rewrite->family) + channel_out;
	rewrite->ip_length = udp_length + ip_header_length(rewrite->family);
	if (rewrite->ip_length > 0xFFFF)
		return PUNT_TOO_LONG;
	rewrite->head_delta = (__s32)headers_in - (__s32)headers_out;
	rewrite->udp_length_be = swap16(udp_length);
	rewrite->message_length_be = swap16(packet->udp_length - sizeof(struct udp_header) - channel_in);
	rewrite->channel_be = flow->channel_be;
	rewrite->source_port_be = flow->source_port_be;
	rewrite->target_port_be = flow->target_port_be;
	rewrite->tos = packet->tos;
	__builtin_memcpy(rewrite->target_be, flow->target_address_be, sizeof(rewrite->target_be));
	if (flow->source_address_be[0] | flow->source_address_be[1] | flow->source_address_be[2] |
	    flow->source_address_be[3])
		__builtin_memcpy(rewrite->source_be, flow->source_address_be, sizeof(rewrite->source_be));
	else
		__builtin_memcpy(rewrite->source_be, packet->destination_be, sizeof(rewrite->source_be));
	/* Within IPv4 the sender's choice about fragmentation stays; from IPv6 nothing may be fragmented (RFC 8200 §5). */
	rewrite->id_be = packet->family == 4 ? packet->id_be : 0;
	rewrite->fragment_be = packet->family == 4 ? packet->fragment_be : swap16(IPV4_DONT_FRAGMENT);
	return OUTCOME_CONTINUE;
}

/* The packet's is a complete checksum here. */
static __always_inline __u16 rewritten_checksum(const struct packet *packet, const struct rewrite *rewrite)
{
	__u64 sum = (__u16)~packet->checksum_be;

	sum = checksum_replace32(sum, packet->source_be[0], rewrite->source_be[0]);
	sum = checksum_replace32(sum, packet->destination_be[0], rewrite->target_be[0]);
	if (packet->family == 6 || rewrite->family == 6) { /* else the other words are zero, before and after */
#pragma unroll
		for (int i = 1; i < 4; i++) {
			sum = checksum_replace32(sum, packet->source_be[i], rewrite->source_be[i]);
			sum = checksum_replace32(sum, packet->destination_be[i], rewrite->target_be[i]);
		}
	}
	sum = checksum_replace16(sum, packet->source_port_be, rewrite->source_port_be);
	sum = checksum_replace16(sum, packet->destination_port_be, rewrite->target_port_be);
	/* Twice: the length is in the UDP header and in the pseudo-header. */
	sum = checksum_replace16(sum, packet->udp_length_be, rewrite->udp_length_be);
	sum = checksum_replace16(sum, packet->udp_length_be, rewrite->udp_length_be);
	if (packet->is_channel_data) {
		sum += (__u16)~packet->channel_be;
		sum += (__u16)~packet->message_length_be;
	}
	if (rewrite->channel_be)
		sum += (__u64)rewrite->channel_be + rewrite->message_length_be;
	return checksum_udp_field(sum);
}

static __always_inline void write_ipv4(struct ipv4_header *ip, const struct rewrite *rewrite)
{
	__u64 sum = 0;

	ip->version_and_length = IPV4_VERSION_AND_LENGTH;
	ip->tos = rewrite->tos;
	ip->total_length_be = swap16(rewrite->ip_length);
	ip->id_be = rewrite->id_be;
	ip->fragment_be = rewrite->fragment_be;
	ip->ttl = HOP_LIMIT;
	ip->protocol = PROTOCOL_UDP;
	ip->source_be = rewrite->source_be[0];
	ip->destination_be = rewrite->target_be[0];
	sum += swap16(0x4500 | rewrite->tos);
	sum += swap16(rewrite->ip_length);
	sum += (__u64)rewrite->id_be + rewrite->fragment_be;
	sum += swap16(HOP_LIMIT << 8 | PROTOCOL_UDP);
	sum += (__u64)rewrite->source_be[0] + rewrite->target_be[0];
	ip->checksum_be = ~checksum_fold(sum);
}

/* Flow label 0: the message joins a flow of ours, not the sender's. */
static __always_inline void write_ipv6(struct ipv6_header *ip, const struct rewrite *rewrite)
{
	ip->version_class_label_be = swap32(6U << 28 | (__u32)rewrite->tos << 20);
	ip->payload_length_be = rewrite->udp_length_be;
	ip->next_header = PROTOCOL_UDP;
	ip->hop_limit = HOP_LIMIT;
	__builtin_memcpy(ip->source_be, rewrite->source_be, sizeof(ip->source_be));
	__builtin_memcpy(ip->destination_be, rewrite->target_be, sizeof(ip->destination_be));
}

static __always_inline enum outcome write_transport(void *position, void *data_end, const struct rewrite *rewrite)
{
	struct udp_header *udp = position;
	struct channel_header *channel = (void *)(udp + 1);

	if ((void *)(udp + 1) > data_end)
		return DROP_REWRITE;
	udp->source_port_be = rewrite->source_port_be;
	udp->destination_port_be = rewrite->target_port_be;
	udp->length_be = rewrite->udp_length_be;
	udp->checksum_be = rewrite->checksum_be;
	if (!rewrite->channel_be)
		return OUTCOME_CONTINUE;
	if ((void *)(channel + 1) > data_end)
		return DROP_REWRITE;
	channel->number_be = rewrite->channel_be;
	channel->length_be = rewrite->message_length_be;
	return OUTCOME_CONTINUE;
}

/* data and data_end must have been read after the head moved. */
static __always_inline enum outcome write_headers(void *data, void *data_end, const struct rewrite *rewrite)
{
	struct ethernet_header *ethernet = data;

	if ((void *)(ethernet + 1) > data_end)
		return DROP_REWRITE;
	__builtin_memcpy(ethernet->destination, rewrite->destination_mac, sizeof(ethernet->destination));
	__builtin_memcpy(ethernet->source, rewrite->source_mac, sizeof(ethernet->source));
	if (rewrite->family == 4) {
		struct ipv4_header *ip = (void *)(ethernet + 1);

		if ((void *)(ip + 1) > data_end)
			return DROP_REWRITE;
		ethernet->ethertype_be = swap16(ETHERTYPE_IPV4);
		write_ipv4(ip, rewrite);
		return write_transport(ip + 1, data_end, rewrite);
	} else {
		struct ipv6_header *ip = (void *)(ethernet + 1);

		if ((void *)(ip + 1) > data_end)
			return DROP_REWRITE;
		ethernet->ethertype_be = swap16(ETHERTYPE_IPV6);
		write_ipv6(ip, rewrite);
		return write_transport(ip + 1, data_end, rewrite);
	}
}

#endif
