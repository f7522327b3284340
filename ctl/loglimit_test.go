package ctl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Of a storm some lines are written, all are counted, and other messages are not held up; in text and JSON.
func TestLogLimit(t *testing.T) {
	for format, handler := range map[string]func(*syncedBuffer) slog.Handler{
		"text": func(b *syncedBuffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"json": func(b *syncedBuffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		t.Run(format, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out syncedBuffer
				log := slog.New(LimitLog(handler(&out)))
				count := func(word string) int { return strings.Count(out.String(), word) }
				for i := range 1000 {
					log.With("n", i).Warn("storm")
					if i%100 == 0 {
						log.WithGroup("g").Info("calm", "x", 1)
					}
				}
				if count("storm") != logBurst || count("calm") != 10 || count(NotLogged) != 0 {
					t.Fatalf("at once: %s", &out)
				}
				out.Reset()
				time.Sleep(time.Second) // ten more
				synctest.Wait()
				for range 18 {
					log.Warn("storm")
				}
				if count("storm") != logRate || !strings.Contains(out.String(), "900") {
					t.Errorf("a second later: %s", &out)
				}
				out.Reset()
				time.Sleep(2 * logQuiet)
				synctest.Wait()
				if count("storm") != 1 || !strings.Contains(out.String(), "8") {
					t.Errorf("what no line has told: %s", &out)
				}
				out.Reset()
				log.Error("storm") // of another level
				log.Warn("storm")
				if count("storm") != 2 || count(NotLogged) != 0 {
					t.Errorf("afterwards: %s", &out)
				}
				if format == "json" {
					for line := range strings.Lines(out.String()) {
						var v map[string]any
						if err := json.Unmarshal([]byte(line), &v); err != nil {
							t.Error(err)
						}
					}
				}
			})
		})
	}
	// Ever new messages do not fill the memory.
	synctest.Test(t, func(t *testing.T) {
		h := LimitLog(slog.DiscardHandler).(*limitedLog)
		for i := range 4 * logMessages {
			h.take(logKey{message: fmt.Sprint(i)})
			time.Sleep(time.Second)
		}
		if n := len(h.buckets); n > logMessages {
			t.Errorf("%d messages are remembered", n)
		}
	})
}

// syncedBuffer is written to by timers, too.
type syncedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *syncedBuffer) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Reset()
}
