package ctl

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Limits of the log: of the same message so many lines at once, and so many a second. A storm of one thing must neither fill
// the disk nor hide the others.
const (
	logBurst    = 100
	logRate     = 10 // a second
	logMessages = 256
)

// NotLogged is the attribute that counts what was left out.
const NotLogged = "not_logged"

// limitedLog is a slog.Handler that leaves out what is said too often, by message and level, and says how much it was: with the
// next line of that message, or after logQuiet on a line of its own.
type limitedLog struct {
	next slog.Handler
	*logLimits
}

// logQuiet is how long a count of lines left out waits for the next line of its message.
const logQuiet = 5 * time.Second

// logLimits are shared by all handlers that a limitedLog was made into by With and WithGroup.
type logLimits struct {
	root slog.Handler // for counts on their own
	now  func() time.Time

	mu      sync.Mutex
	buckets map[logKey]*logBucket
}

type logKey struct {
	level   slog.Level
	message string
}

type logBucket struct {
	tokens  float64
	at      time.Time // of tokens
	left    int       // lines left out
	pending bool      // their count will be written
}

// LimitLog limits what goes to a handler.
func LimitLog(h slog.Handler) slog.Handler {
	return &limitedLog{h, &logLimits{root: h, now: time.Now, buckets: map[logKey]*logBucket{}}}
}

// Enabled is slog.Handler's.
func (l *limitedLog) Enabled(ctx context.Context, level slog.Level) bool {
	return l.next.Enabled(ctx, level)
}

// WithAttrs is slog.Handler's.
func (l *limitedLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &limitedLog{l.next.WithAttrs(attrs), l.logLimits}
}

// WithGroup is slog.Handler's.
func (l *limitedLog) WithGroup(name string) slog.Handler {
	return &limitedLog{l.next.WithGroup(name), l.logLimits}
}

// Handle is slog.Handler's.
func (l *limitedLog) Handle(ctx context.Context, r slog.Record) error {
	left, ok := l.take(logKey{r.Level, r.Message})
	if !ok {
		return nil
	}
	if left > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int(NotLogged, left))
	}
	return l.next.Handle(ctx, r)
}

// take reports whether a line may be written, and how many of its message were left out before it.
func (l *logLimits) take(k logKey) (left int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	b := l.buckets[k]
	if b == nil {
		l.forget(now)
		b = &logBucket{tokens: logBurst, at: now}
		l.buckets[k] = b
	}
	b.fill(now)
	if b.tokens >= 1 {
		b.tokens--
		left, b.left = b.left, 0
		return left, true
	}
	b.left++
	if !b.pending {
		b.pending = true
		time.AfterFunc(logQuiet, func() { l.tell(k, b) })
	}
	return 0, false
}

func (b *logBucket) fill(now time.Time) {
	b.tokens = min(logBurst, b.tokens+logRate*now.Sub(b.at).Seconds())
	b.at = now
}

// tell writes the count of lines that no later one has told.
func (l *logLimits) tell(k logKey, b *logBucket) {
	l.mu.Lock()
	left, now := b.left, l.now()
	b.left, b.pending = 0, false
	l.mu.Unlock()
	if left == 0 {
		return
	}
	r := slog.NewRecord(now, k.level, k.message, 0)
	r.AddAttrs(slog.Int(NotLogged, left))
	_ = l.root.Handle(context.Background(), r) // as for every line, there is nowhere to say that the log fails
}

// forget makes room for another message: of those that are not limited now nothing is lost.
func (l *logLimits) forget(now time.Time) {
	if len(l.buckets) < logMessages {
		return
	}
	for k, b := range l.buckets {
		if b.fill(now); b.tokens >= logBurst && b.left == 0 {
			delete(l.buckets, k)
		}
	}
}
