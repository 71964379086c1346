// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * From a frame to what a relay decision needs: addresses, ports, TOS, the channel header.
 *
 * A cursor walks the headers, each checked against the end of the frame before its first read. Whatever is not plain
 * UDP of sound length yields the outcome that names why. After parse_packet no packet pointer is kept: struct packet
 * holds copies, so the head may move.
 */
#ifndef POSTERN_PARSE_H
#define POSTERN_PARSE_H

#include "abi.h"
#include "checksum.h"
#include "wire.h"

#define CHANNEL_FIRST 0x4000
#define CHANNEL_LAST 0x7FFF
#define RELAYED_PORT_FIRST 0x8000
#define CHANNEL_PADDING_MAX 3

struct packet {
	__u32 source_be[4];
	__u32 destination_be[4];
	__u16 source_port_be;
	__u16 destination_port_be;
	__u16 udp_length_be;
	__u16 checksum_be;
	__u16 channel_be; /* first words of the UDP payload, zero where it is shorter */
	__u16 message_length_be;
	__u16 id_be;	   /* IPv4 only */
	__u16 fragment_be; /* IPv4 only */
	__u32 udp_offset;  /* from the start of the frame */
	__u32 udp_length;
	__u8 family; /* 4 or 6 */
	__u8 tos;    /* all 8 bits: TOS or traffic class */
	__u8 is_channel_data;
	__u8 unused;
};

struct cursor {
	void *position;
	void *end;
};

/* The UDP length must be what IP carries, whole, and at least its own header; frames may have trailing padding. */
static __always_inline enum outcome parse_udp(struct cursor *cursor, __u32 ip_payload_length, struct packet *packet)
{
	struct udp_header *udp = cursor->position;

	if ((void *)(udp + 1) > cursor->end)
		return PUNT_TRUNCATED;
	packet->source_port_be = udp->source_port_be;
	packet->destination_port_be = udp->destination_port_be;
	packet->udp_length_be = udp->length_be;
	packet->udp_length = swap16(udp->length_be);
	packet->checksum_be = udp->checksum_be;
	if (packet->udp_length < sizeof(*udp) || packet->udp_length != ip_payload_length)
		return PUNT_BAD_LENGTH;
	cursor->position = udp + 1;
	return OUTCOME_CONTINUE;
}

/* The stack would drop a damaged header; writing it anew would hide the damage. */
static __always_inline __u16 ipv4_header_sum(const struct ipv4_header *ip)
{
	const __u32 *words = (const void *)ip;

	return checksum_fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]);
}

static __always_inline enum outcome parse_ipv4(struct cursor *cursor, struct packet *packet)
{
	struct ipv4_header *ip = cursor->position;
	__u32 total_length;

	if ((void *)(ip + 1) > cursor->end)
		return PUNT_TRUNCATED;
	if (ip->version_and_length != IPV4_VERSION_AND_LENGTH)
		return (ip->version_and_length & 0xF0) == 0x40 ? PUNT_IPV4_OPTIONS : PUNT_NOT_IP;
	if (ipv4_header_sum(ip) != 0xFFFF)
		return PUNT_IPV4_CHECKSUM;
	if (ip->protocol != PROTOCOL_UDP)
		return PUNT_NOT_UDP;
	if (swap16(ip->fragment_be) & IPV4_FRAGMENT_MASK)
		return PUNT_FRAGMENT;
	total_length = swap16(ip->total_length_be);
	if (total_length < sizeof(*ip) || total_length > (__u64)(cursor->end - cursor->position))
		return PUNT_BAD_LENGTH;
	packet->family = 4;
	packet->tos = ip->tos;
	packet->id_be = ip->id_be;
	packet->fragment_be = ip->fragment_be;
	packet->source_be[0] = ip->source_be;
	packet->destination_be[0] = ip->destination_be;
	packet->udp_offset = sizeof(struct ethernet_header) + sizeof(*ip);
	cursor->position = ip + 1;
	return parse_udp(cursor, total_length - sizeof(*ip), packet);
}

static __always_inline int is_extension_header(__u8 next_header)
{
	return next_header == EXTENSION_HOP_BY_HOP || next_header == EXTENSION_ROUTING ||
	       next_header == EXTENSION_AUTHENTICATION || next_header == EXTENSION_DESTINATION ||
	       next_header == EXTENSION_MOBILITY || next_header == EXTENSION_HIP || next_header == EXTENSION_SHIM6;
}

