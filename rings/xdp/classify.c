//go:build ignore

// Decides for each received frame whether it is ours (to the AF_XDP socket of its queue) or the kernel's.
//
// The order is the one of the owner function and of explain; the first rule that applies decides:
//
//  1. ARP, neighbour discovery, multicast, broadcast, link-local, what is not IP      pass
//  2. destination is a virtual address: a virtual server matches, or the engine
//     wants what no server matches; fragments always; ICMP by a flag, its errors always ours
//  3. destination is a SNAT address, port inside its range; of an ICMP error the
//     source port, or query id, of the packet that it quotes                          ours
//  4. destination is a virtual address left to the host                               pass
//     an ICMP error to another local address, about a packet to the far end of a
//     tunnel, or of connections from a SNAT address                                   ours
//     destination is another local address                                            pass
//  5. source is a member (address, protocol, port), or a fragment from its address;
//     or an ICMP error, whoever sends it, about a packet to a member's address        ours
//  6. destination is in a prefix that a virtual server of the port has                ours
//  7. anything else                                                                   pass
//
// What is ours goes to the socket while the heartbeat is fresh. With no socket in the slot it is dropped, since
// the kernel would answer a segment of a connection that it does not know with a RST. With a stale heartbeat
// (no engine, or one that hangs) the policy after_hold applies, sockets or not.
//
// All rules are entries of one hash map, held by a map of maps: a change is built aside and takes effect by a
// single update. The address entry comes first and its flags say whether a second lookup is needed at all, so
// the usual frame to a virtual server costs one lookup, the usual answer of a member three.

#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define MAX_TAGS 2       // 802.1Q inside 802.1ad
#define VALUE_LENGTHS 4  // values of KIND_LENGTHS for a family
#define NO_LENGTH 0xff
#define MAX_EXTENSIONS 6 // IPv6 extension headers in front of the transport header

#define IP_FRAGMENT 0x3fff  // more fragments, or an offset (RFC 791)
#define IP_OFFSET 0x1fff
#define IP6_FRAGMENT 0xfff9 // the same two in the fragment header (RFC 8200 4.5)

#define ICMP_ECHO_REPLY 0
#define ICMP6_ECHO_REPLY 129
#define ICMP6_ERROR_LAST 4     // errors are 1-4 (RFC 4443)
#define ICMP_LENGTH 8          // of an error's header, in front of the packet that it quotes
#define ICMP6_MLD_FIRST 130 // multicast listener discovery 130-132, neighbour discovery 133-137
#define ICMP6_ND_LAST 137
#define ICMP6_MLD2 143

// Kinds of entries. The family is part of the kind, so that an IPv6 packet with IPv4-mapped addresses never
// meets the entry of an IPv4 address.
enum kind {
	KIND_ADDRESS = 1, // port and proto 0; flags and SNAT range
	KIND_SERVICE = 2, // a virtual server, at an address with ADDR_UNMATCHED_HOST; port 0 is any port
	KIND_MEMBER = 3,  // a member's end; port 0 is any port
	KIND_LENGTHS = 4, // address and port 0, proto counts them: lengths that prefixes have, see in_prefix
	KIND_PREFIX = 5,  // a virtual server's prefix; proto is its length
	KIND_V6 = 0x80,
};

enum address_flag {
	ADDR_VIRTUAL = 1 << 0,
	ADDR_UNMATCHED_HOST = 1 << 1, // what no KIND_SERVICE matches is the kernel's, not the engine's
	ADDR_ICMP_ENGINE = 1 << 2,
	ADDR_SNAT = 1 << 3,
	ADDR_LOCAL = 1 << 4,
	ADDR_MEMBER = 1 << 5,
	ADDR_MEMBER_ANY = 1 << 6, // whatever the protocol and port
	ADDR_FAR_END = 1 << 7,    // we send to it from addresses of our own
};

// Which families have prefixes.
enum wildcard_flag {
	WILDCARD_V4 = 1 << 0,
	WILDCARD_V6 = 1 << 1,
};

// Outcomes, counted. Every frame counts as exactly one.
enum outcome {
	COUNT_PASSED,             // the kernel's
	COUNT_REDIRECTED,         // ours, to the socket
	COUNT_HELD,               // ours, no socket: dropped
	COUNT_WILDCARD_PASSED,    // ours by a prefix only, no socket: passed
	COUNT_AFTER_HOLD_PASSED,  // ours, heartbeat stale: passed
	COUNT_AFTER_HOLD_DROPPED, // ours, heartbeat stale: dropped
	COUNT_MALFORMED_PASSED,   // headers up to IP do not fit: passed, the kernel counts them too
	COUNTERS,
};

