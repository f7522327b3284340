package result

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Word is a part of the names of cases, "nat" or "flows=new" of "nat/flows=new/workers=1". As metric.go does for metrics, the
// list below is the only place that says what each means.
type Word struct {
	Word  string // with N for any number
	About string // a sentence
	Kind  WordKind
}

// WordKind is where a word stands.
type WordKind uint8

// The kinds: a case begins with what was measured, and goes on with how.
const (
	ModeWord    WordKind = iota // first word of pipeline and scale
	CarrierWord                 // first word of the scenarios over interfaces
	CaseWord                    // any further word
)

var words = []Word{
	{"nat", "sluice's destination NAT: requests get a member's address, answers the virtual server's", ModeWord},
	{"fullnat", "nat with the client's address changed too, to one of sluice's", ModeWord},
	{"direct-return", "addresses stay, the member is reached by its MAC address and answers past sluice", ModeWord},
	{"router", "packets to anywhere, through one of several routers; addresses stay", ModeWord},
	{"router-snat", "router with the client's address changed to one of sluice's", ModeWord},
	{"firewall", "packets to anywhere, through one of several firewalls, both ways of a connection through the same", ModeWord},
	{"forward", "packets to anywhere, where routes lead, with their connections tracked", ModeWord},
	{"forward-snat", "forward with the client's address changed to one of sluice's", ModeWord},
	{"ipip", "to members in tunnels, IP in IP; they answer past sluice", ModeWord},
	{"gue", "to members in tunnels over UDP (GUE); they answer past sluice", ModeWord},
	{"vlan", "nat with clients and members in a VLAN each, one tag on every frame", ModeWord},
	{"icmp-errors", "nat, every packet an ICMP error about one of its connections", ModeWord},
	{"fragments", "nat, every packet one of two fragments of a UDP datagram", ModeWord},
	{"program", "the XDP program alone, run by the kernel on frames of its own, on no interface", ModeWord},

	{"forward", "the kernel's ip_forward without NAT, in a thread on the core that sluice would have", CarrierWord},
	{"forward-inline", "the kernel's ip_forward without NAT, in softirq on the generator's or client's core, as is the kernel's default", CarrierWord},
	{"nftables", "nftables DNAT over four servers by numgen inc, in a thread on the core that sluice would have", CarrierWord},
	{"nftables-inline", "nftables DNAT over four servers, in softirq on the generator's or client's core, as is the kernel's default", CarrierWord},
	{"asavie", "the library github.com/asavie/xdp passing packets on at one port, as its examples do, without NAT", CarrierWord},
	{"asavie-ports", "the library github.com/asavie/xdp passing packets on between two ports, without NAT", CarrierWord},
	{"rings", "sluice's AF_XDP driver alone passing packets on between two ports, without NAT", CarrierWord},
	{"sluice", "the product, sluice run, with its own AF_XDP driver", CarrierWord},
	{"sluice-asavie", "the product with the asavie driver", CarrierWord},
	{"haproxy", "HAProxy in TCP mode, one thread, where TCP is compared", CarrierWord},
	{"haproxy-http", "HAProxy in HTTP mode, one thread: it reads every request; over HTTP only", CarrierWord},
	{"anchor", "a short sample of forward-inline before and after each repetition: where the two differ, the machine has drifted meanwhile", CarrierWord},

	{"flows=N", "so many connections, all opened before, with their packets in random order", CaseWord},
	{"flows=new", "every packet is the first of a connection, or with life=whole every connection a new one", CaseWord},
	{"workers=N", "so many workers, each on a core of its own; Mpps is what they carry together", CaseWord},
	{"pattern=zipf", "connections are not drawn evenly: a few have most of the packets (Zipf, skew 1.1)", CaseWord},
	{"pattern=round", "connections send in turn", CaseWord},
	{"size=imix", "frames of 64, 594 and 1518 bytes, 7 to 4 to 1; without a size they have 64", CaseWord},
	{"size=1500", "IP packets of 1500 bytes; without a size frames have 64", CaseWord},
	{"family=6", "connections over IPv6; without a family IPv4", CaseWord},
	{"family=both", "every other connection over IPv6", CaseWord},
	{"members=N", "so many members in each pool, instead of four", CaseWord},
	{"virtuals=N", "so many virtual addresses, each with a TCP and a UDP virtual server, instead of one", CaseWord},
	{"rules=N", "so many virtual servers, and as many members, in the rules of the XDP program", CaseWord},
	{"before", "of an anchor: when a repetition begins", CaseWord},
	{"after", "of an anchor: when a repetition ends", CaseWord},
	{"direction=both", "every request is answered, and the answers that are back are counted; without it requests alone", CaseWord},
	{"mode=copy", "AF_XDP in native mode, frames copied; without a mode sluice takes the best that there is", CaseWord},
	{"mode=generic", "AF_XDP in generic mode, on the kernel's own packet buffers", CaseWord},
	{"mode=zero-copy", "AF_XDP in zero-copy mode, which the NIC's driver must have", CaseWord},
	{"proto=udp", "over UDP", CaseWord},
	{"proto=tcp", "over TCP", CaseWord},
	{"life=whole", "every connection lives its whole TCP life, from the SYN through both FINs to the last ACK", CaseWord},
	{"table=full", "the connection table is filled before, and new connections go on coming", CaseWord},
	{"load=idle", "nothing but the probes of round trips is on the way", CaseWord},
	{"load=half", "beside a load of half the rate that this carrier carries without loss", CaseWord},
	{"load=90", "beside a load of 90% of the rate that this carrier carries without loss", CaseWord},
	{"client=polling", "the client asks its socket again and again for the answer instead of sleeping until it is woken", CaseWord},
	{"cores=asleep", "a core with nothing to do halts and has to be woken, 30 us and more on a virtual machine; without it no core halts", CaseWord},
	{"other-core=busy", "a loop keeps the carriers' core busy, as sluice does by busy polling, while the kernel carries on the client's core", CaseWord},
	{"polling=busy", "sluice looks for packets without a pause and never sleeps", CaseWord},
	{"polling=adaptive", "sluice looks for packets for a moment, then sleeps until one comes", CaseWord},
	{"polling=interrupt", "sluice sleeps whenever there is no packet", CaseWord},
	{"http=keep-alive", "HTTP with all requests on the same 32 connections", CaseWord},
	{"http=close", "HTTP with a connection of its own for each request", CaseWord},
	{"placement=balancer-alone", "the carrier has a core for itself, client and server share the other", CaseWord},
	{"placement=client-alone", "the client has a core for itself, carrier and server share the other", CaseWord},
}

