package ctl

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/engine"
)

// PersistenceView is a persistence with its counters.
type PersistenceView struct {
	Name      string   `json:"name"`
	Type      string   `json:"type"`
	Prefix4   int      `json:"prefix_v4"`
	Prefix6   int      `json:"prefix_v6"`
	TimeoutMS uint64   `json:"timeout_ms"`
	Virtuals  []string `json:"virtual_servers"`
	Entries   uint64   `json:"entries"`
	Limit     int      `json:"entries_limit"`
	Hits      uint64   `json:"hits"`
	Misses    uint64   `json:"misses"`
	Moved     uint64   `json:"moved"`
	Elsewhere uint64   `json:"elsewhere"`
	Refused   uint64   `json:"refused"`
	Full      uint64   `json:"full"`
	Evicted   uint64   `json:"evicted"`
}

// PersistenceEntryView is an entry.
type PersistenceEntryView struct {
	Persistence string `json:"persistence"`
	Client      string `json:"client"` // address, or prefix
	Pool        string `json:"pool"`
	Member      string `json:"member"`
	Server      string `json:"server"`
	Worker      int    `json:"worker"`
	IdleMS      uint64 `json:"idle_ms"`
	ExpiresMS   uint64 `json:"expires_ms"`
}

func (s *Server) persistenceViews(snaps []engine.Snapshot) []PersistenceView {
	out := []PersistenceView{}
	for _, p := range s.engine.Config().Persistences() {
		var sum engine.PersistenceStats
		for i := range snaps {
			if int(p.ID) < len(snaps[i].Persistence) {
				sum.Add(&snaps[i].Persistence[p.ID])
			}
		}
		v := PersistenceView{
			Name: p.Name, Type: string(SourceAddress), Prefix4: p.Bits4, Prefix6: p.Bits6, TimeoutMS: uint64(p.Timeout), Virtuals: []string{},
			Entries: sum.Entries, Limit: p.Entries, Hits: sum.Hits, Misses: sum.Misses, Moved: sum.Moved, Elsewhere: sum.Elsewhere,
			Refused: sum.Refused, Full: sum.Full, Evicted: sum.Evicted,
		}
		for i := range s.file.VirtualServers {
			if s.file.VirtualServers[i].Persistence == p.Name {
				v.Virtuals = append(v.Virtuals, s.file.VirtualServers[i].Name)
			}
		}
		out = append(out, v)
	}
	return out
}

func persistenceEntryView(e *engine.PersistenceEntry) PersistenceEntryView {
	client := e.Client.String()
	if e.Client.IsSingleIP() {
		client = e.Client.Addr().String()
	}
	return PersistenceEntryView{
		Persistence: e.Persistence, Client: client, Pool: e.Pool, Member: e.Member, Server: e.Server.String(),
		Worker: e.Worker, IdleMS: e.IdleMS, ExpiresMS: e.LeftMS,
	}
}

var persistenceFilters = []param{
	{name: "persistence", kind: textParam, text: "Only those of the persistence of this name."},
	{name: "client", kind: textParam, text: "Only that of this client, or those in this network: an address, or a prefix."},
	{name: "member", kind: textParam, text: "Only those of this member: its name or address."},
}

// persistenceRoutes are what the API says and does about persistence.
func (s *Server) persistenceRoutes(limit param) []apiRoute {
	return []apiRoute{
		{method: http.MethodGet, path: "/v1/persistences", summary: "persistences, and what became of connections by them", role: RoleRead, answer: []PersistenceView{}, watch: true,
			handle: s.withSnapshots(func(n []engine.Snapshot) any { return s.persistenceViews(n) })},
		{method: http.MethodGet, path: "/v1/persistences/entries", summary: "which member clients go to", role: RoleRead, answer: []PersistenceEntryView{}, scans: true, handle: s.persistenceEntries,
			params: append(slices.Clip(persistenceFilters), limit)},
		{method: http.MethodDelete, path: "/v1/persistences/entries", summary: "forget which member clients had: those that a filter names, or all", role: RoleAdmin, answer: DeletedView{}, scans: true, handle: s.deletePersistence,
			params: append(slices.Clip(persistenceFilters), limit, param{name: "all", kind: flagParam, text: "Every entry."})},
	}
}

