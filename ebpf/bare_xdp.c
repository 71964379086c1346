// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What any forwarding program has to do at the least: parse to the addresses, ask for the route, send.
 *
 * The measure for the relay's own program time, and for nothing else: it changes no byte but the hardware addresses.
 */
#define BPF_LICENSE GPL

#include <uapi/linux/bpf.h>

#include "wire.h"

#define FAMILY_IPV4 2  /* AF_INET */
#define FAMILY_IPV6 10 /* AF_INET6 */

int postern_bare(struct xdp_md *context)
{
	void *data = (void *)(long)context->data;
	void *data_end = (void *)(long)context->data_end;
	struct ethernet_header *ethernet = data;
	struct bpf_fib_lookup fib = {};
	struct udp_header *udp;

	if ((void *)(ethernet + 1) > data_end)
		return XDP_PASS;
	if (ethernet->ethertype_be == swap16(ETHERTYPE_IPV4)) {
		struct ipv4_header *ip = (void *)(ethernet + 1);

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > data_end || ip->protocol != PROTOCOL_UDP)
			return XDP_PASS;
		fib.family = FAMILY_IPV4;
		fib.tos = ip->tos;
		fib.tot_len = swap16(ip->total_length_be);
		/* Back to the sender: a packet for this host has no route that leaves it. */
		fib.ipv4_src = ip->destination_be;
		fib.ipv4_dst = ip->source_be;
	} else if (ethernet->ethertype_be == swap16(ETHERTYPE_IPV6)) {
		struct ipv6_header *ip = (void *)(ethernet + 1);

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > data_end || ip->next_header != PROTOCOL_UDP)
			return XDP_PASS;
		fib.family = FAMILY_IPV6;
		fib.tot_len = sizeof(*ip) + swap16(ip->payload_length_be);
		__builtin_memcpy(fib.ipv6_src, ip->destination_be, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, ip->source_be, sizeof(fib.ipv6_dst));
	} else {
		return XDP_PASS;
	}
	fib.ifindex = context->ingress_ifindex;
	fib.l4_protocol = PROTOCOL_UDP;
	fib.sport = udp->destination_port_be;
	fib.dport = udp->source_port_be;
	if (bpf_fib_lookup(context, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return XDP_PASS;
	__builtin_memcpy(ethernet->destination, fib.dmac, sizeof(ethernet->destination));
	__builtin_memcpy(ethernet->source, fib.smac, sizeof(ethernet->source));
	return bpf_redirect(fib.ifindex, 0);
}
