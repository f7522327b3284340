package ctl

import "net/http"

// ConfigView is the configuration in force: that of the file as it was last loaded, defaults included, and what operators have
// ordered beside it.
type ConfigView struct {
	File       string        `json:"file"`
	Generation uint64        `json:"generation"`
	Settings   []Setting     `json:"settings"` // of the file
	Ordered    []OrderedView `json:"ordered"`  // what stands before them, until it is taken back
}

func (s *Server) config(w http.ResponseWriter, _ *http.Request) {
	s.mu.RLock()
	v := ConfigView{File: s.file.Name, Generation: s.engine.Config().Generation, Settings: s.file.Settings(), Ordered: s.health.ordered()}
	s.mu.RUnlock()
	reply(w, http.StatusOK, v)
}
