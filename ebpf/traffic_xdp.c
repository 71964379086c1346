// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Both ends of a benchmark: a generator for live-frame test runs, and a counter that swallows what was generated.
 *
 * The generator gets one frame again and again, and a page of it comes round as the last one who had it left it, which
 * may be a relay that moved headers about. So it writes all of them every time: Ethernet, IPv4 without options, UDP and
 * the first four bytes of the payload. The counter knows the frames by a mark behind these, and passes up all others.
 *
 * Part of no service.
 */
#define BPF_LICENSE GPL

#include <uapi/linux/bpf.h>

#include "wire.h"

#define MAX_TRAFFIC_FLOWS 1024
#define MARK 0x504f535445524e21ULL /* "POSTERN!" */
#define MOST_ARREARS_NS 100000
#define CHANNEL_BYTES sizeof(struct channel_header)

/*
 * One test run at a time: no atomics needed. A test run takes some 30 ms to end, so one of them has to last: the pace is
 * kept here, frames that are not due are dropped.
 */
struct traffic_course {
	__u32 ifindex;
	__u32 flow_count;
	__u32 burst;	   /* frames of one flow before the next has its turn */
	__u32 interval_ns; /* 0: as fast as it goes */
	__u64 frames;
	__u64 due_ns;
};

/* How each frame of a flow begins. */
struct traffic_flow {
	struct ethernet_header ethernet;
	struct ipv4_header ip;
	struct udp_header udp;
	__u8 head[4]; /* a channel header, or zeros */
} __attribute__((packed));

BPF_ARRAY(traffic_flows, struct traffic_flow, MAX_TRAFFIC_FLOWS);
BPF_ARRAY(traffic_course, struct traffic_course, 1);
BPF_PERCPU_ARRAY(traffic_arrived, __u64, 1);

int postern_traffic(struct xdp_md *context)
{
	struct traffic_flow *frame = (void *)(long)context->data;
	void *data_end = (void *)(long)context->data_end;
	struct traffic_course *course;
	struct traffic_flow *flow;
	__u32 index = 0;

	if ((void *)(frame + 1) > data_end)
		return XDP_ABORTED;
	course = traffic_course.lookup(&index);
	if (!course || !course->flow_count || !course->burst)
		return XDP_ABORTED;
	if (course->interval_ns && course->frames % course->burst == 0) {
		__u64 now = bpf_ktime_get_ns();

		if (now < course->due_ns)
			return XDP_DROP;
		/* What was missed while others had the processor is not made up for at once. */
		if (now - course->due_ns > MOST_ARREARS_NS)
			course->due_ns = now;
		course->due_ns += (__u64)course->interval_ns * course->burst;
	}
	index = course->frames / course->burst % course->flow_count;
	flow = traffic_flows.lookup(&index);
	if (!flow)
		return XDP_ABORTED;
	course->frames++;
	*frame = *flow;
	return bpf_redirect(course->ifindex, 0);
}

int postern_arrived(struct xdp_md *context)
{
	struct traffic_flow *frame = (void *)(long)context->data;
	void *data_end = (void *)(long)context->data_end;
	__u64 *mark = (void *)frame + sizeof(*frame);
	__u64 mark_be = __builtin_bswap64(MARK);
	__u32 index = 0;
	__u64 *arrived;

	if ((void *)mark + CHANNEL_BYTES + sizeof(*mark) > data_end || frame->ip.protocol != PROTOCOL_UDP)
		return XDP_PASS;
	/* Sent twice behind the head. A channel header taken off leaves the second here, one put on moves the first. */
	if (*mark != mark_be && *(__u64 *)((void *)mark + CHANNEL_BYTES) != mark_be)
		return XDP_PASS;
	arrived = traffic_arrived.lookup(&index);
	if (arrived)
		(*arrived)++;
	return XDP_DROP;
}
