package flow

// opened is the handshake most scripts begin with: the client's next number is 1, and so is the server's.
const opened = `
	c S 0 win 64240 ws 0 > begin syn-sent
	s S 0 ack 1 win 65535 ws 0 > changed syn-received
	c A 1 ack 1 > changed established
`

// openedScaled has both windows at 65535<<7.
const openedScaled = `
	c S 0 win 64240 ws 7 > begin syn-sent
	s S 0 ack 1 win 65535 ws 7 > changed syn-received
	c A 1 ack 1 > changed established
	s A 1 ack 1 > inside established
`

// The scripts named conntrack_* follow, in what they check, those of the same name in the Linux kernel's
// tools/testing/selftests/net/netfilter/packetdrill.
var tcpScripts = []script{
	{name: "life", lines: opened + `
		c PA 1+100 ack 1 > inside established
		s A 1 ack 101 > inside established
		s PA 1+1000 ack 101 > inside established
		c A 101 ack 1001 > inside established
		c FA 101 ack 1001 > changed fin-wait
		s A 1001 ack 102 > inside fin-wait
		s FA 1001 ack 102 > changed closing
		c A 102 ack 1002 > changed closed
		s FA 1001 ack 102 > inside closed    # the last ACK was lost: both are still translated
		c A 102 ack 1002 > inside closed
		c S 50000 > begin syn-sent
	`},
	{name: "conntrack_ack_loss_stall", lines: opened + `
		c PA 1+1460 ack 1 win 257 > inside established
		s A 1 ack 1461 > inside established
		c PA 1461+30000 ack 1 win 257 > inside established
		s A 1 ack 31461 > inside established
		c PA 31461+35700 ack 1 win 257 > inside established
		s A 1 ack 67161 > inside established
		c PA 1+1460 ack 1 win 257 > inside established  # acknowledged, but the ACKs were lost
		s A 1 ack 67161 > inside established
		c PA 67161+100 ack 1 win 257 > inside established
	`},
	{name: "conntrack_inexact_rst", lines: opened + `
		s A 1+1000 ack 1 > inside established
		s A 1001+2000 ack 1 > inside established
		c A 1 ack 3001 > inside established
		c PA 1+1000 ack 3001 > inside established
		s FA 3001 ack 1001 > changed fin-wait
		c A 1001 ack 3002 > inside fin-wait
		c RA 1001 ack 3002 > changed closed     # unread data; exact, one beyond the FIN acknowledged
		s R 2001 win 0 > outside closed         # forwarded, and nothing comes of it
	`},
	{name: "conntrack_inexact_rst, crossing", lines: opened + `
		s A 1+2000 ack 1 > inside established
		c A 1 ack 1001 > inside established
		s FA 2001 ack 1 > changed fin-wait
		c PA 1+24 ack 1001 > inside fin-wait
		c RA 25 ack 2002 > changed closed
		s R 1978 win 0 > outside closed
	`},
	{name: "conntrack_rst_invalid", lines: `
		c S 0 ws 8 > begin syn-sent
		s S 0 ack 1 > changed syn-received
		c A 1 ack 1 > changed established
		s A 1+1000 ack 1 > inside established
		s A 1001+2000 ack 1 > inside established
		c A 1 ack 3001 > inside established
		s R 0 win 0 > outside established
		s R 1000000 win 0 > outside established
		s R 42 win 0 > outside established        # in the window, not exact
		c PA 1+1000 ack 3001 > inside established
		s A 3001 ack 1001 > inside established
		s RA 3000 ack 1001 win 0 > outside established
		s RA 3001 ack 1001 win 0 > changed closed
	`},
	{name: "conntrack_syn_challenge_ack", lines: `
		c S 0 ws 8 > begin syn-sent
		s A 145824453 ack 643160523 win 240 > outside syn-sent  # of an older connection
		c R 643160523 win 0 > outside syn-sent
		c S 0 ws 8 > inside syn-sent
		s S 0 ack 1 win 250 ws 0 > changed syn-received
		c A 1 ack 1 win 256 > changed established
	`},
	{name: "conntrack_synack_old", lines: `
		c S 0 ws 8 > begin syn-sent
		s S 145824453 ack 643160523 win 240 ws 0 > outside syn-sent
		c R 643160523 win 0 > outside syn-sent
		c S 0 ws 8 > inside syn-sent
		s S 145758918 ack 1 win 250 ws 0 > changed syn-received
		c PA 1+1 ack 145758919 win 256 > changed established
		s A 145758919 ack 2 win 250 > inside established
	`},
	{name: "conntrack_synack_reuse", lines: `
		c S 0 win 32792 ws 7 > begin syn-sent
		s S 0 ack 1 ws 8 > changed syn-received
		c A 1 ack 1 win 257 > changed established
		c PA 1+100 ack 1 win 257 > inside established
		s A 1 ack 101 win 256 > inside established
		c S 2000 win 32792 ws 7 > outside established
		s A 1 ack 101 win 256 > inside established     # challenge ACK
		c R 101 win 257 > changed closed
		c S 2000 win 32792 ws 0 > begin syn-sent
		s S 90000 ack 2001 ws 8 > changed syn-received
		c A 2001 ack 90001 > changed established
	`},
	// The server has lost the connection, or never heard of its end, and takes the client's next one at once.
	{name: "port reuse, forgotten by the server", lines: openedScaled + `
		c PA 1+100 ack 1 > inside established
		c S 3000000000 win 64240 ws 9 > outside established
		s S 2000000000 ack 3000000001 win 65535 ws 5 > changed syn-received
		c PA 101 ack 1 > outside syn-received          # late, of the old one
		c A 3000000001 ack 2000000001 win 500 > changed established
		c PA 3000000001+1400 ack 2000000001 win 500 > inside established
		s A 2000000001+1400 ack 3000001401 > inside established
		s A 2000001401+200000 ack 3000001401 > inside established
		c A 3000001401 ack 2000201401 > inside established
		c R 101 > outside established
		c R 3000001401 > changed closed
	`},
	{name: "port reuse, the last SYN counts", lines: opened + `
		c S 1000000 > outside established
		c S 2000000 > outside established
		s S 5000 ack 1000001 > outside established
		s S 5000 ack 2000001 > changed syn-received
		c A 2000001 ack 5001 > changed established
	`},
	{name: "port reuse while one end is closed", lines: opened + `
		c FA 1 ack 1 > changed fin-wait
		s A 1 ack 2 > inside fin-wait
		c S 1000000 > outside fin-wait                  # anyone can send that, and the server may go on for long
		s A 1+1000 ack 2 > inside fin-wait
		s A 1001 ack 2 > inside fin-wait                # challenge ACK
		c R 2 > changed closed
		c S 1000000 > begin syn-sent
	`},
	{name: "port reuse while one end is closed and the other gone", lines: opened + `
		c FA 1 ack 1 > changed fin-wait
		s A 1 ack 2 > inside fin-wait
		c S 1000000 > outside fin-wait
		s S 70000 ack 1000001 > changed syn-received
		c A 1000001 ack 70001 > changed established
		s FA 70001 ack 1000001 > changed fin-wait       # the old FIN is forgotten
	`},
	{name: "port reuse while closing", lines: opened + `
		c FA 1 ack 1 > changed fin-wait
		s FA 1 ack 1 > changed closing
		c S 1000000 > begin syn-sent
	`},
	{name: "SYN-ACK sent again", lines: `
		c S 0 ws 7 > begin syn-sent
		s S 0 ack 1 ws 7 > changed syn-received
		s S 0 ack 1 ws 7 > inside syn-received
		c A 1 ack 1 > changed established
		s S 0 ack 1 ws 7 > inside established        # the ACK was lost behind us
		c A 1 ack 1 > inside established
		s S 0 ack 900 ws 7 > outside established
		s S 0 ack -100000000 ws 7 > outside established
		s S 5 ack 1 ws 7 > outside established
		c PA 1+100 ack 1 > inside established
		s S 0 ack 1 ws 7 > inside established
	`},
	{name: "window of a SYN-ACK sent again", lines: `
		c S 0 win 1000 ws 7 > begin syn-sent
		s S 0 ack 1 win 1000 ws 7 > changed syn-received
		s S 0 ack 1 win 65000 ws 7 > inside syn-received
		c A 1 ack 0 win 8 > outside syn-received             # acknowledges nothing
		c A 1 ack 2 win 8 > outside syn-received
		c A 1+1024 ack 1 win 8 > changed established
		c A 1028 ack 1 win 8 > outside established           # the window of a SYN is not scaled
	`},
	{name: "SYN-ACK with another number", lines: `
		c S 0 ws 7 > begin syn-sent
		s S 0 ack 1 ws 7 > changed syn-received
		s S 3000000000 ack 1 ws 7 > inside syn-received # the server has forgotten its first
		c A 1 ack 1 > outside syn-received
		s S 7 ack 2 ws 7 > outside syn-received
		s S 7 ws 7 > outside syn-received
		c A 1 ack 3000000001 > changed established
	`},
	{name: "SYN sent again", lines: `
		c S 0 ws 7 > begin syn-sent
		c S 0 ws 7 > inside syn-sent
		s S 0 ack 1 ws 7 > changed syn-received
		c S 0 ws 7 > inside syn-received
		c A 1 ack 1 > changed established
		c S 0 ws 7 > outside established
		s S 0 ack 1 ws 7 > inside established
		c A 1 ack 1 > inside established
		c FA 1 ack 1 > changed fin-wait
		c S 0 ws 7 > outside fin-wait
		s FA 1 ack 2 > changed closing
		c A 2 ack 2 > changed closed
	`},
	{name: "another SYN in SYN-SENT", lines: `
		c S 0 ws 7 > begin syn-sent
		c S 1000000 ws 3 > inside syn-sent
		s S 0 ack 1000001 ws 2 > changed syn-received
		c A 1 ack 1 > outside syn-received
		c A 1000001 ack 1 > changed established
		s A 1+500000 ack 1000001 > inside established
		s A 600002 ack 1000001 > outside established    # 65535<<3 is less
	`},
	{name: "another SYN in SYN-SENT, not the client's", lines: `
		c S 0 ws 7 > begin syn-sent
		c S 1000000 ws 3 > inside syn-sent
		s S 0 ack 1 ws 7 > changed syn-received
		c A 1 ack 1 > changed established
	`},
	{name: "another SYN in SYN-RECEIVED", lines: `
		c S 0 ws 7 > begin syn-sent
		s S 0 ack 1 ws 7 > changed syn-received
		c S 1000000 > outside syn-received
		s A 1 ack 1 > inside syn-received               # challenge ACK
		c R 1 > changed closed
		c S 1000000 > begin syn-sent
	`},
	{name: "another SYN in SYN-RECEIVED, taken", lines: `
		c S 0 ws 7 > begin syn-sent
		s S 0 ack 1 ws 7 > changed syn-received
		c S 1000000 ws 7 > outside syn-received
		s S 50 ack 1000001 ws 7 > inside syn-received
		c A 1000001 ack 51 > changed established
	`},
	{name: "simultaneous open", lines: `
		c S 0 ws 7 > begin syn-sent
		s S 0 ws 7 > changed syn-received
		c SA 0 ack 1 ws 7 > changed established
		s SA 0 ack 1 ws 7 > inside established
		c A 1 ack 1 > inside established
		s A 1 ack 1 > inside established
		c PA 1+1000000 ack 1 > inside established
		s R 1 > changed closed
	`},
	{name: "simultaneous open, the server's second step first", lines: `
		c S 0 > begin syn-sent
		s S 0 > changed syn-received
		c S 0 > inside syn-received
		s S 0 > inside syn-received
		s SA 0 ack 1 > inside syn-received
		c SA 0 ack 0 > outside syn-received
		c SA 0 ack 2 > outside syn-received
		c SA 5 ack 1 > outside syn-received
		c SA 0 ack 1 > changed established
		c SA 0 ack 1 > inside established
		s A 1+10 ack 1 > inside established
	`},
	{name: "simultaneous open, answered with an ACK alone", lines: `
		c S 0 > begin syn-sent
		s S 0 > changed syn-received
		s SA 0 ack 1 > inside syn-received
		c A 1 ack 1 > changed established
		c PA 1+100 ack 1 > inside established
		c R 1 > changed closed
	`},
	{name: "simultaneous close", lines: opened + `
		c FA 1 ack 1 > changed fin-wait
		s FA 1 ack 1 > changed closing
		c A 2 ack 2 > inside closing
		s A 2 ack 2 > changed closed
	`},
	{name: "close in three", lines: opened + `
		s FA 1 ack 1 > changed fin-wait
		c FA 1 ack 2 > changed closing
		s A 2 ack 2 > changed closed
	`},
	{name: "FIN in the ACK of the handshake", lines: `
		c S 0 > begin syn-sent
		s S 0 ack 1 > changed syn-received
		c FA 1 ack 1 > changed fin-wait
		s FA 1 ack 2 > changed closing
		c A 2 ack 2 > changed closed
	`},
	{name: "FIN before the handshake ends", lines: `
		c S 0 > begin syn-sent
		s S 0 ack 1 > changed syn-received
		s FA 1 ack 1 > changed fin-wait
		c A 1 ack 2 > inside fin-wait
		c FA 1 ack 2 > changed closing
		s A 2 ack 2 > changed closed
	`},
	{name: "half-close with long one-way data", lines: openedScaled + `
		c FA 1 ack 1 > changed fin-wait
		s A 1+1000000 ack 2 > inside fin-wait
		c A 2 ack 1000001 > inside fin-wait
		s A 1000001+8000000 ack 2 > inside fin-wait
		c A 2 ack 9000001 > inside fin-wait
		s A 9000001+8000000 ack 2 > inside fin-wait
		c A 2 ack 17000001 > inside fin-wait
		s FA 17000001 ack 2 > changed closing
		c A 2 ack 17000002 > changed closed
	`},
	{name: "zero window and probes", lines: `
		c S 0 win 1000 > begin syn-sent
		s S 0 ack 1 win 0 > changed syn-received
		c A 1 ack 1 win 1000 > changed established
		c A 1+1 ack 1 win 1000 > inside established       # probe with a byte there is no room for
		s A 1 ack 1 win 0 > inside established
		c A 0 ack 1 win 1000 > inside established         # and without
		c FA 1+1 ack 1 win 1000 > changed fin-wait
		c A 3 ack 1 win 1000 > inside fin-wait
		s A 1 ack 1 win 0 > inside fin-wait
		c A 4 ack 1 win 1000 > outside fin-wait
		s A 1 ack 3 win 0 > inside fin-wait
		s A 1+1000 ack 3 win 0 > inside fin-wait
		c A 3 ack 1001 win 0 > inside fin-wait
		s A 1001+1 ack 3 win 0 > inside fin-wait
		c A 3 ack 1001 win 0 > inside fin-wait
		s A 1000 ack 3 win 0 > inside fin-wait
		c A 3 ack 1001 win 1000 > inside fin-wait
		s FA 1001+1000 ack 3 > changed closing
		c A 3 ack 2002 > changed closed
	`},
	{name: "window that shrinks", lines: openedScaled + `
		c A 1+1000000 ack 1 > inside established
		s A 1 ack 500001 win 10 > inside established
		c A 1000001+1000000 ack 1 > inside established     # on its way before
		s A 1 ack 500001 win 0 > inside established
		c A 500001+1000 ack 1 > inside established
		s A 1 ack 501001 win 0 > inside established
	`},
	{name: "last segment overshoots the window", lines: `
		c S 0 win 1000 > begin syn-sent
		s S 0 ack 1 win 2000 > changed syn-received
		c A 1 ack 1 win 1000 > changed established
		c A 1+1460 ack 1 win 1000 > inside established
		c A 1461+1460 ack 1 win 1000 > inside established
		s A 1 ack 2001 win 1 > inside established          # part of it was taken
		c A 1+1460 ack 1 win 1000 > inside established
		s A 1 ack 2001 win 0 > inside established
		c A 2001+920 ack 1 win 1000 > inside established
		s A 1 ack 2921 > inside established
	`},
	{name: "keepalive", lines: openedScaled + `
		c PA 1+100 ack 1 > inside established
		s PA 1+200 ack 101 > inside established
		c A 101 ack 201 > inside established
		c A 100 ack 201 > inside established
		s A 201 ack 101 > inside established
		c A 100+1 ack 201 > inside established            # with a garbage byte
		s A 201 ack 101 > inside established
		s A 200 ack 101 > inside established
		c A 101 ack 201 > inside established
		s A 200+1 ack 101 > inside established
	`},
	{name: "keepalive of a connection that never spoke", lines: opened + `
		c A 0 ack 1 > inside established
		s A 1 ack 1 > inside established
		s A 0+1 ack 1 > inside established
	`},
	{name: "scale at both ends", lines: openedScaled + `
		c A 1+8388480 ack 1 > inside established           # 65535<<7
		c A 8388484+1 ack 1 > outside established
		s A 1+8388480 ack 1 > inside established
		s A 8388484+1 ack 1 > outside established
		s A 1 ack 8388481 > inside established
		c A 8388481 ack 8388481 > inside established
	`},
	{name: "scale at the client only", lines: `
		c S 0 win 65535 ws 7 > begin syn-sent
		s S 0 ack 1 win 65535 > changed syn-received
		s A 65000 ack 1 win 1000 > inside syn-received       # all of what the client's SYN announced
		c A 1 ack 1 win 65535 > changed established
		c A 1+65535 ack 1 > inside established
		c A 65539 ack 1 > outside established
		s A 1+65535 ack 1 > inside established
		s A 65539 ack 1 > outside established
	`},
	{name: "scale at neither end", lines: `
		c S 0 win 8192 > begin syn-sent
		s S 0 ack 1 win 4096 > changed syn-received
		c A 1 ack 1 win 8192 > changed established
		c A 1+4096 ack 1 win 8192 > inside established
		c A 4100 ack 1 win 8192 > outside established
		s A 1+8192 ack 1 win 4096 > inside established
		s A 8196 ack 1 win 4096 > outside established
	`},
	{name: "scale 14", lines: `
		c S 0 win 65535 ws 14 > begin syn-sent
		s S 0 ack 1 win 65535 ws 15 > changed syn-received  # RFC 7323: taken for 14
		s A 1+65535 ack 1 > inside syn-received             # a SYN's window is not scaled
		c A 1 ack 1 > changed established
		s A 65536 ack 1 > inside established
		c A 1+1000000000 ack 1 > inside established
		s A 65536+1000000000 ack 1 > inside established
		s A 1000065536 ack 1000000001 > inside established
		c A 1000000001+1000000000 ack 1000065536 > inside established
		c A 3100000000 ack 1000065536 > outside established
	`},
	{name: "reordering and retransmission up to a window", lines: openedScaled + `
		c A 8000001+1460 ack 1 > inside established         # first
		c A 1+1460 ack 1 > inside established
		s A 1 ack 1461 > inside established
		c A 4000001+1460 ack 1 > inside established
		c A 1461+1460 ack 1 > inside established
		c A 1+1460 ack 1 > inside established
		s A 1 ack 1461 > inside established
		s A 1 ack 1 > inside established
		s A 1 ack 8001461 > inside established
		s A 1 ack 1461 > inside established
		c A 1+1460 ack 1 > inside established
		c A -500000+1460 ack 1 > outside established
		s A 1 ack 8001462 > outside established
		s A 1 ack -500000 > outside established
	`},
	{name: "SACK recovery with a lagging acknowledgement", lines: openedScaled + `
		s A 1461+8000000 ack 1 > inside established         # 1+1460 is lost before us
		c A 1 ack 1 > inside established                    # each with a SACK block
		c A 1 ack 1 > inside established
		c PA 1+500 ack 1 > inside established
		s A 1+1460 ack 501 > inside established
		c A 501 ack 8001461 > inside established
		s A 8001461+8000000 ack 501 > inside established
		c A 501 ack 16001461 > inside established
	`},
	{name: "FIN sent again", lines: opened + `
		c FA 1 ack 1 > changed fin-wait
		c FA 1 ack 1 > inside fin-wait
		s FA 1 ack 2 > changed closing
		c FA 1 ack 1 > inside closing
		s FA 1 ack 2 > inside closing
		c A 2 ack 2 > changed closed
		s FA 1 ack 2 > inside closed
		c FA 1 ack 2 > inside closed
	`},
	{name: "FIN with data, sent again with more", lines: opened + `
		c FPA 1001+500 ack 1 > changed fin-wait             # 1+1000 comes later
		s A 1 ack 1 > inside fin-wait
		c A 1+1000 ack 1 > inside fin-wait
		s A 1 ack 1502 > inside fin-wait
		c FPA 1+1500 ack 1 > inside fin-wait
		s FPA 1+10 ack 1502 > changed closing
		c A 1502 ack 12 > changed closed
	`},
	{name: "FINs before the data, at both ends", lines: opened + `
		s FA 2921+1000 ack 1 > changed fin-wait
		c FA 1461 ack 1 > changed closing
		s A 1461+1460 ack 1 > inside closing
		c A 1+1460 ack 1 > inside closing
		s A 3922 ack 1462 > inside closing
		s A 1+1460 ack 1462 > inside closing
		c A 1462 ack 3922 > changed closed
	`},
	{name: "FIN that was not", lines: opened + `
		c FA 5000 ack 1 > changed fin-wait                  # guessed by someone
		c A 1+8000 ack 1 > changed established
		s A 1 ack 8001 > inside established
		c FA 8001 ack 1 > changed fin-wait
		s FA 1 ack 8002 > changed closing
		c A 8002 ack 2 > changed closed
	`},
	{name: "FIN that was not, acknowledged", lines: opened + `
		c A 1+4999 ack 1 > inside established
		c FA 5000 ack 1 > changed fin-wait
		s A 1 ack 5001 > inside fin-wait
		c A 5001+100 ack 1 > changed established
		c FA 5101 ack 1 > changed fin-wait
		s FA 1 ack 5001 > changed closing
		c A 5102 ack 2 > inside closing                     # its own FIN is not acknowledged yet
		s A 2 ack 5102 > changed closed
	`},
	{name: "RST with data on its way", lines: openedScaled + `
		s A 1+100000 ack 1 > inside established
		c A 1 ack 1461 > inside established
		c PA 1+50000 ack 1461 > inside established
		c RA 25001 ack 1461 > outside established
		c RA 50001 ack 1461 > changed closed                # beyond the server's last acknowledgement
		s A 100001+1000 ack 1 > inside closed
		c R 1 > inside closed
		c S 900000 > begin syn-sent
	`},
	{name: "RST for an end that forgot", lines: opened + `
		s A 1+1000 ack 1 > inside established
		c PA 1+100 ack 1001 > inside established
		s R 1001 > changed closed                           # the number is the acknowledgement
	`},
	{name: "RST after a challenge ACK", lines: openedScaled + `
		c A 1+10000 ack 1 > inside established
		s A 1 ack 1461 > inside established
		c R 5000 > outside established
		s A 1 ack 2921 > inside established
		c R 2921 > changed closed
	`},
	{name: "RST after FIN", lines: opened + `
		c FA 1 ack 1 > changed fin-wait
		s A 1+1000 ack 2 > inside fin-wait
		c R 3 > outside fin-wait
		c R 1 > outside fin-wait
		c R 2 > changed closed
		s A 1001+1000 ack 2 > inside closed
		c R 2 > inside closed
		s FA 2001 ack 2 > inside closed
	`},
	{name: "RST after both FINs", lines: opened + `
		c FA 1 ack 1 > changed fin-wait
		s FA 1 ack 1 > changed closing
		s R 3 > outside closing
		s R 1 > changed closed                              # the client has not acknowledged the FIN
	`},
	{name: "RST in SYN-SENT", lines: `
		c S 0 > begin syn-sent
		s R =0 > outside syn-sent
		s RA =0 ack 0 > outside syn-sent
		s RA =0 ack 2 > outside syn-sent
		c R 5 > outside syn-sent
		s RA =0 ack 1 > changed closed
		c S 0 > begin syn-sent
		c R 1 > changed closed
	`},
	{name: "RST in SYN-SENT refuses the second SYN", lines: `
		c S 0 > begin syn-sent
		c S 1000000 > inside syn-sent
		s RA =0 ack 1000001 > changed closed
	`},
	{name: "RST in SYN-RECEIVED", lines: `
		c S 0 > begin syn-sent
		s S 0 ack 1 > changed syn-received
		s R 2 > outside syn-received
		s RA 77 ack 2 > outside syn-received
		c R 0 > outside syn-received
		c R 1 > changed closed
		c S 1000 > begin syn-sent
		s S 0 ack 1001 > changed syn-received
		s R 1 > changed closed
		c S 2000 > begin syn-sent
		s S 0 ack 2001 > changed syn-received
		s RA 77 ack 2001 > changed closed                   # it has forgotten its answer, and refuses
	`},
	{name: "SYN with data", lines: `
		c S 0+500 ws 7 > begin syn-sent
		s S 0 ack 501 ws 7 > changed syn-received
		s A 1+1460 ack 501 > inside syn-received             # need not wait for the client
		c S 0 ws 7 > inside syn-received
		s S 0 ack 501 ws 7 > inside syn-received
		c A 501 ack 1 > changed established
		c A 501 ack 1461 > inside established
	`},
	{name: "SYN with data that the server does not take", lines: `
		c S 0+500 ws 7 > begin syn-sent
		c S 0 ws 7 > inside syn-sent
		s S 0 ack 1 ws 7 > changed syn-received
		c S 0+500 ws 7 > inside syn-received
		c PA 1+500 ack 1 > changed established
		s A 1 ack 501 > inside established
	`},
	{name: "SYN with data, refused", lines: `
		c S 0+500 > begin syn-sent
		s RA =0 ack 502 > outside syn-sent
		s RA =0 ack 501 > changed closed
		c S 0+500 > begin syn-sent
		s RA =0 ack 1 > changed closed
	`},
	{name: "SYN-ACK with data", lines: `
		c S 0+500 > begin syn-sent
		s S 0+100 ack 501 > changed syn-received
		s S 0 ack 501 > inside syn-received
		c A 501 ack 1 > changed established
		c A 501 ack 101 > inside established
	`},
	{name: "ECN", lines: `
		c SEW 0 ws 7 > begin syn-sent
		c SEW 0 ws 7 > inside syn-sent
		s SAE 0 ack 1 ws 7 > changed syn-received
		c AEW 1 ack 1 > changed established
		s AE 1+10 ack 1 > inside established
		c FAEW 1 ack 11 > changed fin-wait
		s FAE 11 ack 2 > changed closing
		c AW 2 ack 12 > changed closed
	`},
	{name: "flags that make no sense", lines: opened + `
		c . 1+10 > outside established
		c F 1 > outside established
		c P 1 > outside established
		c SF 1 > outside established
		s SFA 0 ack 1 > outside established
		s S 50 > outside established
		c SA 1 ack 1 > outside established
		c SR 5 > outside established
	`},
	{name: "lost ACK of the handshake", lines: `
		c S 0 > begin syn-sent
		c A 1 ack 1 > outside syn-sent
		s A 1 ack 1 > outside syn-sent
		s S 0 ack 1 > changed syn-received
		c PA 1461+1460 ack 1 > changed established
		c PA 1+1460 ack 1 > inside established
		s A 1 ack 2921 > inside established
	`},
	{name: "adopted from the client", lines: `
		c PA 1000+100 ack 5000 > adopt established
		c PA 1100+100 ack 9000 > inside established
		s A 9000+1460 ack 1200 > inside established
		c A 1200 ack 10460 > inside established
		s R 10461 > outside established
		s R 10460 > changed closed
	`},
	{name: "adopted from the server", lines: `
		s A 5000+1460 ack 1000 > adopt established
		s A 6460+1460 ack 1000 > inside established
		c A 1000 ack 7920 > inside established
		c R 1001 > outside established
		c R 1000 > changed closed
	`},
	{name: "adopted with a retransmission, then what was sent before", lines: `
		c A 1000+100 ack 9000 > adopt established
		s A 5000+1460 ack 700 > inside established
		c A 1100 ack 9000 > inside established
		s A 6460 ack 700 > inside established
		c R 700 > changed closed
	`},
	{name: "adopted, acknowledged beyond what was seen", lines: `
		c A 1000+100 ack 9000 > adopt established
		s A 9000 ack 50000 > inside established
		s A 9000 ack 50000 > inside established
		c A 50000 ack 9000 > inside established
		s A 9000 ack 50001 > outside established
	`},
	{name: "adopted, then FINs", lines: `
		s PA 5000+10 ack 1000 > adopt established
		c A 1000 ack 5010 > inside established
		c FA 1000 ack 5010 > changed fin-wait
		s FA 5010 ack 1001 > changed closing
		c A 1001 ack 5011 > changed closed
	`},
	{name: "adopted with a FIN", lines: `
		c FPA 1000+10 ack 5000 > adopt fin-wait
		s A 5000 ack 1011 > inside fin-wait
		s FA 5000 ack 1011 > changed closing
		c A 1011 ack 5001 > changed closed
	`},
	{name: "adopted from one end only", lines: `
		c PA 1000+10 ack 5000 > adopt established
		c R 1011 > outside established
		c R 1000 > outside established                      # not what the server said, but a guess
		s R 5001 > outside established
		s R 1010 > outside established
		c A 2000001010 ack 5000 > outside established
		c A 1010 ack 2000005000 > outside established
		s A 5000 ack 2000001010 > outside established
		c R 1010 > changed closed
	`},
	{name: "one-sided life", oneSided: true, lines: `
		c S 0 ws 7 > begin syn-sent
		c S 0 ws 7 > inside syn-sent
		c A 1 ack 3000000001 > changed established
		c PA 1+100 ack 3000000001 > inside established
		c A 101 ack 3008000001 > inside established
		c A 101 ack 3018000001 > outside established        # more than the client's window
		c A 101 ack 2990000001 > outside established
		c A 1+100 ack 3008000001 > inside established
		c FA 101 ack 3008000001 > changed fin-wait
		c FA 101 ack 3008000001 > inside fin-wait
		c A 102 ack 3008000002 > inside fin-wait
		c S 1000 > begin syn-sent
	`},
	{name: "one-sided RST", oneSided: true, lines: `
		c S 0 > begin syn-sent
		c R 2 > outside syn-sent
		c A 1 ack 1 > changed established
		c S 1000000 > outside established
		c S 0 > outside established
		c R 0 > outside established
		c RA 2 ack 1 > outside established
		c RA 1 ack 1 > changed closed
		c R 1 > inside closed
		c FA 1 ack 1 > inside closed
		c S 1000000 > begin syn-sent
	`},
	{name: "one-sided, first ACK lost", oneSided: true, lines: `
		c S 0+100 > begin syn-sent
		c S 0 > inside syn-sent
		c SA 0 ack 1 > outside syn-sent
		c SF 0 > outside syn-sent
		c . 1 > outside syn-sent
		c A 1000000 ack 1 > outside syn-sent
		c PA 1+1460 ack 1 > changed established
	`},
	{name: "one-sided, another SYN", oneSided: true, lines: `
		c S 0 ws 7 > begin syn-sent
		c S 1000000 ws 7 > inside syn-sent
		c A 1000001 ack 77 > changed established
		c A 1000001+100 ack 8000077 > inside established
		c R 1 > outside established
		c R 1000101 > changed closed
	`},
	{name: "one-sided FIN", oneSided: true, lines: `
		c S 0 > begin syn-sent
		c FA 1 ack 1 > changed fin-wait
		c A 1+3000 ack 1 > changed established              # it was not its own
		c FA 2000001 ack 1 > outside established
		c FA 1 ack 1 > inside established
		c FA 900001 ack 1 > changed fin-wait
		c A 3001+1460 ack 1 > inside fin-wait
	`},
}
