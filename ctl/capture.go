package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"sluice/engine"
)

// A capture is an answer that goes on: a pcapng file with two interfaces, packets as they came and as they went, each with a
// comment that says what has become of it. It ends when a bound is reached, or when the client is gone. The counts come in the
// trailer.

// CaptureStats are what became of the packets that workers received during a capture.
type CaptureStats struct {
	engine.CaptureStats
	Written uint64 `json:"written"` // packets, in the file
	Bytes   uint64 `json:"bytes"`   // of their frames
	End     string `json:"end"`     // count | duration | bytes | stopped | takeover | shutdown | client: it was gone | why the engine could not go on
}

// The bounds of a capture.
const (
	DefaultCaptureDuration = time.Minute
	MaxCaptureDuration     = 24 * time.Hour
	DefaultCaptureCount    = 10_000
	DefaultCaptureBytes    = 256 << 20
	DefaultCaptureRing     = 4 << 20
	maxCaptureRing         = 256 << 20
	captureTrailer         = "Sluice-Capture"
	// captureRest is how long a capture waits that has found nothing: a worker's ring is to hold what comes in that time.
	captureRest = 5 * time.Millisecond
	// captureWrite is how long a client may stand still.
	captureWrite = 10 * time.Second
)

// Why a capture ends when somebody ends it.
const (
	endStopped  = "stopped"
	endTakeover = "takeover"
	endShutdown = "shutdown"
)

// The interfaces of the file.
const (
	captureBefore = iota
	captureAfter
)

// captureRequest is what a client asks for.
type captureRequest struct {
	engine.CaptureOptions
	count, bytes uint64
	duration     time.Duration
}

// parseCapture reads the parameters of GET /v1/capture.
func parseCapture(p url.Values) (r captureRequest, err error) {
	number := func(name string, otherwise, least, most int) (n int) {
		text := p.Get(name)
		if text == "" || err != nil {
			return otherwise
		}
		if n, err = strconv.Atoi(text); err != nil || n < least || n > most {
			err = fmt.Errorf("%s %q is not a number from %d to %d", name, text, least, most)
		}
		return n
	}
	const many = 1 << 40
	r.count, r.bytes = uint64(number("count", DefaultCaptureCount, 1, many)), uint64(number("bytes", DefaultCaptureBytes, 1, many))
	r.Snap, r.Sample = number("snap", 0, 0, 1<<16), number("sample", 1, 1, 1<<30)
	r.RingBytes = number("ring", DefaultCaptureRing, 1<<14, maxCaptureRing)
	r.Filter.Worker = number("worker", -1, 0, engine.Bins)
	if err != nil {
		return r, err
	}
	r.duration = DefaultCaptureDuration
	if d := p.Get("duration"); d != "" {
		if r.duration, err = time.ParseDuration(d); err != nil || r.duration <= 0 || r.duration > MaxCaptureDuration {
			return r, fmt.Errorf("duration %q is not a time such as 30s, at most %s", d, MaxCaptureDuration)
		}
	}
	f := &r.Filter
	f.Virtual, f.Member, f.Reason, f.Port = p.Get("virtual"), p.Get("member"), p.Get("reason"), p.Get("port")
	if f.Reason != "" && !slices.Contains(DropReasons(), f.Reason) {
		return r, fmt.Errorf("no drop reason %q%s; `sluice drop --all` lists them", shorten(f.Reason), didYouMean(f.Reason, DropReasons()))
	}
	switch d := p.Get("drops"); d {
	case "", "false":
	case "true":
		f.Drops = true
	default:
		return r, fmt.Errorf("drops %q is neither true nor false", d)
	}
	if name := p.Get("protocol"); name != "" {
		if f.Proto, err = parseProtocol(name); err != nil {
			return r, err
		}
	}
	if len(p["end"]) > 2 {
		return r, errors.New("a packet has two ends: end is given once or twice")
	}
	for _, text := range p["end"] {
		end, failed := netip.ParseAddrPort(text)
		if failed != nil {
			a, failed := netip.ParseAddr(strings.Trim(text, "[]"))
			if failed != nil {
				return r, fmt.Errorf("end %q is neither an address nor ADDRESS:PORT (IPv6: [ADDRESS]:PORT)", text)
			}
			end = netip.AddrPortFrom(a, 0)
		}
		f.Ends = append(f.Ends, netip.AddrPortFrom(end.Addr().Unmap(), end.Port()))
	}
	return r, nil
}

// capture answers GET /v1/capture.
func (s *Server) capture(w http.ResponseWriter, r *http.Request) {
	q, err := parseCapture(r.URL.Query())
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	ask, cancel := context.WithTimeout(r.Context(), askTimeout)
	c, err := s.engine.Capture(ask, q.CaptureOptions)
	cancel()
	switch {
	case errors.Is(err, engine.ErrCapturing):
		refuse(w, http.StatusConflict, errors.New("another capture goes on: `sluice capture list` tells whose, `sluice capture stop` ends it"))
		return
	case errors.Is(err, engine.ErrStopped), errors.Is(err, context.DeadlineExceeded):
		refuse(w, http.StatusServiceUnavailable, err)
		return
	case err != nil:
		refuse(w, http.StatusBadRequest, err)
		return
	}
	// The server's bounds are for answers that end.
	ctl := http.NewResponseController(w)
	_ = ctl.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/x-pcapng")
	w.Header().Set("Trailer", captureTrailer)
	stop, begun := s.captures.begin(captureView(s.access.peerOf(r.Context(), r.TLS), r.URL.Query(), &q))
	if !begun {
		refuse(w, http.StatusServiceUnavailable, errors.Join(engine.ErrStopped, c.Close()))
		return
	}
	sink := captureSink{w: w, ctl: ctl, q: &q, stop: stop}
	stats := sink.run(r.Context(), c)
	if err := c.Close(); err != nil { // another one may begin
		s.log.Warn("a worker has not ended a capture", "error", err)
	}
	s.captures.end(stop) // whoever is told that none goes on can have one
	if b, err := json.Marshal(stats); err == nil {
		w.Header().Set(captureTrailer, string(b))
	}
}

