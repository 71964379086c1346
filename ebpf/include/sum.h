// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The sum of an arriving datagram, where its sender left that to a device that had nothing to do.
 *
 * The one place that reads a message. Whole pieces are summed where they lie; what is left over is copied first, because
 * only a size that the verifier knows can be read in place. Only for programs: the helpers are the kernel's.
 */
#ifndef POSTERN_SUM_H
#define POSTERN_SUM_H

#include "abi.h"
#include "checksum.h"
#include "parse.h"
#include "rewrite.h"
#include "wire.h"

#define DATAGRAM_MAX 9216 /* jumbo frame: beyond this no checksum is recomputed */
#define PIECE_BYTES 512	  /* of a datagram per checksum call: the most that bpf_csum_diff takes before Linux 6.12 */
#define PIECE_TAIL 3	  /* to complete a word */

/* What is left of a datagram behind the last whole piece; the stack has no room for it. */
struct piece {
	__u8 bytes[PIECE_BYTES + PIECE_TAIL + 1];
};

/* A plain sum: the difference from nothing. Folded, because kernels differ in whether the helper folds. */
static __always_inline __u64 sum_piece(void *bytes, __u32 size)
{
	return checksum_fold((__u32)bpf_csum_diff(0, 0, bytes, size, 0));
}

/* Sum of the UDP header and all behind it, without the checksum field. */
static __always_inline enum outcome sum_datagram(struct xdp_md *context, const struct packet *packet,
						 struct piece *piece, __u64 *sum)
{
	void *position = (void *)(long)context->data + sizeof(struct ethernet_header) + ip_header_length(packet->family);
	void *data_end = (void *)(long)context->data_end;
	__u32 remaining = packet->udp_length, rest;

	if (!piece || remaining > DATAGRAM_MAX)
		return PUNT_TOO_LONG;
	for (int i = 0; i < DATAGRAM_MAX / PIECE_BYTES; i++) {
		/* verifier: keeps the compiler from dropping the counter that bounds the loop, clang 14 */
		asm volatile("" : "+r"(remaining));
		if (remaining < PIECE_BYTES)
			break;
		if (position + PIECE_BYTES > data_end)
			return PUNT_TRUNCATED;
		*sum += sum_piece(position, PIECE_BYTES);
		position += PIECE_BYTES;
		remaining -= PIECE_BYTES;
	}
	rest = remaining % PIECE_BYTES;
	if (rest) {
		if (bpf_xdp_load_bytes(context, packet->udp_offset + packet->udp_length - rest, piece->bytes, rest))
			return PUNT_TRUNCATED;
		/* The helper sums whole words: what the last one lacks is zero. */
		__builtin_memset(piece->bytes + rest, 0, PIECE_TAIL);
		*sum += sum_piece(piece->bytes, (rest + PIECE_TAIL) & ~PIECE_TAIL);
	}
	*sum += (__u16)~packet->checksum_be;
	return OUTCOME_CONTINUE;
}

#endif
