package ctl

import (
	"time"

	"sluice/engine"
)

// StatsView is everything that lists show, at one moment. Rates are differences of two of them, divided by those of their times.
type StatsView struct {
	At       string        `json:"at"`    // RFC 3339, with nanoseconds
	AtMS     float64       `json:"at_ms"` // since the engine began, for rates
	Status   StatusView    `json:"status"`
	Virtuals []VirtualView `json:"virtuals"`
	Pools    []PoolView    `json:"pools"`
	Members  []MemberView  `json:"members"`
	Workers  []WorkerView  `json:"workers"`
	Ports    []PortView    `json:"ports"`
	Drops    []DropView    `json:"drops"`

	Persistences []PersistenceView `json:"persistences"`
}

func (s *Server) statsView(snaps []engine.Snapshot) StatsView {
	sum := total(snaps)
	now := time.Now()
	return StatsView{
		At: now.Format(time.RFC3339Nano), AtMS: float64(now.Sub(s.began).Microseconds()) / 1000,
		Status: s.statusView(snaps), Virtuals: s.virtualViews(snaps), Pools: s.poolViews(snaps), Members: s.memberViews(snaps),
		Workers: s.workerViews(snaps), Ports: s.portViews(snaps), Drops: Drops(&sum),
		Persistences: s.persistenceViews(snaps),
	}
}
