// SPDX-License-Identifier: Apache-2.0
/*
 * The Internet checksum (RFC 1071). Sums are taken over words as they lie in memory, so no byte order is involved;
 * 2^32 and 2^16 are both congruent to 1 modulo 65535, so wider words may be added whole.
 */
#ifndef POSTERN_NATIVE_CHECKSUM_H
#define POSTERN_NATIVE_CHECKSUM_H

#include <stdint.h>
#include <string.h>

#define MODULUS 65535

static inline uint16_t load_be16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static inline void store_be16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static inline uint32_t load_be32(const uint8_t *at)
{
	return (uint32_t)load_be16(at) << 16 | load_be16(at + 2);
}

static inline void store_be32(uint8_t *at, uint32_t value)
{
	store_be16(at, value >> 16);
	store_be16(at + 2, value);
}

/* Not reduced; an odd last byte counts as if a zero followed. Cannot overflow below 16 GiB. */
static inline uint64_t sum_of(const uint8_t *data, int64_t length)
{
	uint64_t sum = 0;
	int64_t words = length / 4, rest = length % 4;

	for (int64_t i = 0; i < words; i++) {
		uint32_t word;

		memcpy(&word, data + 4 * i, sizeof(word));
		sum += word;
	}
	if (rest) {
		uint32_t word = 0;

		memcpy(&word, data + 4 * words, (size_t)rest);
		sum += word;
	}
	return sum;
}

/* A number of 16 bits as the word that its bytes in network order form. */
static inline uint64_t network_word(uint32_t value)
{
	uint8_t bytes[2];
	uint16_t word;

	store_be16(bytes, value);
	memcpy(&word, bytes, sizeof(word));
	return word;
}

/* RFC 9293 §3.1, RFC 8200 §8.1: the addresses of the packet, its protocol, the length from the transport header on. */
static inline uint64_t pseudo_header_sum(const uint8_t *packet, int version, int protocol, int64_t length)
{
	uint64_t addresses = version == 4 ? sum_of(packet + 12, 8) : sum_of(packet + 8, 32);

	return addresses + network_word((uint32_t)protocol) + network_word((uint32_t)length);
}

static inline void store_word(uint8_t *at, uint64_t value)
{
	uint16_t word = (uint16_t)value;

	memcpy(at, &word, sizeof(word));
}

/* The checksum that makes a sum right: 0 to 65534, or 1 to 65535 for UDP, where zero means "none" (RFC 768). */
static inline void store_complement(uint8_t *at, uint64_t sum, int is_udp)
{
	uint64_t rest = sum % MODULUS;

	store_word(at, rest || is_udp ? MODULUS - rest : 0);
}

#endif