static __always_inline enum outcome parse_ipv6(struct cursor *cursor, struct packet *packet)
{
	struct ipv6_header *ip = cursor->position;
	__u32 first_word, payload_length;

	if ((void *)(ip + 1) > cursor->end)
		return PUNT_TRUNCATED;
	first_word = swap32(ip->version_class_label_be);
	if (first_word >> 28 != 6)
		return PUNT_NOT_IP;
	if (ip->next_header == EXTENSION_FRAGMENT)
		return PUNT_FRAGMENT;
	if (is_extension_header(ip->next_header))
		return PUNT_IPV6_EXTENSION;
	if (ip->next_header != PROTOCOL_UDP)
		return PUNT_NOT_UDP;
	payload_length = swap16(ip->payload_length_be);
	if (payload_length + sizeof(*ip) > (__u64)(cursor->end - cursor->position))
		return PUNT_BAD_LENGTH;
	packet->family = 6;
	packet->tos = first_word >> 20;
	__builtin_memcpy(packet->source_be, ip->source_be, sizeof(packet->source_be));
	__builtin_memcpy(packet->destination_be, ip->destination_be, sizeof(packet->destination_be));
	packet->udp_offset = sizeof(struct ethernet_header) + sizeof(*ip);
	cursor->position = ip + 1;
	return parse_udp(cursor, payload_length, packet);
}

/* packet must be zeroed: IPv4 leaves three words of each address alone. */
static __always_inline enum outcome parse_packet(void *data, void *data_end, struct packet *packet)
{
	struct cursor cursor = { .position = data, .end = data_end };
	struct ethernet_header *ethernet = data;
	enum outcome outcome;

	if ((void *)(ethernet + 1) > data_end)
		return PUNT_TRUNCATED;
	cursor.position = ethernet + 1;
	switch (swap16(ethernet->ethertype_be)) {
	case ETHERTYPE_IPV4:
		outcome = parse_ipv4(&cursor, packet);
		break;
	case ETHERTYPE_IPV6:
		outcome = parse_ipv6(&cursor, packet);
		break;
	case ETHERTYPE_VLAN:
	case ETHERTYPE_QINQ:
		return PUNT_VLAN;
	default:
		return PUNT_NOT_IP;
	}
	if (outcome == OUTCOME_CONTINUE &&
	    packet->udp_length >= sizeof(struct udp_header) + sizeof(struct channel_header)) {
		struct channel_header *channel = cursor.position;

		if ((void *)(channel + 1) > data_end)
			return PUNT_TRUNCATED;
		packet->channel_be = channel->number_be;
		packet->message_length_be = channel->length_be;
	}
	return outcome;
}

static __always_inline int is_listen_port(const struct relay_config *config, __u16 port_be)
{
#pragma unroll
	for (int i = 0; i < MAX_LISTEN_PORTS; i++)
		if (config->listen_port_be[i] == port_be)
			return 1;
	return 0;
}

/*
 * Channel data for a listen port, plain UDP for a possible relayed port; sets is_channel_data. A length mismatch of
 * channel data is a super-packet that segmentation offload left whole, padding, or nonsense: user space tells them apart.
 */
static __always_inline enum outcome classify_packet(const struct relay_config *config, struct packet *packet)
{
	__u32 payload_length = packet->udp_length - sizeof(struct udp_header);
	__u32 number = swap16(packet->channel_be);
	__u32 framed_length = swap16(packet->message_length_be) + sizeof(struct channel_header);

	if (!is_listen_port(config, packet->destination_port_be)) {
		if (swap16(packet->destination_port_be) < RELAYED_PORT_FIRST)
			return PUNT_OTHER_PORT;
		return config->flags & RELAY_FROM_PEER ? OUTCOME_CONTINUE : PUNT_FROM_PEER;
	}
	if (payload_length < sizeof(struct channel_header) || number < CHANNEL_FIRST || number > CHANNEL_LAST)
		return PUNT_NOT_CHANNEL_DATA;
	packet->is_channel_data = 1;
	if (framed_length == payload_length)
		return OUTCOME_CONTINUE;
	if (framed_length < payload_length && payload_length - framed_length <= CHANNEL_PADDING_MAX)
		return PUNT_PADDED;
	return PUNT_CHANNEL_LENGTH;
}

static __always_inline int same_address(const __u32 left_be[4], const __u32 right_be[4])
{
	return !((left_be[0] ^ right_be[0]) | (left_be[1] ^ right_be[1]) | (left_be[2] ^ right_be[2]) |
		 (left_be[3] ^ right_be[3]));
}

/* Unused slots hold the unspecified address, to which nothing on a wire is addressed; it never matches. */
static __always_inline int is_own_address(const struct relay_config *config, const struct packet *packet)
{
	if (packet->family == 4) {
#pragma unroll
		for (int i = 0; i < MAX_OWN_ADDRESSES; i++)
			if (config->own_ipv4_be[i] && config->own_ipv4_be[i] == packet->destination_be[0])
				return 1;
		return 0;
	}
	if (!(packet->destination_be[0] | packet->destination_be[1] | packet->destination_be[2] |
	      packet->destination_be[3]))
		return 0;
#pragma unroll
	for (int i = 0; i < MAX_OWN_ADDRESSES; i++)
		if (same_address(config->own_ipv6_be[i], packet->destination_be))
			return 1;
	return 0;
}

#endif
