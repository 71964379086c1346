// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target of the compiled helper: every function with buffers that end where their data does, and numbers that
 * no caller of ours would say. Compile with -fsanitize=fuzzer,address,undefined and the helper's sources.
 *
 * The first 12 bytes choose the numbers, the rest is the run.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

#define CHOICES 12
#define SUPER_PACKET_ROOM (VIRTIO_HEADER_BYTES + MAX_SUPER_PACKET_BYTES)
#define OVERHEAD_BYTES 32

static int64_t number(const uint8_t *at)
{
	return at[0] << 8 | at[1];
}

static void require(int holds)
{
	if (!holds)
		abort();
}

static void *copied(const void *data, int64_t length)
{
	void *copy = malloc((size_t)length);

	require(copy != NULL);
	return memcpy(copy, data, (size_t)length);
}

static void merge_all(const uint8_t *run, int64_t length, int64_t stride, int64_t offset)
{
	uint8_t *output = malloc(SUPER_PACKET_ROOM);

	while (offset < length) {
		int64_t found = postern_merge(run, length, stride, offset, output);

		if (found < 0)
			break;
		require(found >> 32 > 0 && (found & 0xFFFFFFFF) <= SUPER_PACKET_ROOM);
		offset += found >> 32;
		require(offset <= length);
	}
	free(output);
}

static void stretch_all(const uint8_t *run, int64_t length, int64_t stride, int64_t offset)
{
	while (stride && offset < length) {
		uint64_t found = postern_stretch(run, length, offset, stride);
		int64_t rows = found & 0xFFFF, tail = found >> 16 & 0xFFFF;

		require(!found || (rows && offset + (rows - 1) * stride + (tail ? stride : 0) + tail <= length));
		offset += found ? (rows + (tail > 0)) * stride : stride;
	}
}

static void split(const uint8_t *run, int64_t length, const uint8_t *choices)
{
	int64_t room = number(choices + 6) * 2;
	uint8_t *output = malloc((size_t)room + 1);

	postern_split(run, length, choices[8] % 6, number(choices + 9) % 300, number(choices + 4), output, room);
	free(output);
}

static void every_row(uint8_t *run, int64_t length, int64_t stride, const uint8_t *choices)
{
	static const uint8_t addresses[36];
	int64_t at = number(choices + 4) % 80;

	postern_uniform(run, length, stride, choices[11] % 8);
	postern_any_of(run, length, stride, at);
	postern_complete(run, length, stride, at, choices[8]);
	postern_rewrite(run, length, stride, addresses, choices[8] & 1 ? 4 : 6, choices[8] & 2 ? 6 : 17, 1, 2);
}

/* What was sealed is opened again, and a byte that is not the same is noticed. */
static void seal_and_open(const uint8_t *run, int64_t length, int64_t size, int64_t headroom)
{
	static struct session *session;
	static const uint8_t key[32] = { 1 };
	int64_t count = size ? (length + size - 1) / size : 0, stride = size + headroom + OVERHEAD_BYTES;
	int64_t total = length + count * (headroom + OVERHEAD_BYTES);
	uint8_t *sealed, *opened;

	if (!session && !postern_load_cipher())
		session = postern_session_new(key, key, 7);
	require(session != NULL);
	opened = malloc((size_t)length + 1);
	postern_open(session, run, length, size, headroom, opened);
	if (count) {
		sealed = malloc((size_t)total);
		memset(sealed, 0, (size_t)total);
		require(postern_seal(session, run, length, size, headroom, 5, sealed) == total);
		require(postern_open(session, sealed, total, stride, headroom, opened) == count);
		require(!memcmp(opened, run, (size_t)length));
		sealed[total - 1] ^= 1;
		require(postern_open(session, sealed, total, stride, headroom, opened) == 0);
		free(sealed);
	}
	free(opened);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *choices = data;
	int64_t length = (int64_t)size - CHOICES, stride, offset;
	uint8_t *run;

	if (length <= 0)
		return 0;
	run = copied(data + CHOICES, length);
	stride = number(choices) % 400;
	offset = number(choices + 2) % 100;
	stretch_all(run, length, stride, offset);
	merge_all(run, length, stride, offset);
	split(run, length, choices);
	every_row(run, length, stride, choices);
	seal_and_open(run, length, stride, choices[11] % 8);
	free(run);
	return 0;
}
