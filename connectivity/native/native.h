// SPDX-License-Identifier: Apache-2.0
/*
 * The compiled helper: what Python does with whole runs, done in one call each. The Python beside it is the truth:
 * every function here gives what that gives, or says that the case is none of its own and changes nothing that counts.
 *
 * Nothing is kept between calls but the keys of sessions. Lengths are the caller's: "length" bytes are readable at
 * "data"; what is written goes to memory that the caller has measured. All of a packet may be an attacker's.
 */
#ifndef POSTERN_NATIVE_H
#define POSTERN_NATIVE_H

#include <stdint.h>

#define EXPORTED __attribute__((visibility("default")))

/* RFC 791, RFC 8200, RFC 9293, RFC 768 */
#define IPV4_HEADER_BYTES 20
#define IPV6_HEADER_BYTES 40
#define TCP_HEADER_BYTES 20
#define UDP_HEADER_BYTES 8
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
/* From the start of the transport header. */
#define TCP_SEQUENCE_OFFSET 4
#define TCP_DATA_OFFSET_OFFSET 12
#define TCP_FLAGS_OFFSET 13
#define TCP_CHECKSUM_OFFSET 16
#define UDP_LENGTH_OFFSET 4
#define UDP_CHECKSUM_OFFSET 6
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_URG 0x20
#define TCP_CWR 0x80
/* The MTU inside the tunnel: connectivity.ip.packet.MAX_PACKET_BYTES. */
#define MAX_PACKET_BYTES 1280
#define MAX_SUPER_PACKET_BYTES 65535

/* linux/virtio_net.h */
#define VIRTIO_HEADER_BYTES 10
#define VIRTIO_NET_HDR_F_NEEDS_CSUM 1
#define VIRTIO_NET_HDR_GSO_TCPV4 1
#define VIRTIO_NET_HDR_GSO_TCPV6 4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5

/* Which sources this was compiled from. */
EXPORTED const char *postern_sources(void);

/* seal.c: NULL once libcrypto serves, or why it does not. */
EXPORTED const char *postern_load_cipher(void);
struct session;
EXPORTED struct session *postern_session_new(const void *send_key, const void *receive_key, uint32_t remote_index);
EXPORTED void postern_session_free(struct session *session);
EXPORTED int64_t postern_seal(struct session *session, const void *data, int64_t length, int64_t size, int64_t headroom,
			      uint64_t counter, void *output);
EXPORTED int64_t postern_open(struct session *session, const void *data, int64_t length, int64_t size, int64_t headroom,
			      void *output);

/* flows.c */
EXPORTED uint64_t postern_stretch(const void *data, int64_t length, int64_t offset, int64_t stride);

/* coalesce.c */
EXPORTED int64_t postern_merge(const void *data, int64_t length, int64_t stride, int64_t offset, void *output);

/* rows.c */
EXPORTED int64_t postern_uniform(const void *data, int64_t length, int64_t size, int64_t headroom);
EXPORTED int64_t postern_rewrite(void *data, int64_t length, int64_t stride, const void *addresses, int64_t version,
				 int64_t protocol, uint32_t header_change, uint32_t transport_change);
EXPORTED int64_t postern_any_of(const void *data, int64_t length, int64_t stride, int64_t at);
EXPORTED int64_t postern_complete(void *data, int64_t length, int64_t stride, int64_t start, int64_t offset);

/* split.c */
EXPORTED int64_t postern_split(const void *packet, int64_t length, int64_t kind, int64_t l4, int64_t segment,
			       void *output, int64_t capacity);

#endif
