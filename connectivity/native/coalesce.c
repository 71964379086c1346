// SPDX-License-Identifier: Apache-2.0
/*
 * What connectivity.ip.coalescing.Coalescer does, one super-packet a call: packets of a run whose checksums are right
 * and whose headers agree become one packet behind a virtio-net header.
 */
#include <stdint.h>
#include <string.h>

#include "checksum.h"
#include "native.h"

#define ALONE (TCP_FIN | TCP_SYN | TCP_RST | TCP_URG | TCP_CWR)
#define MAX_UDP_SEGMENTS 64 /* UDP_MAX_SEGMENTS of linux/udp.h before Linux 6.9 */

struct run {
	const uint8_t *data;
	int64_t length, stride;
	int version, protocol, l4, header;
};

/* What the packets of a run have in common, by the first of them. */
static int read_run(const uint8_t *data, int64_t length, int64_t stride, struct run *run)
{
	int header;

	if (length <= stride || stride < IPV4_HEADER_BYTES + UDP_HEADER_BYTES || stride > MAX_SUPER_PACKET_BYTES)
		return 0;
	*run = (struct run){ data, length, stride, data[0] >> 4, data[9], IPV4_HEADER_BYTES, 0 };
	if (run->version == 6) {
		run->protocol = data[6];
		run->l4 = IPV6_HEADER_BYTES;
	} else if (data[0] != 0x45) {
		return 0;
	}
	if (run->protocol == PROTOCOL_TCP) {
		if (stride < run->l4 + TCP_HEADER_BYTES)
			return 0;
		header = (data[run->l4 + TCP_DATA_OFFSET_OFFSET] >> 4) * 4;
		if (header < TCP_HEADER_BYTES)
			return 0;
	} else if (run->protocol == PROTOCOL_UDP) {
		header = UDP_HEADER_BYTES;
	} else {
		return 0;
	}
	run->header = run->l4 + header;
	return stride > run->header;
}

/* The length of the row at "at" if it has a payload, else 0. */
static int64_t row_length(const struct run *run, int64_t at)
{
	int64_t left = run->length - at, taken = left < run->stride ? left : run->stride;

	return taken > run->header ? taken : 0;
}

/*
 * IPv4 header and transport are right by one sum: a right IPv4 header's is zero. That of IPv6 has none, so it is taken
 * out again; whole rows are measured by the first row's, and one that differs is not merged.
 */
static int is_intact(const struct run *run, const uint8_t *row, int64_t length)
{
	const uint8_t *measure = length == run->stride ? run->data : row;
	uint64_t sum =
		sum_of(row, length) + pseudo_header_sum(run->data, run->version, run->protocol, length - run->l4);

	if (run->version == 6)
		sum += MODULUS - sum_of(measure, run->l4) % MODULUS;
	return sum % MODULUS == 0;
}

static int may_merge(const struct run *run, const uint8_t *row, int64_t length)
{
	if (run->protocol == PROTOCOL_TCP && row[run->l4 + TCP_FLAGS_OFFSET] & ALONE)
		return 0;
	return is_intact(run, row, length);
}

/*
 * The header bits that neighbours share: not id, lengths, checksums, sequence number and PSH. An id may differ because
 * these are atomic datagrams as far as TCP is concerned (RFC 6864 §4.1); "don't fragment" itself must agree.
 */
static int headers_agree(const struct run *run, const uint8_t *row, const uint8_t *next)
{
	int l4 = run->l4, flags = l4 + TCP_FLAGS_OFFSET;

	if (run->version == 4) {
		if (memcmp(row, next, 2) || memcmp(row + 6, next + 6, 4) || memcmp(row + 12, next + 12, 12))
			return 0;
	} else if (memcmp(row, next, 4) || memcmp(row + 6, next + 6, 38)) {
		return 0;
	}
	if (run->protocol == PROTOCOL_UDP)
		return 1;
	return !memcmp(row + l4 + 8, next + l4 + 8, 5) && !((row[flags] ^ next[flags]) & ~TCP_PSH) &&
	       !memcmp(row + l4 + 14, next + l4 + 14, 2) &&
	       !memcmp(row + l4 + 18, next + l4 + 18, (size_t)(run->header - l4 - 18));
}

