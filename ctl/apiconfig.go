package ctl

import "net/http"

// ConfigView is the configuration in force: that of the file as it was last loaded, defaults included.
type ConfigView struct {
	File       string    `json:"file"`
	Generation uint64    `json:"generation"`
	Settings   []Setting `json:"settings"`
}

func (s *Server) config(w http.ResponseWriter, _ *http.Request) {
	s.mu.RLock()
	v := ConfigView{File: s.file.Name, Generation: s.engine.Config().Generation, Settings: s.file.Settings()}
	s.mu.RUnlock()
	reply(w, http.StatusOK, v)
}
