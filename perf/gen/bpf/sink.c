//go:build ignore

// The two ends of a measurement, at the ingress hooks of the far interfaces (tcx). Packets of the generator are known by
// their client address; everything else goes on to the kernel.
//
//	sluice_server   at the servers' end: counts requests and drops them, or answers them
//	sluice_client   at the clients' end: counts answers and drops them, or goes on with the connection
//
// An answered datagram is the same one with its ends exchanged. A TCP connection lives its whole life without any state
// here, because every packet follows from the one before it:
//
//	client                          server
//	  SYN            ──────────▶                 the generator
//	                 ◀──────────    SYN, ACK
//	  FIN, ACK       ──────────▶                 the handshake's last ACK with it (RFC 9293 3.5)
//	                 ◀──────────    FIN, ACK
//	  ACK            ──────────▶                 counted: a whole life

#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define TCX_NEXT (-1)
#define TCX_PASS 0
#define TCX_DROP 2

#define FIN 0x01
#define SYN 0x02
#define RST 0x04
#define ACK 0x10

#define SERVER_SEQ 0x51c10000u // of every server: nobody needs to guess it

// Set before the programs are loaded.
volatile const __u32 client_net;  // of the generator, network order as in packets
volatile const __u32 client_mask;
volatile const __u32 server_net;  // of the servers
volatile const __u32 server_mask;
volatile const __u8 answer;       // requests are answered
volatile const __u8 verify;       // checksums are verified, of packets of up to 64 bytes of payload

enum counter { PACKETS, BYTES, TRANSLATED, WRONG, SYNS, FINS, ENDS, RESETS, COUNTERS };

// Requests in the first half, answers in the second.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64[2 * COUNTERS]);
} counters SEC(".maps");

static __always_inline __u16 fold(__u32 s)
{
	s = (s >> 16) + (s & 0xffff);
	s = (s >> 16) + (s & 0xffff);
	return s;
}

// right verifies the checksums of a short packet: every byte counts, so the rest of 128 is taken as 0.
static __always_inline int right(struct __sk_buff *skb, struct iphdr *ip)
{
	__u8 b[128] = {};
	__u32 total = bpf_ntohs(ip->tot_len), s = 0;
	if (total > 128 || total < 28)
		return 1;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, b, total & 127 ? total & 127 : 128))
		return 0;
	for (int i = 0; i < 20; i += 2)
		s += b[i] << 8 | b[i + 1];
	if (fold(s) != 0xffff)
		return 0;
	s = ip->protocol + total - 20;
	for (int i = 12; i < 128; i += 2)
		s += b[i] << 8 | b[i + 1];
	return fold(s) == 0xffff;
}

static __always_inline void swap(void *a, void *b, int n)
{
	__u8 *x = a, *y = b;
	#pragma unroll
	for (int i = 0; i < n; i++) {
		__u8 t = x[i];
		x[i] = y[i];
		y[i] = t;
	}
}

// replace puts new numbers into a segment and mends its checksum by the difference (RFC 1624).
static __always_inline void replace(struct tcphdr *t, __u32 seq, __u32 ack, __u8 flags)
{
	__u8 *f = (__u8 *)t + 13;
	__u32 s = (__u16)~t->check;
	s += (__u16)~(__u16)t->seq + (__u16)~(__u16)(t->seq >> 16) + (__u16)~(__u16)t->ack_seq + (__u16)~(__u16)(t->ack_seq >> 16);
	s += (__u16)~bpf_htons(*f);
	t->seq = bpf_htonl(seq);
	t->ack_seq = bpf_htonl(ack);
	*f = flags;
	s += (__u16)t->seq + (__u16)(t->seq >> 16) + (__u16)t->ack_seq + (__u16)(t->ack_seq >> 16) + bpf_htons(flags);
	t->check = ~fold(s);
}

// back sends the packet out of where it came in, to whom it came from.
static __always_inline int back(struct __sk_buff *skb, struct ethhdr *eth, struct iphdr *ip, struct udphdr *ports)
{
	swap(eth->h_dest, eth->h_source, ETH_ALEN);
	swap(&ip->saddr, &ip->daddr, 4);
	swap(&ports->source, &ports->dest, 2);
	return bpf_redirect(skb->ifindex, 0);
}

static __always_inline int end(struct __sk_buff *skb, int server)
{
	void *limit = (void *)(long)skb->data_end;
	struct ethhdr *eth = (void *)(long)skb->data;
	struct iphdr *ip = (void *)(eth + 1);
	if ((void *)(ip + 1) + sizeof(struct udphdr) > limit || eth->h_proto != bpf_htons(ETH_P_IP) || ip->ihl != 5)
		return TCX_NEXT;
	__u32 client = server ? ip->saddr : ip->daddr, other = server ? ip->daddr : ip->saddr, zero = 0;
	if ((client & client_mask) != client_net || (ip->protocol != IPPROTO_UDP && ip->protocol != IPPROTO_TCP))
		return TCX_NEXT;
	__u64 *c = bpf_map_lookup_elem(&counters, &zero);
	if (!c)
		return TCX_NEXT;
	if (!server)
		c += COUNTERS;
	c[PACKETS]++;
	c[BYTES] += skb->len;
	c[TRANSLATED] += (other & server_mask) == server_net;
	if (verify && !right(skb, ip))
		c[WRONG]++;
	// What was read may have been changed by a helper.
	limit = (void *)(long)skb->data_end;
	eth = (void *)(long)skb->data;
	ip = (void *)(eth + 1);
	struct udphdr *ports = (void *)(ip + 1);
	if ((void *)(ports + 1) > limit)
		return TCX_DROP;
	if (ip->protocol == IPPROTO_UDP)
		return server && answer ? back(skb, eth, ip, ports) : TCX_DROP;
	struct tcphdr *t = (void *)ports;
	if ((void *)(t + 1) > limit)
		return TCX_DROP;
	__u8 flags = *((__u8 *)t + 13);
	__u32 seq = bpf_ntohl(t->seq), ack = bpf_ntohl(t->ack_seq);
	if (flags & RST) {
		c[RESETS]++;
		return TCX_DROP;
	}
	if (flags & SYN)
		c[SYNS]++;
	else if (flags & FIN)
		c[FINS]++;
	else
		c[ENDS]++;
	if (!answer)
		return TCX_DROP;
	if (server && flags == SYN)
		replace(t, SERVER_SEQ, seq + 1, SYN | ACK);
	else if (server && flags == (FIN | ACK))
		replace(t, ack, seq + 1, FIN | ACK);
	else if (!server && flags == (SYN | ACK))
		replace(t, ack, seq + 1, FIN | ACK);
	else if (!server && flags == (FIN | ACK))
		replace(t, ack, seq + 1, ACK);
	else
		return TCX_DROP;
	return back(skb, eth, ip, ports);
}

SEC("tc")
int sluice_server(struct __sk_buff *skb) { return end(skb, 1); }

SEC("tc")
int sluice_client(struct __sk_buff *skb) { return end(skb, 0); }

char _license[] SEC("license") = "GPL";
