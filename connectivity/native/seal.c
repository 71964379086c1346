// SPDX-License-Identifier: Apache-2.0
/*
 * Data messages of WireGuard (paper, section 5.4.6), sealed and opened run by run. The cipher is the host's OpenSSL,
 * found when the program starts, not when this is compiled: its headers are not needed, and none of its code is here.
 *
 * A session has one context for each direction, in which the key is set up; a message costs setting the nonce, the
 * cipher, and the tag as a parameter on the way in or out.
 */
#include <dlfcn.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

#define HEADER_BYTES 16 /* type and reserved bytes, receiver, counter; all little-endian */
#define TAG_BYTES 16
#define OVERHEAD_BYTES (HEADER_BYTES + TAG_BYTES)
#define NONCE_BYTES 12
#define DATA 4

typedef void evp_context;
typedef void evp_cipher;
/* openssl/core.h, OpenSSL 3.0: part of its ABI. */
struct parameter {
	const char *key;
	unsigned int data_type;
	void *data;
	size_t data_size;
	size_t return_size;
};
#define OCTET_STRING 5
#define TAG "tag"

typedef int (*begin_function)(evp_context *, const evp_cipher *, const unsigned char *, const unsigned char *,
			      const struct parameter *);
typedef int (*update_function)(evp_context *, unsigned char *, int *, const unsigned char *, int);
typedef int (*finish_function)(evp_context *, unsigned char *, int *);

static struct {
	evp_cipher *(*fetch)(void *, const char *, const char *);
	evp_context *(*new_context)(void);
	void (*free_context)(evp_context *);
	int (*get_parameters)(evp_context *, struct parameter *);
	begin_function begin_sealing, begin_opening;
	update_function seal, open;
	finish_function finish_sealing, finish_opening;
	evp_cipher *cipher;
} libcrypto;

struct session {
	evp_context *sending, *receiving;
	uint32_t remote_index;
};

static const char *const names[] = {
	"EVP_CIPHER_fetch",    "EVP_CIPHER_CTX_new",  "EVP_CIPHER_CTX_free", "EVP_CIPHER_CTX_get_params",
	"EVP_EncryptInit_ex2", "EVP_DecryptInit_ex2", "EVP_EncryptUpdate",   "EVP_DecryptUpdate",
	"EVP_EncryptFinal_ex", "EVP_DecryptFinal_ex",
};

const char *postern_load_cipher(void)
{
	void *found[sizeof(names) / sizeof(*names)];
	void *library = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);

	if (!library)
		return "there is no libcrypto.so.3 (OpenSSL 3)";
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		found[i] = dlsym(library, names[i]);
		if (!found[i])
			return names[i];
	}
	/* POSIX lets a function's address be kept as that of an object. */
	memcpy(&libcrypto, found, sizeof(found));
	libcrypto.cipher = libcrypto.fetch(NULL, "ChaCha20-Poly1305", NULL);
	return libcrypto.cipher ? NULL : "OpenSSL offers no ChaCha20-Poly1305";
}

struct session *postern_session_new(const void *send_key, const void *receive_key, uint32_t remote_index)
{
	struct session *session = calloc(1, sizeof(*session));

	if (!session)
		return NULL;
	session->remote_index = remote_index;
	session->sending = libcrypto.new_context();
	session->receiving = libcrypto.new_context();
	if (session->sending && session->receiving &&
	    libcrypto.begin_sealing(session->sending, libcrypto.cipher, send_key, NULL, NULL) == 1 &&
	    libcrypto.begin_opening(session->receiving, libcrypto.cipher, receive_key, NULL, NULL) == 1)
		return session;
	postern_session_free(session);
	return NULL;
}

void postern_session_free(struct session *session)
{
	libcrypto.free_context(session->sending);
	libcrypto.free_context(session->receiving);
	free(session);
}

static void store_le(uint8_t *at, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		at[i] = (uint8_t)(value >> 8 * i);
}