func (s *Server) persistenceEntries(w http.ResponseWriter, r *http.Request) {
	match, limit, err := persistenceFilter(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	list, err := s.engine.PersistenceEntries(ctx, limit, match)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	out := make([]PersistenceEntryView, len(list))
	for i := range list {
		out[i] = persistenceEntryView(&list[i])
	}
	reply(w, http.StatusOK, out)
}

// deletePersistence removes the entries that match. Without a filter it refuses: all is said by all=true.
func (s *Server) deletePersistence(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	match, limit, err := persistenceFilter(r)
	if q.Get("limit") == "" {
		limit = math.MaxInt
	}
	filtered := slices.ContainsFunc(persistenceFilters, func(p param) bool { return q.Get(p.name) != "" })
	if err == nil && !filtered && q.Get("all") != "true" {
		err = errors.New("say which entries, by persistence, client or member, or all")
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	n, err := s.engine.DeletePersistence(ctx, limit, match)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	reply(w, http.StatusOK, DeletedView{n})
}

// persistenceFilter reads persistence, client, member and limit. A client is an address, whose entry is meant, or a prefix, in
// which entries are meant; a member its name or address.
func persistenceFilter(r *http.Request) (match func(*engine.PersistenceEntry) bool, limit int, err error) {
	q := r.URL.Query()
	limit = 100
	if l := q.Get("limit"); l != "" {
		limit, _ = strconv.Atoi(l) // a number: the guard has looked
	}
	var addr netip.Addr
	var in netip.Prefix
	if c := q.Get("client"); c != "" {
		if addr, err = netip.ParseAddr(c); err != nil {
			if in, err = netip.ParsePrefix(c); err != nil {
				return nil, 0, fmt.Errorf("client %q is neither an address nor a prefix", c)
			}
			in = in.Masked()
		}
		addr = addr.Unmap()
	}
	name, member := q.Get("persistence"), canonical(q.Get("member"))
	return func(e *engine.PersistenceEntry) bool {
		return (name == "" || e.Persistence == name) && (member == "" || e.Member == member || e.Server.String() == member) &&
			(!addr.IsValid() || e.Client.Contains(addr)) && (!in.IsValid() || in.Overlaps(e.Client))
	}, limit, nil
}

var (
	persistenceLabels = []string{"persistence"}

	descPersistenceEntries   = desc("persistence_entries", "Clients that are remembered.", persistenceLabels...)
	descPersistenceLimit     = desc("persistence_entries_limit", "Clients that can be remembered.", persistenceLabels...)
	descPersistenceHits      = desc("persistence_hits_total", "Connections that went to their client's member.", persistenceLabels...)
	descPersistenceMisses    = desc("persistence_misses_total", "Connections of clients that were not remembered.", persistenceLabels...)
	descPersistenceMoved     = desc("persistence_moved_total", "Clients that got another member.", persistenceLabels...)
	descPersistenceElsewhere = desc("persistence_elsewhere_total", "Connections that went to another member while their client keeps its own.", persistenceLabels...)
	descPersistenceRefused   = desc("persistence_refused_total", "Connections refused because their client's member does not take them, or there is no room to remember it.", persistenceLabels...)
	descPersistenceFull      = desc("persistence_full_total", "Clients that found no room to be remembered.", persistenceLabels...)
	descPersistenceEvicted   = desc("persistence_evicted_total", "Clients that were forgotten for others.", persistenceLabels...)
)

// collectPersistence sends the metrics of persistence.
func (s *Server) collectPersistence(snaps []engine.Snapshot, gauge func(*prometheus.Desc, float64, ...string), count func(*prometheus.Desc, uint64, ...string)) {
	for _, v := range s.persistenceViews(snaps) {
		gauge(descPersistenceEntries, float64(v.Entries), v.Name)
		gauge(descPersistenceLimit, float64(v.Limit), v.Name)
		count(descPersistenceHits, v.Hits, v.Name)
		count(descPersistenceMisses, v.Misses, v.Name)
		count(descPersistenceMoved, v.Moved, v.Name)
		count(descPersistenceElsewhere, v.Elsewhere, v.Name)
		count(descPersistenceRefused, v.Refused, v.Name)
		count(descPersistenceFull, v.Full, v.Name)
		count(descPersistenceEvicted, v.Evicted, v.Name)
	}
}
