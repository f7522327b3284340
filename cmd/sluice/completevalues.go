package main

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

// A command line that is not finished yet is read as far as it goes: the command, the flags with their values, the arguments. What
// may come next are commands, flags, words that the program knows, and names that the running engine knows, if it answers soon. Where
// there is nothing the shell offers files.

// nameTime is how long the engine may take to tell its names: who has pressed the key waits.
const nameTime = 500 * time.Millisecond

// unfinished is a command line up to the cursor.
type unfinished struct {
	ctx    context.Context
	path   string // words of the command
	at     *cli.Command
	flags  []cli.Flag
	values map[string]string // of flags, by their first name
	args   []string
	open   cli.Flag // it waits for its value
	next   []*cli.Command
}

// complete lists what the last of words may become.
func complete(ctx context.Context, app *cli.App, words []string) (out []string) {
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	u := &unfinished{ctx: ctx, next: app.Commands, values: map[string]string{}}
	for _, w := range words[:len(words)-1] {
		u.read(w)
	}
	before := "" // part of the word that stays
	if name, _, joined := strings.Cut(last, "="); joined && strings.HasPrefix(last, "-") && u.open == nil {
		if f := flagNamed(u.flags, trimDashes(name)); f != nil && takesValue(f) {
			u.open, before = f, name+"="
		}
	}
	switch {
	case u.open != nil:
		out = u.flagValues(u.open)
	case strings.HasPrefix(last, "-"):
		for _, f := range u.flags {
			if name := "--" + f.Names()[0]; !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
		out = append(out, "--help")
	default:
		for _, c := range u.next {
			if !c.Hidden && c.Name != "help" {
				out = append(out, c.Name)
			}
		}
		if u.at != nil {
			out = append(out, u.arguments()...)
		}
	}
	var fit []string
	for _, w := range out {
		if w = before + w; strings.HasPrefix(w, last) && !slices.Contains(fit, w) {
			fit = append(fit, w)
		}
	}
	return fit
}

// read takes a word that is finished.
func (u *unfinished) read(w string) {
	switch {
	case u.open != nil:
		u.values[u.open.Names()[0]], u.open = w, nil
	case strings.HasPrefix(w, "-") && len(w) > 1:
		name, value, joined := strings.Cut(w, "=")
		f := flagNamed(u.flags, trimDashes(name))
		switch {
		case f == nil || !takesValue(f):
		case joined:
			u.values[f.Names()[0]] = value
		default:
			u.open = f
		}
	default:
		i := slices.IndexFunc(u.next, func(c *cli.Command) bool { return c.HasName(w) })
		if i < 0 {
			u.next = nil // no command follows an argument
			u.args = append(u.args, w)
			return
		}
		u.at = u.next[i]
		u.path = strings.TrimSpace(u.path + " " + u.at.Name)
		u.flags, u.next = append(slices.Clip(u.at.Flags), u.flags...), u.at.Subcommands // its own go before those of its noun
	}
}

// protocolWords are protocols by name; numbers may be given as well.
var protocolWords = []string{"tcp", "udp", "sctp", "icmp"}

// flagValues are what a flag takes; nothing where only the user, or the file system, knows.
func (u *unfinished) flagValues(f cli.Flag) []string {
	switch f.Names()[0] {
	case "output":
		if d, ok := f.(cli.DocGenerationFlag); ok && !strings.Contains(d.GetUsage(), "FORMAT") {
			return nil // a file
		} else if ok && strings.Contains(d.GetUsage(), "wide") {
			return []string{"table", "wide", "json"}
		}
		return []string{"table", "json"}
	case "protocol":
		return protocolWords
	case "state":
		return ctl.ConnStates()
	case "reason":
		return ctl.DropReasons()
	case "then":
		return []string{ctl.ThenLeave, ctl.ThenReset}
	case "virtual":
		return u.virtuals()
	case "member":
		return u.members("")
	case "port":
		return names(u, "/v1/ports", func(v *ctl.PortView) string { return v.Name })
	case "worker":
		return names(u, "/v1/workers", func(v *ctl.WorkerView) string { return strconv.Itoa(v.Worker) })
	case "persistence":
		return names(u, "/v1/persistences", func(v *ctl.PersistenceView) string { return v.Name })
	}
	return nil
}

// arguments are what may stand as the next argument of the command.
func (u *unfinished) arguments() []string {
	switch n := len(u.args); {
	case u.path == "completion" && n == 0:
		return []string{"bash", "zsh"}
	case u.path == "explain" && n == 0:
		return protocolWords
	case (u.path == "virtual disable" || u.path == "virtual enable") && n == 0:
		return u.virtuals()
	case u.path == "port release" && n == 0:
		return interfaces()
	case strings.HasPrefix(u.path, "member ") && u.at.Name != "list":
		switch {
		case n == 0:
			return names(u, "/v1/pools", func(v *ctl.PoolView) string { return v.Name })
		case n == 1:
			return u.members(u.args[0])
		case n == 2 && u.at.Name == "weight":
			return []string{ctl.WeightOfFile}
		}
	}
	return nil
}

func (u *unfinished) virtuals() []string {
	return names(u, "/v1/virtuals", func(v *ctl.VirtualView) string { return v.Name })
}

// members are those of a pool, or of all.
func (u *unfinished) members(pool string) []string {
	return names(u, "/v1/members", func(v *ctl.MemberView) string {
		if pool != "" && v.Pool != pool {
			return ""
		}
		return v.Name
	})
}

// names asks the sluice that the flags before the cursor name. It is quiet if that does not answer.
func names[T any](u *unfinished, path string, name func(*T) string) (out []string) {
	r := ctl.Remote{Server: u.values["server"], CertFile: u.values["cert"], KeyFile: u.values["key"], CAFile: u.values["ca"]}
	socket := u.values["socket"]
	if socket == "" {
		socket = defaultSocket
	}
	cl := ctl.NewClient(socket)
	if r.Server != "" {
		var err error
		if cl, err = ctl.NewRemoteClient(r); err != nil {
			return nil
		}
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(u.ctx, nameTime)
	defer cancel()
	var list []T
	if cl.Get(ctx, path, &list) != nil {
		return nil
	}
	for i := range list {
		if n := name(&list[i]); n != "" {
			out = append(out, n)
		}
	}
	return out
}

// interfaces are those of this network namespace.
func interfaces() (out []string) {
	entries, _ := os.ReadDir("/sys/class/net") // none: nothing to offer
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
