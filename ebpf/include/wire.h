// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The four headers that a relayed packet has, as they lie on the wire.
 *
 * Every multi-byte field is big-endian and named _be; nothing here has padding, bit-fields or options, so a header is
 * written whole and compares by bytes. Not declared packed, as the kernel's own are not: the compiler would read every
 * field byte by byte. Free of kernel-internal headers: it also compiles on the host.
 */
#ifndef POSTERN_WIRE_H
#define POSTERN_WIRE_H

#include <linux/types.h>

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86DD
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_QINQ 0x88A8
#define PROTOCOL_UDP 17

#define IPV4_VERSION_AND_LENGTH 0x45 /* version 4, five words: no options */
#define IPV4_DONT_FRAGMENT 0x4000
#define IPV4_FRAGMENT_MASK 0x3FFF /* more fragments, and the offset */

/* Extension headers of RFC 8200 §4.1, with AH and the ones for mobility, HIP and shim6: UDP may follow them. */
#define EXTENSION_HOP_BY_HOP 0
#define EXTENSION_ROUTING 43
#define EXTENSION_FRAGMENT 44
#define EXTENSION_AUTHENTICATION 51
#define EXTENSION_DESTINATION 60
#define EXTENSION_MOBILITY 135
#define EXTENSION_HIP 139
#define EXTENSION_SHIM6 140

struct ethernet_header {
	__be16 destination[3];
	__be16 source[3];
	__be16 ethertype_be;
};

struct ipv4_header {
	__u8 version_and_length;
	__u8 tos;
	__be16 total_length_be;
	__be16 id_be;
	__be16 fragment_be;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum_be;
	__be32 source_be;
	__be32 destination_be;
};

struct ipv6_header {
	__be32 version_class_label_be; /* 4 bits version, 8 bits traffic class, 20 bits flow label */
	__be16 payload_length_be;
	__u8 next_header;
	__u8 hop_limit;
	__be32 source_be[4];
	__be32 destination_be[4];
};

struct udp_header {
	__be16 source_port_be;
	__be16 destination_port_be;
	__be16 length_be;
	__be16 checksum_be;
};

/* RFC 8656 §12.4; over UDP nothing pads the message. */
struct channel_header {
	__be16 number_be;
	__be16 length_be;
};

_Static_assert(sizeof(struct ethernet_header) == 14, "Ethernet II");
_Static_assert(sizeof(struct ipv4_header) == 20, "RFC 791 without options");
_Static_assert(sizeof(struct ipv6_header) == 40, "RFC 8200 without extensions");
_Static_assert(sizeof(struct udp_header) == 8, "RFC 768");
_Static_assert(sizeof(struct channel_header) == 4, "RFC 8656 channel data");

/* Both directions: host order to network order and back. */
static __always_inline __u16 swap16(__u16 value)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return __builtin_bswap16(value);
#else
	return value;
#endif
}

static __always_inline __u32 swap32(__u32 value)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return __builtin_bswap32(value);
#else
	return value;
#endif
}

#endif