static int may_follow(const struct run *run, const uint8_t *row, const uint8_t *next)
{
	int sequence = run->l4 + TCP_SEQUENCE_OFFSET;

	if (!headers_agree(run, row, next))
		return 0;
	if (run->protocol == PROTOCOL_UDP)
		return 1;
	return load_be32(next + sequence) - load_be32(row + sequence) == (uint32_t)(run->stride - run->header) &&
	       !(row[run->l4 + TCP_FLAGS_OFFSET] & TCP_PSH);
}

/* Lengths, the IPv4 header checksum, and the pseudo-header's sum where the kernel wants to continue it. */
static void finish_headers(const struct run *run, uint8_t *packet, int64_t length)
{
	int is_udp = run->protocol == PROTOCOL_UDP;
	uint8_t *transport = packet + run->l4;

	if (run->version == 4) {
		store_be16(packet + 2, (uint32_t)length);
		store_word(packet + 10, 0);
		store_complement(packet + 10, sum_of(packet, run->l4), 0);
	} else {
		store_be16(packet + 4, (uint32_t)length - IPV6_HEADER_BYTES);
	}
	if (is_udp)
		store_be16(transport + UDP_LENGTH_OFFSET, (uint32_t)(length - run->l4));
	store_word(transport + (is_udp ? UDP_CHECKSUM_OFFSET : TCP_CHECKSUM_OFFSET),
		   pseudo_header_sum(packet, run->version, run->protocol, length - run->l4) % MODULUS);
}

static void write_virtio_header(const struct run *run, uint8_t *at)
{
	uint8_t tcp = run->version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	int is_udp = run->protocol == PROTOCOL_UDP;
	/* In the machine's byte order. */
	uint16_t fields[4] = { (uint16_t)run->header, (uint16_t)(run->stride - run->header), (uint16_t)run->l4,
			       is_udp ? UDP_CHECKSUM_OFFSET : TCP_CHECKSUM_OFFSET };

	at[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	at[1] = is_udp ? VIRTIO_NET_HDR_GSO_UDP_L4 : tcp;
	memcpy(at + 2, fields, sizeof(fields));
}

/*
 * The next write from the row at "offset" on. Returns how many bytes of the run it takes, in the upper 32 bits, and in
 * the lower ones how many bytes "output" (10 + 65535 have room there) holds: 0 if the row is to be written alone and as
 * it is. -1: nothing of this run can be merged.
 */
int64_t postern_merge(const void *data, int64_t length, int64_t stride, int64_t offset, void *output)
{
	struct run run;
	const uint8_t *row;
	uint8_t *packet = (uint8_t *)output + VIRTIO_HEADER_BYTES, *payload;
	int64_t taken, rows = 1, at = offset, size;

	if (!read_run(data, length, stride, &run) || offset < 0 || offset >= length)
		return -1;
	size = MAX_SUPER_PACKET_BYTES - run.header;
	row = run.data + at;
	taken = row_length(&run, at);
	if (!taken || !may_merge(&run, row, taken))
		return (length - at < stride ? length - at : stride) << 32;
	memcpy(packet, row, (size_t)taken);
	payload = packet + taken;
	for (at += taken; at < length && taken == stride; at += taken, row += stride, rows++) {
		int64_t next = row_length(&run, at);

		if (!next || rows >= size / (stride - run.header) ||
		    (run.protocol == PROTOCOL_UDP && rows == MAX_UDP_SEGMENTS) ||
		    !may_follow(&run, row, row + stride) || !may_merge(&run, row + stride, next))
			break;
		taken = next;
		memcpy(payload, row + stride + run.header, (size_t)(next - run.header));
		payload += next - run.header;
	}
	if (rows == 1)
		return (at - offset) << 32;
	if (run.protocol == PROTOCOL_TCP) /* may add PSH */
		packet[run.l4 + TCP_FLAGS_OFFSET] = row[run.l4 + TCP_FLAGS_OFFSET];
	size = payload - packet;
	finish_headers(&run, packet, size);
	write_virtio_header(&run, output);
	return (at - offset) << 32 | (size + VIRTIO_HEADER_BYTES);
}
