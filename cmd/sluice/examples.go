package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// example is a line that works, and what it does. A test reads each by the flags of its command.
type example struct{ line, does string }

// examples are shown by --help, in docs/CLI.md and in the manual page, by command.
var examples = map[string][]example{
	"run":          {{"sluice run -c /etc/sluice/sluice.yaml", "serve until interrupted; SIGHUP reloads the file"}, {"sluice run -c /etc/sluice/sluice.yaml --takeover", "replace the running sluice, for an upgrade"}},
	"reload":       {{"sluice reload", "apply what differs in the file of the running engine"}, {"sluice reload -o json", "the same, with each change as JSON"}},
	"check":        {{"sluice check -c sluice.yaml", "what a start on this host would find"}, {"sluice check -c sluice.yaml --offline", "the file alone, on any machine"}},
	"demo":         {{"sudo sluice demo", "real traffic in network namespaces, for some seconds"}, {"sudo sluice demo --keep", "leave it up, to try commands on it"}},
	"replay":       {{"sluice replay -c sluice.yaml in.pcap -o out.pcap", "what the configuration does with a capture"}, {"sluice replay -c sluice.yaml in.pcap --json", "the report as JSON"}},
	"explain":      {{"sluice explain tcp 172.16.10.55:4003 10.10.1.100:80", "where this packet would go now, and why"}, {"sluice explain -c sluice.yaml tcp 172.16.10.55:4003 10.10.1.100:80", "where it would go by the file alone"}},
	"capture":      {{"sluice capture --end 172.16.10.55", "each packet of a client in a line, with what became of it"}, {"sluice capture --drops -w drops.pcapng --duration 10s", "what is dropped, with the reasons, for Wireshark"}, {"sluice capture --virtual web -w - | tshark -r - -T fields -e frame.interface_name -e frame.comment", "into another program"}},
	"capture list": {{"sluice capture list", "who captures, and until when"}},
	"capture stop": {{"sluice capture stop", "end it, whoever has begun it"}},

	"doctor":     {{"sluice doctor", "this host, with every interface that is up"}, {"sluice doctor -c /etc/sluice/sluice.yaml -o json", "this host for a configuration, for scripts"}},
	"completion": {{"source <(sluice completion bash)", "completion in this bash"}, {"sluice completion zsh > /usr/share/zsh/vendor-completions/_sluice", "completion in every zsh"}},
	"man":        {{"sluice man | man -l -", "read the manual page"}, {"sluice man > /usr/share/man/man8/sluice.8", "install it"}},
	"version":    {{"sluice version", "print the version"}},

	"top": {{"sluice top", "rates, every second; q quits"}, {"sluice top --interval 5s", "over longer times"}},

	"config show": {{"sluice config show", "what the running engine has"}, {"sluice config show -c sluice.yaml", "what a file says, with all defaults"}},
	"config diff": {{"sluice config diff -c sluice.yaml", "what a reload with this file would change"}},

	"virtual": {{"sluice virtual", "all virtual servers"}, {"sluice virtual --watch -o wide", "again every two seconds, with bytes"}},
	"pool":    {{"sluice pool", "all pools"}},
	"member":  {{"sluice member -o wide", "all members, with next hops"}, {"sluice member --watch 1", "their states, every second"}},
	"monitor": {{"sluice monitor", "every probe of every member, with its last result and cause"}, {"sluice monitor --watch 1", "the same, every second"}},
	"worker":  {{"sluice worker -o wide", "all workers, with free frames and hand-overs"}},
	"drop":    {{"sluice drop", "why packets were dropped"}, {"sluice drop --all", "every reason, also those with nothing to count"}, {"sluice drop --watch 500ms", "the counters as they grow"}},

	"member drain":     {{"sluice member drain web s2 --deadline 5m --then reset", "no new connections; after five minutes the rest is reset"}},
	"member disable":   {{"sluice member disable web s2", "no new connections, until it is enabled"}},
	"member force-off": {{"sluice member force-off web s2", "no new connections, and those that it has end"}},
	"member weight":    {{"sluice member weight web s2 3", "another share of new connections than the file has"}, {"sluice member weight web s2 file", "what the file says again"}},
	"member enable":    {{"sluice member enable web s2", "take the order back"}},

	"virtual disable": {{"sluice virtual disable web", "no new connections, until it is enabled"}},
	"virtual enable":  {{"sluice virtual enable web", "take the order back"}},

	"conn":        {{"sluice conn --virtual web", "connections to a virtual server"}, {"sluice conn --member 192.168.20.1 --state established -o json", "by member and state, as JSON"}},
	"conn show":   {{"sluice conn show 172.16.10.55:4003", "all that is known of a client's connection"}},
	"conn delete": {{"sluice conn delete 172.16.10.55", "forget a client's connections"}, {"sluice conn delete --member server-1 --reset", "end a member's connections with resets"}},
	"conn export": {{"sluice conn export > connections.ndjson", "all connections, a JSON object a line"}},

	"prepare":            {{"sudo sluice prepare --user sluice", "make what that user needs to run sluice"}, {"sudo sluice prepare --user 997:997", "a user without a name"}},
	"persistence":        {{"sluice persistence --client 172.16.10.55", "which member a client goes to, and for how long"}, {"sluice persistence --persistence shop -o json", "the entries of one persistence, as JSON"}},
	"persistence status": {{"sluice persistence status -o wide", "entries, hits, misses and moves of every persistence"}},
	"persistence delete": {{"sluice persistence delete 172.16.10.55", "forget a client"}, {"sluice persistence delete --member server-1", "spread the clients of a member anew"}},

	"port":         {{"sluice port -o wide", "ports with their modes and errors"}},
	"port release": {{"sluice port release eth1", "detach a killed sluice's program from one interface"}, {"sluice port release --all", "remove all that it left"}},

	"perf pipeline": {
		{"sluice perf pipeline --quick", "ns a packet on memory rings, within a minute"},
		{"sluice perf pipeline --connections 1k,1M,new --family 4,6 --json new.json", "these numbers of connections over both IP versions, kept for compare and report"},
		{"sluice perf pipeline --quick --modes", "what each mode costs beside nat"},
	},
	"perf link": {
		{"sudo sluice perf link --quick --json link.json", "packets per second beside other carriers, in a lab"},
		{"sudo sluice perf link --flows 1000,new --sizes 64 --carriers sluice,nftables,nftables-inline --no-http", "sluice and nftables alone, for known connections and for new ones"},
		{"sudo sluice perf link --in eth1 --out eth2 --router 02:00:00:00:00:01 --to 10.10.1.100 --name sluice --search --json nic.json", "what lies between two NICs of yours, with its loss-free rate"},
	},
	"perf latency": {
		{"sudo sluice perf latency --quick", "round trips beside other carriers, with nothing else on the way"},
		{"sudo sluice perf latency --loads idle,half --polling busy,adaptive --carriers sluice,forward-inline,haproxy --json latency.json", "two ways of polling, idle and under half load"},
	},
	"perf connections": {
		{"sudo sluice perf connections --quick", "connections per second, UDP and TCP, and with a full table"},
		{"sudo sluice perf connections --carriers sluice,nftables --runs 5 --json connections.json", "sluice and nftables, five times in turn"},
	},
	"perf scale": {
		{"sluice perf scale --quick", "what more workers, connections, members and virtual servers change"},
		{"sluice perf scale --workers 1 --connections 1k,100k,1M --members , --virtuals , --rules ,", "the curve over connections alone"},
		{"sudo sluice perf scale --json scale.json", "all curves, with that of the XDP program's rules, for a report"},
	},
	"perf compare": {
		{"sluice perf compare old.json new.json", "what has changed, and what is noise"},
		{"sluice perf compare old.json new.json --fail-above 5", "exit with 1 if something is 5% worse"},
	},
	"perf report": {
		{"sluice perf report link.json -o report.html", "one page with drawings and what every heading means; the tables on standard output"},
		{"sluice perf report pipeline.json scale.json link.json latency.json -o perf.html --markdown perf.md", "one page of several files, and the tables for a wiki or an issue"},
	},
}

// examplesOf are those of a command, by its words; a list has those of its noun.
func examplesOf(path string) []example {
	if e, ok := examples[path]; ok {
		return e
	}
	if noun, ok := strings.CutSuffix(path, " list"); ok {
		return examples[noun]
	}
	return nil
}

// addExamples puts the examples under the descriptions that --help shows.
func addExamples(commands []*cli.Command, parent string) {
	for _, c := range commands {
		path := strings.TrimSpace(parent + " " + c.Name)
		var b strings.Builder
		for _, e := range examplesOf(path) {
			b.WriteString("\n  " + e.line + "\n      " + e.does)
		}
		if b.Len() > 0 {
			text := c.Description
			if text != "" {
				text += "\n\n"
			}
			c.Description = text + "Examples:" + b.String()
		}
		if c.Name != "help" { // as in prepare
			addExamples(c.Subcommands, path)
		}
	}
}
