// Package link measures what is carried between two real interfaces: by the product itself, run as a program of its own in
// a network namespace, and by what else could be used there.
//
//	            core 0                                core 1                        core 1
//	Live generator ──▶ client's eth0 ══ outside ──▶ carrier under test ──▶ inside ══ servers' eth0 ──▶ Sink
//	         Sink ◀──                                                                         answers ◀──
//
// The generator has a core and does there also the receive work of the wire up to the carrier's socket, or up to the
// kernel's receive thread. The carrier has the other, and does there also the work of the far end, which is small and the
// same for all. On a machine with more cores the rest is left alone.
//
// A carrier (carrier.go) is started, measured and stopped for every sample, and carriers take turns within a repetition, so
// that a machine that drifts drifts for all. What is reported are medians, and ratios taken within one repetition.
//
//	bed.go       the lab, the generator, where things run
//	carrier.go   what can carry; kernel.go, product.go, forwarder.go, haproxy.go say how each is brought up
//	measure.go   one sample: flat out, paced, and the loss-free rate by search
//	link.go, latency.go, connections.go, http.go   the scenarios
package link
