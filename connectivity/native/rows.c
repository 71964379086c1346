// SPDX-License-Identifier: Apache-2.0
/*
 * What is done to, or asked about, every row of a run: whether all go to one session, translation, checksums.
 */
#include <stdint.h>
#include <string.h>

#include "checksum.h"
#include "native.h"

#define CHANNEL_HEADER_BYTES 4 /* RFC 8656 §12.4: number, length */
#define MESSAGE_PREFIX_BYTES 8 /* of WireGuard: type and receiver index */

static int64_t row_length(int64_t length, int64_t stride, int64_t at)
{
	return length - at < stride ? length - at : stride;
}

static uint32_t load_le16(const uint8_t *at)
{
	return (uint32_t)(at[0] | at[1] << 8);
}

static void store_le16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)value;
	at[1] = (uint8_t)(value >> 8);
}

/*
 * As connectivity.data_path.segments.uniform: whether all messages share type and receiver, and, where each has a
 * channel header, all have one channel and say how long they are.
 */
int64_t postern_uniform(const void *data, int64_t length, int64_t size, int64_t headroom)
{
	const uint8_t *first = data;

	if (size <= 0 || (headroom && headroom != CHANNEL_HEADER_BYTES))
		return 0;
	for (int64_t at = 0; at < length; at += size) {
		const uint8_t *row = first + at;
		int64_t taken = row_length(length, size, at);

		if (taken < headroom + (length > size ? MESSAGE_PREFIX_BYTES : 0))
			return 0;
		if (headroom && (memcmp(first, row, 2) || load_be16(row + 2) != taken - CHANNEL_HEADER_BYTES))
			return 0;
		if (at && memcmp(first + headroom, row + headroom, MESSAGE_PREFIX_BYTES))
			return 0;
	}
	return 1;
}

/* RFC 1624: a checksum field (of little-endian words) follows a sum that grew. */
static void adjust(uint8_t *field, uint32_t change)
{
	store_le16(field, (load_le16(field) + change) % MODULUS);
}

/* Zero means "none" in UDP: over IPv4 it stays, and no other one becomes it (RFC 768). */
static void adjust_udp(uint8_t *field, uint32_t change, int may_lack)
{
	uint32_t known = load_le16(field), changed = (known + change) % MODULUS;

	if (!may_lack || known)
		store_le16(field, changed ? changed : MODULUS);
}

/*
 * As connectivity.ip.rewrite.Rewriting: every packet, of plain headers, gets these addresses and ports, which are of the
 * run's own family, and checksums that follow. 0, and nothing is done, if a row is too short for that.
 */
int64_t postern_rewrite(void *data, int64_t length, int64_t stride, const void *addresses, int64_t version,
			int64_t protocol, uint32_t header_change, uint32_t transport_change)
{
	int from = version == 4 ? 12 : 8, l4 = version == 4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES;
	int field = l4 + (protocol == PROTOCOL_UDP ? UDP_CHECKSUM_OFFSET : TCP_CHECKSUM_OFFSET);

	if (stride <= field + 1 || length <= 0 ||
	    row_length(length, stride, (length - 1) / stride * stride) <= field + 1)
		return 0;
	for (int64_t at = 0; at < length; at += stride) {
		uint8_t *row = (uint8_t *)data + at;

		memcpy(row + from, addresses, (size_t)(l4 + 4 - from));
		if (version == 4)
			adjust(row + 10, header_change);
		if (protocol == PROTOCOL_UDP)
			adjust_udp(row + field, transport_change, version == 4);
		else
			adjust(row + field, transport_change);
	}
	return 1;
}

/* The bytes at "at" of all rows, OR'ed; -1 if a row is too short for that. */
int64_t postern_any_of(const void *data, int64_t length, int64_t stride, int64_t at)
{
	const uint8_t *rows = data;
	int64_t found = 0;

	if (stride <= 0 || at < 0 || length <= 0)
		return -1;
	for (int64_t start = 0; start < length; start += stride) {
		if (row_length(length, stride, start) <= at)
			return -1;
		found |= rows[start + at];
	}
	return found;
}

/*
 * As connectivity.ip.segmentation.complete_checksum, for every row: the field at "start" + "offset" holds the sum of the
 * pseudo-header, the rest from "start" on is added. 0, and nothing is done, if a row is too short for that.
 */
int64_t postern_complete(void *data, int64_t length, int64_t stride, int64_t start, int64_t offset)
{
	int64_t needed = start + offset + 2;

	if (start < 0 || offset < 0 || stride < needed || length <= 0 ||
	    row_length(length, stride, (length - 1) / stride * stride) < needed)
		return 0;
	for (int64_t at = 0; at < length; at += stride) {
		uint8_t *part = (uint8_t *)data + at + start;
		uint64_t sum = sum_of(part, row_length(length, stride, at) - start);

		store_complement(part + offset, sum, offset == UDP_CHECKSUM_OFFSET);
	}
	return 1;
}
