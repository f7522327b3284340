//go:build !amd64

package engine

import "sluice/rewrite"

func (w *worker) changeMany(_ *changes, set uint64) uint64 { return set }

func tcpOf(pkts *[burstSize]rewrite.Packet, from, to int) uint64 { return tcpEach(pkts, from, to) }
