// SPDX-License-Identifier: Apache-2.0
/*
 * What connectivity.ip.flow.split_flows looks for: how far from a row on all rows are packets of one flow. Only of plain
 * TCP and UDP; options of IPv4, fragments, extension headers, padding between rows and what is no packet are left to
 * Python, which knows what is wrong with them.
 */
#include <stdint.h>
#include <string.h>

#include "checksum.h"
#include "native.h"

#define PLAIN_TCP 0
#define PLAIN_UDP 1
#define PLAIN_IPV6 2

struct plain {
	int64_t length; /* of the packet; padding may follow it */
	int kind;	/* PLAIN_… */
	uint8_t tos;
	int l4;
};

static int read_transport(const uint8_t *packet, int protocol, struct plain *found)
{
	const uint8_t *transport = packet + found->l4;
	int64_t left = found->length - found->l4;

	if (protocol == PROTOCOL_TCP) {
		int header;

		if (left < TCP_HEADER_BYTES)
			return 0;
		header = (transport[TCP_DATA_OFFSET_OFFSET] >> 4) * 4;
		found->kind |= PLAIN_TCP;
		return header >= TCP_HEADER_BYTES && header <= left;
	}
	found->kind |= PLAIN_UDP;
	return protocol == PROTOCOL_UDP && left >= UDP_HEADER_BYTES && load_be16(transport + UDP_LENGTH_OFFSET) == left;
}

/* Whether a plain TCP or UDP packet begins here, of whose row "room" bytes are there. */
static int read_plain(const uint8_t *packet, int64_t room, struct plain *found)
{
	int protocol;

	if (room >= IPV4_HEADER_BYTES && packet[0] == 0x45) {
		if (packet[6] & 0x3F || packet[7])
			return 0;
		*found = (struct plain){ load_be16(packet + 2), 0, packet[1], IPV4_HEADER_BYTES };
		protocol = packet[9];
	} else if (room >= IPV6_HEADER_BYTES && packet[0] >> 4 == 6) {
		uint8_t tos = (uint8_t)(packet[0] << 4 | packet[1] >> 4);

		*found =
			(struct plain){ load_be16(packet + 4) + IPV6_HEADER_BYTES, PLAIN_IPV6, tos, IPV6_HEADER_BYTES };
		protocol = packet[6];
	} else {
		return 0;
	}
	return found->length <= room && found->length <= MAX_PACKET_BYTES && read_transport(packet, protocol, found);
}

/* Whether two plain packets are of one flow, and of one TOS byte. */
static int same_flow(const uint8_t *packet, const struct plain *found, const uint8_t *other, const struct plain *read)
{
	int from = found->kind & PLAIN_IPV6 ? 8 : 12;

	return found->kind == read->kind && found->tos == read->tos &&
	       !memcmp(packet + from, other + from, (size_t)(found->l4 + 4 - from));
}

/* A packet of TCP says where its data begins; rows of a run agree in that. */
static int same_data_offset(const uint8_t *packet, const struct plain *found, const uint8_t *other)
{
	int at = found->l4 + TCP_DATA_OFFSET_OFFSET;

	return found->kind & PLAIN_UDP || !((packet[at] ^ other[at]) & 0xF0);
}

/*
 * From the row at "offset" on: how many are packets of one flow and as long as a row, whether a shorter one of that flow
 * follows, and what they are. 0: nothing that is dealt with here.
 *
 *   bits 0-15   rows; if it is one, it may be a last one with padding behind the packet
 *   bits 16-31  length of the shorter packet behind them, or 0
 *   bits 32-47  length of the first packet
 *   bits 48-55  its TOS byte
 *   bits 56-57  PLAIN_UDP, PLAIN_IPV6
 */
uint64_t postern_stretch(const void *data, int64_t length, int64_t offset, int64_t stride)
{
	const uint8_t *first = (const uint8_t *)data + offset, *end = (const uint8_t *)data + length, *row;
	struct plain found, next;
	int64_t rows = 1, tail = 0, left = end - first;

	if (offset < 0 || left <= 0 || stride <= 0 || left > 0xFFFF * stride ||
	    !read_plain(first, left < stride ? left : stride, &found))
		return 0;
	if (left > stride) {
		if (found.length != stride)
			return 0;
		for (row = first + stride; end - row >= stride; row += stride, rows++)
			if (!read_plain(row, stride, &next) || next.length != stride ||
			    !same_flow(first, &found, row, &next) || !same_data_offset(first, &found, row))
				break;
		left = end - row;
		if (left > 0 && read_plain(row, left < stride ? left : stride, &next) && next.length < stride &&
		    same_flow(first, &found, row, &next))
			tail = next.length;
	}
	return (uint64_t)rows | (uint64_t)tail << 16 | (uint64_t)found.length << 32 | (uint64_t)found.tos << 48 |
	       (uint64_t)found.kind << 56;
}