struct rule_key {
	__be32 addr[4]; // an IPv4 address as ::ffff:a.b.c.d
	__be16 port;
	__u8 proto;
	__u8 kind;
};

struct rule_value {
	__u32 flags;
	__u16 port_first; // SNAT range, host byte order
	__u16 port_last;
};

// Written by user space, also while the program runs: each field is one aligned word.
struct config {
	__u64 heartbeat; // CLOCK_MONOTONIC, nanoseconds
	__u64 hold_ns;
	__u32 after_hold_pass;
	__u32 wildcard;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1); // set to the number of queues at load
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct rule_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); // each table is made as large as its rules
	__uint(key_size, sizeof(struct rule_key));
	__uint(value_size, sizeof(struct rule_value));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct rule_table);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

enum verdict { VERDICT_PASS, VERDICT_MALFORMED, VERDICT_OURS, VERDICT_WILDCARD, VERDICT_DECIDE };

struct packet {
	__be32 src[4], dst[4];
	// 0 where there is none; dst_port is the identifier of an ICMP echo reply, and in an error the source port, or
	// identifier, that is quoted
	__be16 src_port, dst_port;
	__u8 proto;
	__u8 family; // 0 or KIND_V6
	__u8 icmp;   // ICMP of its own family
	__u8 fragment;
	__u8 no_l4; // the transport header is truncated or was not reached
	__u8 error; // an ICMP error
	__be32 quoted[4]; // the destination of the packet that it is about
};

static __always_inline int count(__u32 outcome, int action)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &outcome);

	if (n)
		(*n)++;
	return action;
}

// Unreachable, source quench, time exceeded and parameter problem; not a redirect, which is for the kernel.
static __always_inline int is_error(__u8 type, int v6)
{
	if (v6)
		return type >= 1 && type <= ICMP6_ERROR_LAST;
	return type == 3 || type == 4 || type == 11 || type == 12;
}

// The destination and the source port in the packet that an ICMP error quotes; whether it is one is the engine's to check.
static __always_inline void read_quote(struct packet *p, void *quote, void *end)
{
	struct ipv6hdr *ip6 = quote;
	struct iphdr *ip = quote;
	__be16 *port;
	__u8 proto;

	if (p->family) {
		if ((void *)(ip6 + 1) > end)
			return;
		__builtin_memcpy(p->quoted, &ip6->daddr, sizeof(p->quoted));
		port = (void *)(ip6 + 1);
		proto = ip6->nexthdr;
	} else {
		if ((void *)(ip + 1) > end)
			return;
		p->quoted[2] = bpf_htonl(0xffff);
		p->quoted[3] = ip->daddr;
		port = quote + ip->ihl * 4;
		proto = ip->protocol;
		if (ip->frag_off & bpf_htons(IP_OFFSET))
			return;
	}
	if (proto == p->proto)
		port += 2; // a query's identifier
	else if (proto != IPPROTO_TCP && proto != IPPROTO_UDP && proto != IPPROTO_SCTP)
		return;
	if ((void *)(port + 1) <= end)
		p->dst_port = *port;
}

// Ports sit at the same place in TCP, UDP and SCTP. Returns 1 for neighbour and listener discovery.
static __always_inline int read_l4(struct packet *p, void *l4, void *end)
{
	if (p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP || p->proto == IPPROTO_SCTP) {
		__be16 *port = l4;

		if ((void *)(port + 2) > end) {
			p->no_l4 = 1;
			return 0;
		}
		p->src_port = port[0];
		p->dst_port = port[1];
	} else if (p->icmp) {
		__u8 *type = l4;

		if ((void *)(type + 1) > end) {
			p->no_l4 = 1;
			return 0;
		}
		if (p->family && ((*type >= ICMP6_MLD_FIRST && *type <= ICMP6_ND_LAST) || *type == ICMP6_MLD2))
			return 1;
		if ((void *)(type + 6) > end) {
			p->no_l4 = 1;
			return 0;
		}
		if (*type == (p->family ? ICMP6_ECHO_REPLY : ICMP_ECHO_REPLY))
			p->dst_port = *(__be16 *)(type + 4);
		if (is_error(*type, p->family)) {
			p->error = 1;
			read_quote(p, l4 + ICMP_LENGTH, end);
		}
	}
	return 0;
}

static __always_inline struct rule_value *lookup(void *table, struct rule_key *key, __be16 port, __u8 proto, __u8 kind)
{
	key->port = port;
	key->proto = proto;
	key->kind = kind;
	return bpf_map_lookup_elem(table, key);
}

