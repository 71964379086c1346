// SPDX-License-Identifier: Apache-2.0
/*
 * What connectivity.ip.segmentation.Splitter does with a super-packet: it becomes whole packets, back to back, with
 * right lengths, ids, sequence numbers, flags and checksums.
 */
#include <stdint.h>
#include <string.h>

#include "checksum.h"
#include "native.h"

struct super {
	const uint8_t *packet;
	int version, protocol, l4, header;
	int64_t length, segment;
};

/* Whether a super-packet is what its virtio-net header says. If not, Python says why. */
static int read_super(const uint8_t *packet, int64_t length, int64_t kind, int64_t l4, int64_t segment,
		      struct super *found)
{
	int is_udp = kind == VIRTIO_NET_HDR_GSO_UDP_L4, transport = is_udp ? UDP_HEADER_BYTES : TCP_HEADER_BYTES;
	int version = length > IPV4_HEADER_BYTES ? packet[0] >> 4 : 0;

	if (kind != (version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6) && !is_udp)
		return 0;
	if (version == 4) {
		if (l4 != (packet[0] & 0xF) * 4 || l4 < IPV4_HEADER_BYTES || load_be16(packet + 2) != length ||
		    packet[9] != (is_udp ? PROTOCOL_UDP : PROTOCOL_TCP))
			return 0;
	} else if (version != 6 || l4 < IPV6_HEADER_BYTES || l4 % 4) {
		return 0;
	}
	if (l4 + transport > length || segment <= 0)
		return 0;
	if (!is_udp && (packet[l4 + TCP_DATA_OFFSET_OFFSET] >> 4) * 4 > transport)
		transport = (packet[l4 + TCP_DATA_OFFSET_OFFSET] >> 4) * 4;
	*found = (struct super){ packet, version, is_udp ? PROTOCOL_UDP : PROTOCOL_TCP, (int)l4, (int)l4 + transport,
				 length, segment };
	return found->header < length && found->header + segment <= MAX_PACKET_BYTES;
}

/* What differs from packet to packet: lengths, id, sequence number, flags that are said once. */
static void number(const struct super *super, uint8_t *row, int64_t index, int64_t payload, int is_last)
{
	uint8_t *transport = row + super->l4;

	if (super->version == 4) {
		store_be16(row + 2, (uint32_t)(super->header + payload));
		store_be16(row + 4, load_be16(super->packet + 4) + (uint32_t)index);
	} else {
		store_be16(row + 4, (uint32_t)(super->header + payload - IPV6_HEADER_BYTES));
	}
	if (super->protocol == PROTOCOL_UDP) {
		store_be16(transport + UDP_LENGTH_OFFSET, (uint32_t)(UDP_HEADER_BYTES + payload));
		return;
	}
	store_be32(transport + TCP_SEQUENCE_OFFSET,
		   load_be32(super->packet + super->l4 + TCP_SEQUENCE_OFFSET) + (uint32_t)(index * super->segment));
	if (index) /* RFC 3168 §6.1.2: said once */
		transport[TCP_FLAGS_OFFSET] &= (uint8_t)~TCP_CWR;
	if (!is_last)
		transport[TCP_FLAGS_OFFSET] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
}

static void complete_checksums(const struct super *super, uint8_t *row, int64_t length)
{
	int is_udp = super->protocol == PROTOCOL_UDP;
	uint8_t *field = row + super->l4 + (is_udp ? UDP_CHECKSUM_OFFSET : TCP_CHECKSUM_OFFSET);

	if (super->version == 4) {
		store_word(row + 10, 0);
		store_complement(row + 10, sum_of(row, super->l4), 0);
	}
	store_word(field, 0);
	store_complement(field,
			 sum_of(row + super->l4, length - super->l4) +
				 pseudo_header_sum(row, super->version, super->protocol, length - super->l4),
			 is_udp);
}

/*
 * Cut a super-packet. Returns the length of a packet's headers, or 0: it is no super-packet, one of a single packet, or
 * there is less room for its packets than they need, and nothing was written.
 */
int64_t postern_split(const void *packet, int64_t length, int64_t kind, int64_t l4, int64_t segment, void *output,
		      int64_t capacity)
{
	struct super super;
	uint8_t *row = output;
	int64_t index = 0, left, rows;

	if (!read_super(packet, length, kind, l4, segment, &super))
		return 0;
	left = length - super.header;
	rows = (left + segment - 1) / segment;
	if (rows == 1 || left + rows * super.header > capacity)
		return 0;
	for (const uint8_t *payload = super.packet + super.header; index < rows; index++) {
		int64_t taken = left < segment ? left : segment;

		memcpy(row, super.packet, (size_t)super.header);
		memcpy(row + super.header, payload, (size_t)taken);
		number(&super, row, index, taken, index == rows - 1);
		complete_checksums(&super, row, super.header + taken);
		row += super.header + taken;
		payload += taken;
		left -= taken;
	}
	return super.header;
}
