//go:build ignore

// Makes the packets of the live generator: run over and over by BPF_PROG_TEST_RUN with live frames, it writes a whole
// packet into a page and redirects it out of an interface. What is not yet due is dropped, which gives the page back:
// that is the pace.
//
// One call runs on one core and nothing else runs this copy of the program, so its state needs no atomics.

#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define HEADER_MAX 54   // Ethernet, IPv4, TCP
#define SIZES 16        // a power of two
#define CLOCK_EVERY 64  // packets, where only the end depends on the clock
#define SPREAD 2654435761u // odd: a bijection of 32 bits that puts neighbours far apart (Knuth, 6.4)

// Set before the program is loaded.
volatile const __u32 ifindex;
volatile const __u8 header[64];   // all of it, with source, lengths, checksums 0
volatile const __u32 header_len;
volatile const __u32 ip_sum;      // of the IPv4 header as it stands in header
volatile const __u32 l4_sum;      // of the transport header and the pseudo-header without source and length
volatile const __u32 source;      // address of the first source, host order; its 17 low bits are 0
volatile const __u32 flows;       // 0: every packet is a new one
volatile const __u32 first_flow;  // number of the first
volatile const __u32 in_turn;     // flows one after the other rather than at random
volatile const __u16 sizes[SIZES]; // of frames in turn, without their check sequence
volatile const __u64 rate;        // packets per second, 0 as fast as it goes
volatile const __u64 debt;        // packets that may leave in a lump after a pause
volatile const __u64 limit;       // packets in all, 0 as many as time allows
volatile const __u64 length;      // nanoseconds from the first packet on in which packets are sent

// Set while it runs.
__u64 begun = 0;   // of the first packet, CLOCK_MONOTONIC nanoseconds
__u64 last = 0;    // of the last look at the clock while sending
__u64 sent = 0;
__u64 skipped = 0; // were due while the generator had no core
__u64 bytes = 0;
__u64 next_flow = 0;
__u64 ended = 0;   // also set from outside, to end early

static __always_inline __u32 sum32(__u32 v) { return (v >> 16) + (v & 0xffff); }

static __always_inline __u16 fold(__u32 s)
{
	s = (s >> 16) + (s & 0xffff);
	return ~(__u16)((s >> 16) + s);
}

// due says whether a packet is to be sent now.
static __always_inline int due(void)
{
	if (ended)
		return 0;
	if (limit && sent >= limit) {
		ended = 1;
		return 0;
	}
	if (!rate && sent % CLOCK_EVERY)
		return 1;
	__u64 now = bpf_ktime_get_ns();
	if (!begun)
		begun = now;
	if (now - begun >= length) {
		ended = 1;
		return 0;
	}
	last = now;
	if (!rate)
		return 1;
	__u64 want = (now - begun) * rate / 1000000000, have = sent + skipped;
	if (want <= have)
		return 0;
	if (want - have > debt)
		skipped += want - have - debt;
	return 1;
}

SEC("xdp")
int sluice_live(struct xdp_md *ctx)
{
	if (!due())
		return XDP_DROP;
	__u32 size = sizes[sent % SIZES];
	int change = (int)size - (int)(ctx->data_end - ctx->data);
	if (change && bpf_xdp_adjust_tail(ctx, change))
		return XDP_ABORTED;
	__u8 *b = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (b + HEADER_MAX > end)
		return XDP_ABORTED;
	__u32 n;
	if (!flows)
		n = first_flow + next_flow++;
	else if (in_turn)
		n = first_flow + next_flow++ % flows;
	else
		n = first_flow + bpf_get_prandom_u32() % flows;
	n *= SPREAD;
	__u32 addr = source | n >> 15;
	__u16 port = 0x8000 | (n & 0x7fff);

	#pragma unroll
	for (int i = 0; i < 42; i++)
		b[i] = header[i];
	struct iphdr *ip = (void *)(b + ETH_HLEN);
	__u32 total = size - ETH_HLEN;
	ip->tot_len = bpf_htons(total);
	ip->saddr = bpf_htonl(addr);
	ip->check = bpf_htons(fold(ip_sum + total + sum32(addr)));
	__u32 l4 = l4_sum + sum32(addr) + port;
	if (header_len == HEADER_MAX) {
		#pragma unroll
		for (int i = 42; i < HEADER_MAX; i++)
			b[i] = header[i];
		struct tcphdr *tcp = (void *)(ip + 1);
		__u32 seq = n * SPREAD; // the same for the same flow: what is sent twice is a retransmission
		tcp->source = bpf_htons(port);
		tcp->seq = bpf_htonl(seq);
		tcp->check = bpf_htons(fold(l4 + sum32(seq) + total - sizeof(*ip)));
	} else {
		struct udphdr *udp = (void *)(ip + 1);
		__u32 len = total - sizeof(*ip);
		udp->source = bpf_htons(port);
		udp->len = bpf_htons(len);
		__u16 check = fold(l4 + 2 * len);
		udp->check = check ? bpf_htons(check) : 0xffff; // RFC 768: 0 means none
	}
	sent++;
	bytes += size;
	return bpf_redirect(ifindex, 0);
}

char _license[] SEC("license") = "GPL";