// Whether the destination is in a prefix. A value of KIND_LENGTHS has 8 lengths, a byte each, counted from the beginning of
// an IPv4 address's mapped form; NO_LENGTH ends them.
static __always_inline int in_prefix(void *table, const struct packet *p)
{
	for (int i = 0; i < VALUE_LENGTHS; i++) {
		struct rule_key key = {};
		struct rule_value *v = lookup(table, &key, 0, i, KIND_LENGTHS | p->family);
		__u64 lengths;

		if (!v)
			return 0;
		__builtin_memcpy(&lengths, v, sizeof(lengths));
		for (int j = 0; j < (int)sizeof(lengths); j++) {
			__u32 bits = (lengths >> j * 8) & 0xff;

			if (bits == NO_LENGTH)
				return 0;
			for (int word = 0; word < 4; word++) {
				__u32 mask = 0, from = word * 32;

				if (bits >= from + 32)
					mask = ~0u;
				else if (bits > from)
					mask = ~0u << ((from + 32 - bits) & 31);
				key.addr[word] = p->dst[word] & bpf_htonl(mask);
			}
			if (lookup(table, &key, 0, bits, KIND_PREFIX | p->family))
				return 1;
		}
	}
	return 0;
}

// Rules 2 to 7, the same for both families.
static __always_inline int decide(const struct packet *p, const struct config *cfg)
{
	struct rule_key key;
	struct rule_value *v;
	__u32 zero = 0, about = ADDR_MEMBER | ADDR_FAR_END;
	void *table = bpf_map_lookup_elem(&rules, &zero);

	if (!table)
		return VERDICT_PASS;

	__builtin_memcpy(key.addr, p->dst, sizeof(key.addr));
	v = lookup(table, &key, 0, 0, KIND_ADDRESS | p->family);
	if (v) {
		__u32 flags = v->flags;

		if (p->icmp) {
			if ((flags & ADDR_ICMP_ENGINE) || ((flags & ADDR_VIRTUAL) && p->error))
				return VERDICT_OURS;
		} else if (flags & ADDR_VIRTUAL) {
			// Only the engine can tell the server of a fragment, and only it counts what is malformed.
			if (!(flags & ADDR_UNMATCHED_HOST) || p->fragment || p->no_l4)
				return VERDICT_OURS;
		}
		if (flags & ADDR_SNAT) {
			__u16 port = bpf_ntohs(p->dst_port);

			if (p->fragment) {
				if (!p->icmp)
					return VERDICT_OURS;
			} else if (port && port >= v->port_first && port <= v->port_last) {
				return VERDICT_OURS;
			}
		}
		if ((flags & ADDR_VIRTUAL) && !p->icmp) {
			if (lookup(table, &key, p->dst_port, p->proto, KIND_SERVICE | p->family))
				return VERDICT_OURS;
			if (p->dst_port && lookup(table, &key, 0, p->proto, KIND_SERVICE | p->family))
				return VERDICT_OURS;
		}
		if ((flags & ADDR_VIRTUAL) || ((flags & ADDR_LOCAL) && !p->error))
			return VERDICT_PASS;
		if (flags & ADDR_LOCAL)
			about = ADDR_FAR_END;
	}

	if (p->error) {
		__builtin_memcpy(key.addr, p->quoted, sizeof(key.addr));
		v = lookup(table, &key, 0, 0, KIND_ADDRESS | p->family);
		if (v && (v->flags & about))
			return VERDICT_OURS;
		if (!(about & ADDR_MEMBER))
			return VERDICT_PASS;
	}

	__builtin_memcpy(key.addr, p->src, sizeof(key.addr));
	v = lookup(table, &key, 0, 0, KIND_ADDRESS | p->family);
	if (v && (v->flags & ADDR_MEMBER)) {
		if (p->fragment || (v->flags & ADDR_MEMBER_ANY))
			return VERDICT_OURS;
		if (!p->no_l4) {
			if (lookup(table, &key, p->src_port, p->proto, KIND_MEMBER | p->family))
				return VERDICT_OURS;
			if (p->src_port && lookup(table, &key, 0, p->proto, KIND_MEMBER | p->family))
				return VERDICT_OURS;
		}
	}

	if ((cfg->wildcard & (p->family ? WILDCARD_V6 : WILDCARD_V4)) && in_prefix(table, p))
		return VERDICT_WILDCARD;
	return VERDICT_PASS;
}

// Rule 1 for IPv4; fills p for decide.
static __always_inline int parse_v4(struct packet *p, void *l3, void *end)
{
	struct iphdr *ip = l3;
	__u32 dst;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5 || l3 + ip->ihl * 4 > end)
		return VERDICT_MALFORMED;

	dst = bpf_ntohl(ip->daddr);
	if (dst >> 28 >= 14 || dst >> 16 == 0xa9fe) // 224/4, 240/4 with the limited broadcast; 169.254/16
		return VERDICT_PASS;

	p->src[2] = p->dst[2] = bpf_htonl(0xffff);
	p->src[3] = ip->saddr;
	p->dst[3] = ip->daddr;
	p->proto = ip->protocol;
	p->icmp = ip->protocol == IPPROTO_ICMP;
	p->fragment = (ip->frag_off & bpf_htons(IP_FRAGMENT)) != 0;
	if (!p->fragment)
		read_l4(p, l3 + ip->ihl * 4, end);
	return VERDICT_DECIDE;
}

