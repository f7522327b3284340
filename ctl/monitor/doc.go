// Package monitor judges whether the members of a pool work.
//
//	         due                         result                  change of verdict
//	heap ────────▶ at most Limit probes ────────▶ rise and fall ──────────────────▶ OnMonitor
//	  ▲              icmp tcp http https             │ per pair
//	  └── again ──── udp dns exec                    ▼
//	                                             all | any | at least n ──┐ change
//	handshakes seen by the workers ──▶ Passive ──────────────────────────▶ OnMember
//
// A Monitor is how to probe: a plain value that a configuration file maps to. A pair is one member with one monitor;
// it has a verdict of its own, up or down, that changes after Rise successes or Fall failures in a row. The verdict of
// a member combines those of its pairs. Passive adds what live traffic says: a member whose handshakes stay
// unanswered is held off, whatever its monitors say, for a time that doubles.
//
// The Checker owns all of this. One goroutine waits for the earliest probe in a heap, and a goroutine exists per
// probe under way, so an idle pair costs memory and nothing else. One lock guards all state; probes and callbacks run
// without it. Events pass through one queue, so callbacks are made one at a time and in the order of the decisions.
//
// Three things keep a configuration change from taking members out of service: an unchanged pair keeps verdict and
// schedule, a pair whose monitor changed keeps its verdict, and a combination that cannot be decided yet leaves the
// member's verdict as it is.
//
// Probes use ordinary sockets of the process's network namespace. So that they do not cross our own data path, their
// source must be an address of this host that is no virtual and no SNAT address: answers to those are the engine's.
//
// Files:
//
//	monitor.go       Monitor and its parts, defaults; validate.go, status.go: what is allowed
//	probe.go         one probe: Prober, Result; dial.go: source, interface, mark; cause.go, tlscause.go: errors as causes
//	icmp.go tcp.go http.go tls.go udp.go dns.go exec.go confine.go    the types
//	checker.go       Checker: life, events; apply.go: members come, change and go; schedule.go: when, and how many at once
//	pair.go          rise and fall; member.go: the combination; passive.go: live traffic; views.go: what lists show
package monitor
