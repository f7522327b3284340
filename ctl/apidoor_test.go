package ctl

import (
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"sluice/engine"
)

// Requests whose bodies do not come take no place from others, however many there are: their connections go first.
func TestDoorStalledRequests(t *testing.T) {
	b := newAPIBed(t, apiBedConfig, nil, engine.PollAdaptive)
	for range maxGuests + 20 {
		c, err := net.Dial("unix", b.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
	}
	time.Sleep(200 * time.Millisecond) // they are all being read
	for range 5 {
		if resp, _ := b.do("GET", "/v1/drops", nil); resp.StatusCode != http.StatusOK {
			t.Error(resp.Status)
		}
	}
}