// Rule 1 for IPv6; fills p for decide.
static __always_inline int parse_v6(struct packet *p, void *l3, void *end)
{
	struct ipv6hdr *ip = l3;
	void *next = ip + 1;
	__u8 *extension;

	if (next > end || ip->version != 6)
		return VERDICT_MALFORMED;

	p->family = KIND_V6;
	__builtin_memcpy(p->src, &ip->saddr, sizeof(p->src));
	__builtin_memcpy(p->dst, &ip->daddr, sizeof(p->dst));
	if ((p->dst[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000) ||
	    (p->dst[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000)) // ff00::/8, fe80::/10
		return VERDICT_PASS;

	p->proto = ip->nexthdr;
	for (int i = 0;; i++) {
		if (p->proto != IPPROTO_HOPOPTS && p->proto != IPPROTO_ROUTING && p->proto != IPPROTO_DSTOPTS &&
		    p->proto != IPPROTO_FRAGMENT)
			break;
		extension = next;
		if (i == MAX_EXTENSIONS || (void *)(extension + 8) > end) {
			p->no_l4 = 1;
			break;
		}
		if (p->proto == IPPROTO_FRAGMENT) {
			// A datagram in one fragment is whole (RFC 6946). Of others only the first holds what follows.
			next += 8;
			p->fragment = (*(__be16 *)(extension + 2) & bpf_htons(IP6_FRAGMENT)) != 0;
		} else {
			next += (extension[1] + 1) * 8;
		}
		p->proto = extension[0];
		if (p->fragment)
			break;
	}
	p->icmp = p->proto == IPPROTO_ICMPV6;
	if (!p->fragment && !p->no_l4 && read_l4(p, next, end))
		return VERDICT_PASS;
	return VERDICT_DECIDE;
}

// Rule 1 as far as the Ethernet header tells, and the way to the network header.
static __always_inline int classify(struct xdp_md *ctx, const struct config *cfg)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	void *next = eth + 1;
	struct packet p = {};
	int verdict = VERDICT_PASS;
	__be16 proto;

	if (next > end)
		return VERDICT_MALFORMED;
	if (eth->h_dest[0] & 1)
		return VERDICT_PASS;
	proto = eth->h_proto;
#pragma unroll
	for (int i = 0; i < MAX_TAGS; i++) {
		__be16 *tag = next;

		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(tag + 2) > end)
			return VERDICT_MALFORMED;
		proto = tag[1];
		next = tag + 2;
	}
	if (proto == bpf_htons(ETH_P_IP))
		verdict = parse_v4(&p, next, end);
	else if (proto == bpf_htons(ETH_P_IPV6))
		verdict = parse_v6(&p, next, end);
	return verdict == VERDICT_DECIDE ? decide(&p, cfg) : verdict;
}

SEC("xdp")
int sluice_classify(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct config *cfg = bpf_map_lookup_elem(&config, &zero);
	int verdict, action;
	__s64 age;

	if (!cfg)
		return XDP_PASS;
	verdict = classify(ctx, cfg);
	if (verdict == VERDICT_PASS)
		return count(COUNT_PASSED, XDP_PASS);
	if (verdict == VERDICT_MALFORMED)
		return count(COUNT_MALFORMED_PASSED, XDP_PASS);

	// The coarse clock lags the heartbeat's by up to a tick: the age may be negative. It costs a load.
	age = bpf_ktime_get_coarse_ns() - *(volatile __u64 *)&cfg->heartbeat;
	if (age >= (__s64)cfg->hold_ns) {
		if (cfg->after_hold_pass || verdict == VERDICT_WILDCARD)
			return count(COUNT_AFTER_HOLD_PASSED, XDP_PASS);
		return count(COUNT_AFTER_HOLD_DROPPED, XDP_DROP);
	}

	action = bpf_redirect_map(&xsks, ctx->rx_queue_index, verdict == VERDICT_WILDCARD ? XDP_PASS : XDP_DROP);
	if (action == XDP_REDIRECT)
		return count(COUNT_REDIRECTED, action);
	if (verdict == VERDICT_WILDCARD)
		return count(COUNT_WILDCARD_PASSED, XDP_PASS);
	return count(COUNT_HELD, XDP_DROP);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
