// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Fuzz target: the relay's parser and rewriter, compiled for the host.
 *
 * Input: 8 bytes that choose a flow, then a frame, in memory that ends where the frame ends, so that the sanitizers see
 * every byte too far. One of the choices mends the IPv4 header's checksum, which no mutation hits. What the parser accepts is rewritten the way the program does it; reading the result again must
 * give the same message, the planned addresses, and a checksum that is right if the arriving one was. What it refuses
 * has been left alone.
 */
#include <linux/stddef.h>
#include <linux/types.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "bucket.h"
#include "checksum.h"
#include "parse.h"
#include "rewrite.h"
#include "wire.h"

#define CHOICES 8
#define HEADROOM 32
#define FRAME_MAX 2048

static void require(int condition)
{
	if (!condition)
		abort();
}

/* Sum over bytes as words in memory, odd ones padded with a zero. */
static __u64 sum_bytes(const __u8 *bytes, size_t size)
{
	__u64 sum = 0;
	__u16 word;

	for (; size >= 2; bytes += 2, size -= 2) {
		memcpy(&word, bytes, 2);
		sum += word;
	}
	if (size) {
		word = 0;
		memcpy(&word, bytes, 1);
		sum += word;
	}
	return sum;
}

static int is_checksum_right(const __u8 *frame, const struct packet *packet)
{
	__u64 sum = checksum_pseudo_header(packet->source_be, packet->destination_be, packet->udp_length_be,
					   swap16(PROTOCOL_UDP));

	return checksum_fold(sum + sum_bytes(frame + packet->udp_offset, packet->udp_length)) == 0xFFFF;
}

static const __u8 *message_of(const __u8 *frame, const struct packet *packet, __u32 *size)
{
	__u32 headers = sizeof(struct udp_header) + (packet->is_channel_data ? sizeof(struct channel_header) : 0);

	*size = packet->udp_length - headers;
	return frame + packet->udp_offset + headers;
}

static void rewrite_and_read(const __u8 *frame, size_t size, struct packet *packet, const __u8 *choices)
{
	__u8 *room = malloc(HEADROOM + size);
	struct relay_config config = { .listen_port_be = { swap16(3478), swap16(80) }, .flags = RELAY_FROM_PEER };
	struct rewrite rewrite = {};
	struct packet again = {};
	struct flow flow = {};
	__u32 message_size, again_size;
	const __u8 *message, *message_again;
	__u8 *out;

	flow.target_family = choices[0] & 1 ? 6 : 4;
	flow.channel_be = choices[0] & 2 ? swap16(CHANNEL_FIRST | choices[1]) : 0;
	flow.source_port_be = swap16(flow.channel_be ? 80 : RELAYED_PORT_FIRST | choices[2]);
	/* The reader takes it for channel data where it is addressed to a listen port. */
	flow.target_port_be = swap16(flow.channel_be ? 80 : RELAYED_PORT_FIRST | choices[3]);
	memset(flow.target_address_be, choices[4], flow.target_family == 4 ? 4 : 16);
	memset(flow.source_address_be, choices[5] | 1, flow.target_family == 4 ? 4 : 16);

	message = message_of(frame, packet, &message_size);
	require(plan_rewrite(packet, &flow, &rewrite) == OUTCOME_CONTINUE);
	rewrite.checksum_be = rewritten_checksum(packet, &rewrite);
	require(rewrite.head_delta <= HEADROOM && rewrite.head_delta >= -HEADROOM);
	memcpy(room + HEADROOM, frame, size);
	out = room + HEADROOM + rewrite.head_delta;
	require(write_headers(out, room + HEADROOM + size, &rewrite) == OUTCOME_CONTINUE);

	require(parse_packet(out, room + HEADROOM + size, &again) == OUTCOME_CONTINUE);
	require(classify_packet(&config, &again) == OUTCOME_CONTINUE);
	require(again.family == flow.target_family && again.tos == packet->tos);
	require(same_address(again.destination_be, flow.target_address_be));
	require(same_address(again.source_be, flow.source_address_be));
	require(again.is_channel_data == !!flow.channel_be);
	message_again = message_of(out, &again, &again_size);
	require(again_size == message_size && !memcmp(message_again, message, message_size));
	if (packet->checksum_be)
		require(is_checksum_right(out, &again) == is_checksum_right(frame, packet));
	free(room);
}

static void mend_ipv4_checksum(__u8 *frame, size_t size)
{
	struct ipv4_header *ip = (void *)(frame + sizeof(struct ethernet_header));

	if (size < sizeof(struct ethernet_header) + sizeof(*ip))
		return;
	ip->checksum_be = 0;
	ip->checksum_be = ~checksum_fold(sum_bytes((void *)ip, sizeof(*ip)));
}

int LLVMFuzzerTestOneInput(const __u8 *input, size_t size)
{
	struct relay_config config = { .listen_port_be = { swap16(3478), swap16(80) }, .flags = RELAY_FROM_PEER };
	struct packet packet = {};
	__u8 *frame, *before;

	if (size < CHOICES || size > CHOICES + FRAME_MAX)
		return 0;
	size -= CHOICES;
	frame = malloc(size ? size : 1);
	memcpy(frame, input + CHOICES, size);
	if (input[6] & 1)
		mend_ipv4_checksum(frame, size);
	before = malloc(size ? size : 1);
	memcpy(before, frame, size);
	if (parse_packet(frame, frame + size, &packet) == OUTCOME_CONTINUE &&
	    classify_packet(&config, &packet) == OUTCOME_CONTINUE)
		rewrite_and_read(frame, size, &packet, input);
	is_own_address(&config, &packet);
	require(!memcmp(frame, before, size));
	free(before);
	free(frame);
	return 0;
}
