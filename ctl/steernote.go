package ctl

import (
	"errors"
	"fmt"
	"slices"

	"sluice/rings"
)

// placedSteering is how an interface spread packets before we changed that.
type placedSteering struct {
	Index  int
	MAC    [6]byte
	Queues int
	Before rings.RSS
}

// noteSteering writes down what an interface does before it is changed, unless that is known already.
func (s *kernelState) noteSteering(f *iface, before rings.RSS) error {
	if slices.ContainsFunc(s.Steering, func(p placedSteering) bool { return p.Index == f.index && p.MAC == f.mac }) {
		return nil
	}
	s.Steering = append(s.Steering, placedSteering{f.index, f.mac, f.queues, before})
	return s.save()
}

// restoreSteering puts back what the noted interfaces did, or only that of ifname, if it is not empty, and returns which. What
// is tried is no longer noted; one that is gone has taken its settings with it.
func (s *kernelState) restoreSteering(ifname string) (restored []string, err error) {
	if len(s.Steering) == 0 {
		return nil, nil
	}
	n := s.nics
	if n == nil {
		if n, err = kernelNICs(); err != nil {
			return nil, err
		}
	}
	var errs []error
	var kept []placedSteering
	for _, p := range s.Steering {
		name := n.find(p.Index, p.MAC)
		if ifname != "" && name != ifname {
			kept = append(kept, p)
			continue
		}
		if name == "" {
			continue
		}
		if err := n.restore(name, &p.Before, p.Queues); err != nil {
			errs = append(errs, fmt.Errorf("restore the steering of %s: %w", name, err))
			continue
		}
		restored = append(restored, name)
	}
	s.Steering = kept
	return restored, errors.Join(append(errs, s.save())...)
}
