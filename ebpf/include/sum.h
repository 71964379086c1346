// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The sum of an arriving datagram, where its sender left that to a device that had nothing to do.
 *
 * The one place that reads a message. In rows of words: a loop's own instructions cost as much as some words, and
 * bpf_csum_diff, which wants sizes that the verifier knows, is no faster than these rows, and needs a copy of the rest.
 */
#ifndef POSTERN_SUM_H
#define POSTERN_SUM_H

#include "abi.h"
#include "checksum.h"
#include "parse.h"
#include "wire.h"

#define DATAGRAM_MAX 9216  /* jumbo frame: beyond this no checksum is recomputed */
#define OFFSET_MASK 0x3FFF /* a bound that the verifier sees where an offset is added to the packet */
#define ROW_BYTES 64

/*
 * A part of the datagram, by an offset from its UDP header. Found anew instead of left by the loop that went there: the
 * verifier would follow each end of that loop, with what it has checked of the packet by then, to the program's end.
 */
static __always_inline void *datagram_at(struct xdp_md *context, const struct packet *packet, __u32 offset)
{
	asm volatile("" : "+r"(offset) : : "memory"); /* data is read again: nothing is known of this pointer */
	return (void *)(long)context->data + packet->udp_offset + (offset & OFFSET_MASK);
}

/* Sum of the whole rows of what remains, which is less than most_bytes and a row. */
static __always_inline enum outcome sum_rows(void *position, void *data_end, __u32 remaining, __u32 row_bytes,
					     __u32 most_bytes, __u64 *sum)
{
	for (__u32 i = 0; i < most_bytes / row_bytes; i++) {
		/* verifier: keeps the compiler from dropping the counter that bounds the loop, clang 14 */
		asm volatile("" : "+r"(remaining));
		if (remaining < row_bytes)
			break;
		if (position + row_bytes > data_end)
			return PUNT_TRUNCATED;
#pragma unroll
		for (__u32 j = 0; j < row_bytes / sizeof(__u32); j++)
			*sum += ((__u32 *)position)[j];
		position += row_bytes;
		remaining -= row_bytes;
	}
	return OUTCOME_CONTINUE;
}

/* Sum of the UDP header and all behind it, without the checksum field. */
static __always_inline enum outcome sum_datagram(struct xdp_md *context, const struct packet *packet, __u64 *sum)
{
	void *data_end = (void *)(long)context->data_end;
	__u32 length = packet->udp_length;
	enum outcome outcome;
	__u16 *pair;
	__u8 *last;

	if (length > DATAGRAM_MAX)
		return PUNT_TOO_LONG;
	outcome = sum_rows(datagram_at(context, packet, 0), data_end, length, ROW_BYTES, DATAGRAM_MAX, sum);
	if (outcome)
		return outcome;
	outcome = sum_rows(datagram_at(context, packet, length & ~(ROW_BYTES - 1)), data_end, length % ROW_BYTES,
			   sizeof(__u32), ROW_BYTES, sum);
	if (outcome)
		return outcome;
	pair = datagram_at(context, packet, length & ~3);
	if (length & 2) {
		if ((void *)(pair + 1) > data_end)
			return PUNT_TRUNCATED;
		*sum += *pair;
	}
	last = datagram_at(context, packet, length & ~1);
	if (length & 1) {
		if ((void *)(last + 1) > data_end)
			return PUNT_TRUNCATED;
		*sum += *last; /* the first byte of a word whose second is zero */
	}
	*sum += (__u16)~packet->checksum_be;
	return OUTCOME_CONTINUE;
}

#endif
