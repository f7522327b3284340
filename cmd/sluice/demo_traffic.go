package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"sluice/ctl"
)

// A wave is n requests of one kind, each over a connection of its own, and who answered them.
type wave struct {
	name  string
	count map[string]int
	took  time.Duration
}

const (
	demoClients  = 4 // requests at once
	demoTimeout  = 5 * time.Second
	firstUDPPort = 20_000
)

// traffic sends HTTP requests and UDP queries over both families and checks that every server answered its share.
func (d *demo) traffic(ctx context.Context) error {
	var before, after ctl.StatusView
	if err := ctl.Get(ctx, d.socket, "/v1/status", &before); err != nil {
		return err
	}
	start := time.Now()
	var waves []wave
	for _, k := range []struct {
		name, target string
		ask          func(context.Context, string) (string, error)
	}{
		{"HTTP over IPv4", "10.10.1.100:80", d.askHTTP},
		{"HTTP over IPv6", "[fd00:10:10:1::100]:80", d.askHTTP},
		{"UDP over IPv4", "10.10.1.100:53", d.askUDP},
		{"UDP over IPv6", "[fd00:10:10:1::100]:53", d.askUDP},
	} {
		v, err := d.send(ctx, k.name, k.target, k.ask)
		if err != nil {
			return fmt.Errorf("%s to %s: %w", k.name, k.target, err)
		}
		waves = append(waves, v)
	}
	took := time.Since(start)
	if err := ctl.Get(ctx, d.socket, "/v1/status", &after); err != nil {
		return err
	}
	fmt.Fprintf(d.w, "\n%-16s %9s %9s %9s %9s %14s\n", "", "server 1", "server 2", "server 3", "server 4", "requests/s")
	for _, v := range waves {
		fmt.Fprintf(d.w, "%-16s", v.name)
		for i := 1; i <= 4; i++ {
			fmt.Fprintf(d.w, " %9d", v.count[fmt.Sprintf("server %d", i)])
		}
		fmt.Fprintf(d.w, " %14.0f\n", float64(d.requests)/v.took.Seconds())
	}
	t := after.Totals
	fmt.Fprintf(d.w, "\n%d connections, %d packets received, %d to servers, %d to clients, %d to the host, %d dropped\n",
		t.Opened-before.Totals.Opened, t.Received-before.Totals.Received, t.ToServer, t.ToClient, t.ToHost, t.Dropped)
	fmt.Fprintf(d.w, "%.0f connections/s, %.0f packets/s (one request a connection, %d clients; %s)\n",
		float64(t.Opened-before.Totals.Opened)/took.Seconds(), float64(t.Received-before.Totals.Received)/took.Seconds(), demoClients, cpuNote())
	for _, v := range waves {
		for i := 1; i <= 4; i++ {
			if got, want := v.count[fmt.Sprintf("server %d", i)], d.requests/4; got < want || got > want+1 {
				return fmt.Errorf("%s: server %d answered %d of %d requests, which is not its turn", v.name, i, got, d.requests)
			}
		}
	}
	return nil
}

func (d *demo) send(ctx context.Context, name, target string, ask func(context.Context, string) (string, error)) (wave, error) {
	v := wave{name: name, count: map[string]int{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var first error
	todo := make(chan struct{}, d.requests)
	for range d.requests {
		todo <- struct{}{}
	}
	close(todo)
	start := time.Now()
	for range demoClients {
		wg.Go(func() {
			for range todo {
				who, err := ask(ctx, target)
				mu.Lock()
				if err != nil && first == nil {
					first = err
				}
				stop := first != nil
				v.count[who]++
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	wg.Wait()
	v.took = time.Since(start)
	return v, first
}

func (d *demo) askHTTP(ctx context.Context, target string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	conn, err := d.net.Client.Dial(ctx, "tcp", target)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return get(conn, target, true)
}

// get makes one HTTP request on conn and returns the answer's body.
func get(conn net.Conn, host string, last bool) (string, error) {
	_ = conn.SetDeadline(time.Now().Add(demoTimeout))
	req, err := http.NewRequest(http.MethodGet, "http://"+host+"/", nil)
	if err != nil {
		return "", err
	}
	req.Close = last
	if err := req.Write(conn); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body)), err
}

// askUDP uses a source port only once: datagrams of one tuple are one connection and go to one server.
func (d *demo) askUDP(ctx context.Context, target string) (string, error) {
	from := d.net.Client4
	if strings.HasPrefix(target, "[") {
		from = d.net.Client6
	}
	port := firstUDPPort + uint16(d.udpPort.Add(1))
	conn, err := d.net.Client.DialFrom(ctx, "udp", netip.AddrPortFrom(from, port), target)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(demoTimeout))
	const query = "query"
	if _, err := conn.Write([]byte(query)); err != nil {
		return "", err
	}
	var b [512]byte
	n, err := conn.Read(b[:])
	if err != nil {
		return "", err
	}
	who, echoed, _ := strings.Cut(string(b[:n]), " "+query)
	if echoed != "" {
		return "", fmt.Errorf("the echo came back as %q", b[:n])
	}
	return who, nil
}

// show opens the connection of the classic figure and prints its entry in the table.
func (d *demo) show(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	from := netip.AddrPortFrom(d.net.Client4, 4003)
	conn, err := d.net.Client.DialFrom(ctx, "tcp", from, "10.10.1.100:80")
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := get(conn, "10.10.1.100", false); err != nil {
		return err
	}
	conns := []ctl.ConnView{}
	if err := ctl.Get(ctx, d.socket, "/v1/connections?client="+from.String(), &conns); err != nil {
		return err
	}
	if len(conns) != 1 {
		return fmt.Errorf("%d entries for %s in the connection table", len(conns), from)
	}
	fmt.Fprintf(d.w, "\none connection (sluice conn show %s)\n", from)
	printNine(d.w, &conns[0])
	return nil
}