// captureSink writes what comes.
type captureSink struct {
	w       http.ResponseWriter
	ctl     *http.ResponseController
	q       *captureRequest
	out     *pcapgo.NgWriter
	stop    *captureStop
	offset  time.Duration // of the time of day from the engine's clock
	written uint64
	bytes   uint64
	err     error
}

// run writes until a bound is reached or the client is gone, and returns the counts, which are final.
func (s *captureSink) run(ctx context.Context, c *engine.Capture) (stats CaptureStats) {
	deadline := time.Now().Add(s.q.duration)
	s.offset = time.Duration(wallTime(0).UnixNano())
	s.begin()
	end := ""
	for end == "" {
		n, err := c.Read(ctx, s.packet)
		switch {
		case s.err != nil || ctx.Err() != nil || err != nil:
			end = "client"
			if err != nil && ctx.Err() == nil {
				end = err.Error()
			}
		case s.written >= s.q.count:
			end = "count"
		case s.bytes >= s.q.bytes:
			end = "bytes"
		case time.Now().After(deadline):
			end = "duration"
		}
		if n > 0 && end == "" && !s.stopped() {
			continue
		}
		s.flush()
		if end != "" {
			break
		}
		select {
		case <-ctx.Done():
		case <-s.stop.said:
			end = s.stop.why
		case <-time.After(captureRest):
		}
	}
	_ = c.Stop() // Close says it again
	switch end {
	case "duration", endStopped, endTakeover, endShutdown:
		for n := 1; n > 0 && s.err == nil; { // what workers had captured by then
			n, _ = c.Read(ctx, s.packet)
		}
	}
	stats = CaptureStats{CaptureStats: c.Stats(), Written: s.written, Bytes: s.bytes, End: end}
	s.finish(stats)
	return stats
}

// stopped reports whether somebody has ended the capture.
func (s *captureSink) stopped() bool {
	select {
	case <-s.stop.said:
		return true
	default:
		return false
	}
}

func (s *captureSink) begin() {
	before := pcapgo.NgInterface{Name: "before", Description: "packets as they arrived", OS: "Linux", LinkType: layers.LinkTypeEthernet, SnapLength: uint32(s.q.Snap), TimestampResolution: 9}
	after := before
	after.Name, after.Description = "after", "the same packets as they left"
	options := pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "sluice " + Version, OS: "Linux"}}
	if s.out, s.err = pcapgo.NewNgWriterInterface(s.w, before, options); s.err == nil {
		_, s.err = s.out.AddInterface(after)
	}
	s.flush()
}

// packet writes both sides of one.
func (s *captureSink) packet(p *engine.Captured) bool {
	if s.err != nil {
		return false
	}
	at, comment := time.Unix(0, int64(s.offset)+int64(p.Micros)*1000), []string{p.Text()}
	write := func(side int, data []byte, length int) {
		if s.err != nil {
			return
		}
		ci := gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(data), Length: length, InterfaceIndex: side}
		s.err = s.out.WritePacketWithOptions(ci, data, pcapgo.NgPacketOptions{Comments: comment})
		s.bytes += uint64(len(data))
	}
	_ = s.ctl.SetWriteDeadline(time.Now().Add(captureWrite)) // the writer's buffer may run over at any packet
	write(captureBefore, p.Before, p.BeforeLen)
	if p.After != nil {
		write(captureAfter, p.After, p.AfterLen)
	}
	s.written++
	return s.err == nil && s.written < s.q.count && s.bytes < s.q.bytes
}

func (s *captureSink) flush() {
	if s.err != nil {
		return
	}
	_ = s.ctl.SetWriteDeadline(time.Now().Add(captureWrite))
	if s.err = s.out.Flush(); s.err == nil {
		s.err = s.ctl.Flush()
	}
}

// finish writes what was lost where readers of the file look for it.
func (s *captureSink) finish(c CaptureStats) {
	if s.err != nil {
		return
	}
	_ = s.ctl.SetWriteDeadline(time.Now().Add(captureWrite))
	s.err = s.out.WriteInterfaceStats(captureBefore, pcapgo.NgInterfaceStatistics{LastUpdate: time.Now(), PacketsReceived: c.Seen, PacketsDropped: c.Lost})
	s.flush()
}

// Capture asks for a capture and writes the file to w as it comes. It calls begun when workers capture. The counts are those
// that came at the end.
func (c *Client) Capture(ctx context.Context, q url.Values, w io.Writer, begun func()) (stats CaptureStats, err error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/capture?"+q.Encode())
	if err != nil {
		return stats, err
	}
	defer resp.Body.Close()
	begun()
	if _, err = io.Copy(&wholeBlocks{w: w}, resp.Body); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
		return stats, err
	}
	t := resp.Trailer.Get(captureTrailer)
	if t == "" {
		return stats, errors.New("the capture was cut off, its counts did not come: sluice has ended abruptly, or the connection to it; the packets up to there are whole")
	}
	return stats, json.Unmarshal([]byte(t), &stats)
}
