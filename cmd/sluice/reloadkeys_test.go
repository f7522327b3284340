package main

import (
	"fmt"
	"strings"
	"testing"

	"sluice/ctl"
	"sluice/perf/lab"
)

// For every key of what an engine is built from, a reload with another value of it does what docs/CONFIG.md says: it is applied,
// or refused as one that needs a restart, and then nothing has changed.
func TestReloadOfEveryKey(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{engine: "workers: 1"})
	d := b.start()
	base := b.configText(settings{engine: "workers: 1"})
	// Where the example of a key would change nothing here, or cannot stand alone.
	values := map[string]string{
		"engine.driver": "asavie", "engine.cores": "[0]", "engine.workers": "2", "control.group": "54321", "control.admin-group": "54321",
		"control.listen": "127.0.0.1:8443", "ports[].interface": "inside2", "ports[].queues": "2",
	}
	tls := "{cert-file: /a, key-file: /b, client-ca-file: /c, admin-names: [x]}"
	client := ctl.NewClient(b.socket)
	defer client.Close()
	tried, restarts := 0, 0
	for _, k := range ctl.Keys() {
		section, key, _ := strings.Cut(k.Path, ".")
		value := k.Example
		if v := values[k.Path]; v != "" {
			value = v
		}
		if outer, inner, nested := strings.Cut(key, "."); nested { // of busy-poll, tls, vlans
			value = fmt.Sprintf("{%s: %s}", inner, value)
			if key = strings.TrimSuffix(outer, "[]"); key != outer {
				value = fmt.Sprintf("[{id: 10, %s: %s}]", inner, strings.TrimSuffix(strings.TrimPrefix(value, "{"+inner+": "), "}"))
			}
		}
		if key == "listen" || key == "tls" {
			key, value = "listen", "127.0.0.1:8443, tls: "+tls
		}
		var text string
		switch {
		case section == "engine" && key == "workers":
			text = strings.Replace(base, "{workers: 1}", "{workers: "+value+"}", 1)
		case section == "engine":
			text = strings.Replace(base, "{workers: 1}", fmt.Sprintf("{workers: 1, %s: %s}", key, value), 1)
		case section == "control" && key == "socket":
			text = strings.Replace(base, b.socket, b.socket+"2", 1)
		case section == "control":
			text = strings.Replace(base, "control:\n", fmt.Sprintf("control:\n  %s\n", strings.Replace(key+": "+value, ", tls", "\n  tls", 1)), 1)
		case section == "log":
			text = fmt.Sprintf("log: {%s: %s}\n%s", key, value, base)
		case section == "ports[]" && key == "vlans" && strings.HasPrefix(value, "[{id: 10, id"):
			text = strings.Replace(base, "interface: outside}", "interface: outside, vlans: [{id: 10}]}", 1)
		case section == "ports[]" && key == "name":
			text = strings.Replace(base, "{name: outside,", "{name: other,", 1)
		case section == "ports[]" && key == "interface":
			text = strings.Replace(base, "interface: outside}", "interface: "+value+"}", 1)
		case section == "ports[]":
			text = strings.Replace(base, "interface: outside}", fmt.Sprintf("interface: outside, %s: %s}", key, value), 1)
		default:
			continue // of entries that come and go: the tests of reloads have them
		}
		tried++
		b.write(text)
		before := b.generation()
		var v ctl.ReloadView
		err := client.Post(t.Context(), "/v1/reload", &v)
		// A VLAN comes with all of its keys, and that is what takes a restart.
		restart := ctl.KeyNeedsRestart(k.Path) || key == "vlans"
		switch {
		case restart:
			restarts++
			if err == nil || !strings.Contains(err.Error(), ctl.ErrNeedsRestart.Error()) || b.generation() != before {
				t.Errorf("%s: documented as one that needs a restart, but: %v, %+v", k.Path, err, v)
			}
		case err != nil:
			t.Errorf("%s: documented as applied, but: %v", k.Path, err)
		case len(v.Changes) == 0:
			t.Errorf("%s: %s changes nothing; give it another value in this test", k.Path, value)
		}
		if err == nil {
			b.write(base)
			ok(t, client.Post(t.Context(), "/v1/reload", &v))
		}
	}
	if tried < 40 || restarts < 25 {
		t.Errorf("%d keys were tried, %d of which need a restart", tried, restarts)
	}
	d.stop()
}