static uint64_t load_le64(const uint8_t *at)
{
	uint64_t value = 0;

	for (int i = 0; i < 8; i++)
		value |= (uint64_t)at[i] << 8 * i;
	return value;
}

static int seal_one(struct session *session, const uint8_t *packet, int length, uint64_t counter, uint8_t *message)
{
	uint8_t nonce[NONCE_BYTES] = { 0 }, *body = message + HEADER_BYTES;
	struct parameter tag[2] = { { TAG, OCTET_STRING, body + length, TAG_BYTES, 0 } };
	int written, finished;

	store_le(message, DATA, 4);
	store_le(message + 4, session->remote_index, 4);
	store_le(message + 8, counter, 8);
	memcpy(nonce + NONCE_BYTES - 8, message + 8, 8);
	return libcrypto.begin_sealing(session->sending, NULL, NULL, nonce, NULL) == 1 &&
	       libcrypto.seal(session->sending, body, &written, packet, length) == 1 &&
	       libcrypto.finish_sealing(session->sending, body + length, &finished) == 1 &&
	       libcrypto.get_parameters(session->sending, tag) == 1;
}

static int open_one(struct session *session, const uint8_t *message, int length, uint8_t *packet)
{
	uint8_t nonce[NONCE_BYTES] = { 0 };
	const uint8_t *body = message + HEADER_BYTES;
	struct parameter tag[2] = { { TAG, OCTET_STRING, (void *)(body + length), TAG_BYTES, 0 } };
	int written, finished;

	memcpy(nonce + NONCE_BYTES - 8, message + 8, 8);
	return libcrypto.begin_opening(session->receiving, NULL, NULL, nonce, tag) == 1 &&
	       libcrypto.open(session->receiving, packet, &written, body, length) == 1 &&
	       libcrypto.finish_opening(session->receiving, packet + length, &finished) == 1;
}

/*
 * Seal packets of "size" bytes, the last one perhaps shorter, each behind "headroom" bytes that are left as they are,
 * with counters from "counter" on. Room for all of that is at "output". Returns how many bytes that is, 0 on failure.
 */
int64_t postern_seal(struct session *session, const void *data, int64_t length, int64_t size, int64_t headroom,
		     uint64_t counter, void *output)
{
	const uint8_t *packet = data, *end = packet + length;
	uint8_t *at = output;

	if (size <= 0 || size > INT_MAX || headroom < 0)
		return 0;
	for (; packet < end; packet += size) {
		int64_t left = end - packet, taken = left < size ? left : size;

		at += headroom;
		if (!seal_one(session, packet, (int)taken, counter++, at))
			return 0;
		at += OVERHEAD_BYTES + taken;
		if (left <= size)
			break;
	}
	return at - (uint8_t *)output;
}

/*
 * Open messages of "size" bytes with "headroom" before each, the last one perhaps shorter, none of them without a
 * packet; the packets come to lie back to back. Returns how many there are if their counters ascend one by one, the
 * same negative if they do not, 0 if any is not authentic: then what was written is to be forgotten.
 */
int64_t postern_open(struct session *session, const void *data, int64_t length, int64_t size, int64_t headroom,
		     void *output)
{
	const uint8_t *message = data, *end = message + length;
	uint8_t *packet = output;
	uint64_t first = 0;
	int64_t count = 0;
	int ascending = 1;

	if (headroom < 0 || size <= headroom + OVERHEAD_BYTES || size > INT_MAX)
		return 0;
	for (; message < end; message += size) {
		int64_t left = end - message, taken = left < size ? left : size,
			room = taken - headroom - OVERHEAD_BYTES;
		uint64_t counter;

		if (room <= 0 || !open_one(session, message + headroom, (int)room, packet))
			return 0;
		counter = load_le64(message + headroom + 8);
		if (!count)
			first = counter;
		/* 2^64 - 1 is followed by none. */
		ascending &= counter >= first && counter - first == (uint64_t)count;
		count++;
		packet += room;
		if (left <= size)
			break;
	}
	return ascending ? count : -count;
}
