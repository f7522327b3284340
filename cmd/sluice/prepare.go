package main

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

func prepareCommand() *cli.Command {
	return &cli.Command{
		Name: "prepare", Usage: "make, as root, what another user needs to run sluice",
		UsageText: "sluice prepare --user USER[:GROUP]",
		Description: "It makes " + ctl.StateDir + " for that user and mounts in it, for this network namespace, a bpf file system (for the pins of XDP " +
			"programs) and a tmpfs with huge pages (for connection tables and frames). Then `sluice run` needs no more than CAP_NET_ADMIN, CAP_NET_RAW, " +
			"CAP_BPF, CAP_PERFMON and CAP_IPC_LOCK. What is there already stays. `sluice port release --all`, as root, takes it away. The unit in deploy/systemd runs it before each start.",
		Flags: []cli.Flag{&cli.StringFlag{Name: "user", Usage: "`USER` by name or number, its group unless another follows after a colon"}},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if c.String("user") == "" {
				return usagef("prepare needs a user: --user NAME")
			}
			uid, gid, err := lookUpUser(c.String("user"))
			if err != nil {
				return err
			}
			done, err := ctl.Prepare(uid, gid)
			for _, line := range done {
				fmt.Fprintln(c.App.Writer, line)
			}
			return err
		},
	}
}

// lookUpUser reads USER[:GROUP], each a name or a number; a number needs no entry in a database.
func lookUpUser(s string) (uid, gid int, err error) {
	name, group, withGroup := strings.Cut(s, ":")
	gid = -1
	if uid, err = strconv.Atoi(name); err == nil && uid >= 0 {
		if u, err := user.LookupId(name); err == nil {
			gid, _ = strconv.Atoi(u.Gid)
		}
	} else {
		u, err := user.Lookup(name)
		if err != nil {
			return 0, 0, fmt.Errorf("no user %q (%w); make one: useradd --system %s, or systemd-sysusers", name, err, name)
		}
		uid, _ = strconv.Atoi(u.Uid)
		gid, _ = strconv.Atoi(u.Gid)
	}
	if withGroup {
		if gid, err = strconv.Atoi(group); err != nil {
			g, err := user.LookupGroup(group)
			if err != nil {
				return 0, 0, fmt.Errorf("no group %q: %w", group, err)
			}
			gid, _ = strconv.Atoi(g.Gid)
		}
	}
	if gid < 0 {
		gid = uid
	}
	if uid == 0 {
		return 0, 0, errors.New("root needs no preparation; name the user that sluice shall run as")
	}
	return uid, gid, nil
}