// Words are all words of names that scenarios give to cases.
func Words() []Word { return slices.Clone(words) }

// WordOf explains part number at, from 0, of the name of a case of a scenario, if the list has it.
func WordOf(scenario, part string, at int) (Word, bool) {
	kind := CaseWord
	switch {
	case at > 0:
	case scenario == "pipeline" || scenario == "scale":
		kind = ModeWord
	default:
		kind = CarrierWord
	}
	find := func(word string) int {
		return slices.IndexFunc(words, func(w Word) bool { return w.Kind == kind && w.Word == word })
	}
	i := find(part)
	if key, value, ok := strings.Cut(part, "="); i < 0 && ok {
		if _, err := strconv.Atoi(value); err == nil {
			i = find(key + "=N")
		}
	}
	if i < 0 {
		return Word{}, false
	}
	return words[i], true
}

// WordsOf are those that explain the names of the files' cases, in the order of the list; names that were given with --name come first.
func WordsOf(files []*File) (list []Word) {
	for _, f := range files {
		add := func(name string, measured bool) {
			for at, part := range strings.Split(name, "/") {
				w, ok := WordOf(f.Scenario, part, at)
				if !ok && measured && at == 0 && f.Scenario == "link" {
					w, ok = Word{part, "what lies between the two interfaces that were given, by the name that was given with --name", CarrierWord}, true
				}
				if ok && !slices.Contains(list, w) {
					list = append(list, w)
				}
			}
		}
		for i := range f.Results {
			add(f.Results[i].Case, true)
		}
		for _, s := range f.Skipped {
			add(s.Case, false)
		}
	}
	slices.SortStableFunc(list, func(a, b Word) int { return slices.Index(words, a) - slices.Index(words, b) })
	return list
}

// MetricsOf are those that any of the files has, in their order.
func MetricsOf(files []*File) (list []Metric) {
	all := map[string]bool{}
	for _, f := range files {
		for _, n := range f.Columns(Main, Detail, Stage) {
			all[n] = true
		}
	}
	for _, n := range inOrder(slices.Collect(maps.Keys(all))) {
		list = append(list, MetricOf(n))
	}
	return list
}
