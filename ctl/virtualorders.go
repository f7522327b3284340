package ctl

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	"sluice/engine"
)

// A virtual server that an operator has disabled takes no new connections; those that it has go on. Like the orders about
// members it is written down before it is confirmed, and outlives reloads, restarts and kill -9.

// ErrNoVirtual is returned for an order about a virtual server that there is not.
var ErrNoVirtual = errors.New("no such virtual server")

// VirtualOrderView is the answer to an order about a virtual server.
type VirtualOrderView struct {
	Name   string `json:"name"`
	Action string `json:"action"`
}

// setVirtual changes whether a virtual server is disabled, and writes it down; on an error nothing has changed.
func (o *orderFile) setVirtual(name string, disabled bool) error {
	was := maps.Clone(o.virtuals)
	if _, already := o.virtuals[name]; already == disabled {
		return nil
	}
	if disabled {
		o.virtuals[name] = time.Now().Round(0)
	} else {
		delete(o.virtuals, name)
	}
	err := o.save()
	if err != nil {
		o.virtuals = was
	}
	return err
}

// keepVirtuals forgets the orders for virtual servers that f does not have.
func (o *orderFile) keepVirtuals(f *File) error {
	if o == nil || len(o.virtuals) == 0 {
		return nil
	}
	before := len(o.virtuals)
	maps.DeleteFunc(o.virtuals, func(name string, _ time.Time) bool { return f.VirtualServer(name) == nil })
	if len(o.virtuals) == before {
		return nil
	}
	return o.save()
}

// disabled is since when a virtual server is disabled.
func (o *orderFile) disabled(name string) (since time.Time, ok bool) {
	if o == nil {
		return time.Time{}, false
	}
	since, ok = o.virtuals[name]
	return since, ok
}

// compileVirtuals writes the orders into what the engine compiles. The caller has the lock.
func (h *health) compileVirtuals(spec *engine.Spec) {
	for i := range spec.Virtuals {
		_, spec.Virtuals[i].Disabled = h.orders.disabled(spec.Virtuals[i].Name)
	}
}

// tellVirtuals has the workers go by the orders. The caller has the lock.
func (h *health) tellVirtuals() error {
	if h.engine == nil {
		return nil // the first configuration will have them
	}
	var errs []error
	for _, v := range h.engine.Config().Virtuals() {
		_, disabled := h.orders.disabled(v.Name)
		errs = append(errs, h.engine.SetVirtual(v.ID, disabled))
	}
	return errors.Join(errs...)
}

// OrderVirtual disables a virtual server, or enables it again.
func (s *Server) OrderVirtual(name, action string) (*VirtualOrderView, error) {
	s.mu.RLock()
	known := s.file.VirtualServer(name) != nil
	s.mu.RUnlock()
	switch {
	case action != OrderDisable && action != OrderEnable:
		return nil, fmt.Errorf("unknown action %q; there are disable, enable", action)
	case !known:
		return nil, s.noVirtual(name)
	}
	h := s.health
	h.mu.Lock()
	err := h.orders.setVirtual(name, action == OrderDisable)
	if err == nil {
		err = h.tellVirtuals()
	}
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s.log.Info("ordered", "virtual_server", name, "order", action)
	return &VirtualOrderView{name, action}, nil
}

// noVirtual is the error about a name that no virtual server has.
func (s *Server) noVirtual(name string) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var names []string
	for i := range s.file.VirtualServers {
		names = append(names, s.file.VirtualServers[i].Name)
	}
	return fmt.Errorf("%w: %q%s; `sluice virtual` lists them", ErrNoVirtual, shorten(name), didYouMean(name, names))
}

func (s *Server) postVirtualOrder(w http.ResponseWriter, r *http.Request) {
	v, err := s.OrderVirtual(r.URL.Query().Get("name"), r.URL.Query().Get("action"))
	switch {
	case errors.Is(err, ErrNoVirtual):
		refuse(w, http.StatusNotFound, err)
	case err != nil:
		refuse(w, http.StatusBadRequest, err)
	default:
		reply(w, http.StatusOK, v)
	}
}

// serves reports whether a member that may serve v is such. The caller has the lock.
func (h *health) serves(f *File, v *VirtualServer, such func(*memberHealth) bool) (found bool) {
	f.eachServing(v, func(p *Pool) {
		for i := range p.Members {
			if found {
				return
			}
			m := h.members[memberKey{p.Name, p.Members[i].Name}]
			found = m != nil && such(m)
		}
	})
	return found
}
