#include "go_asm.h"
#include "textflag.h"

// Offsets in IP headers, and of checksums from 20 bytes before the header of UDP or TCP on: those of rewrite/regular.go.
#define TTL4 8
#define SUM4 10
#define SRC4 12
#define DST4 16
#define TTL6 7
#define SRC6 8
#define DST6 24
#define PORTS 20
#define UDPSUM 26
#define TCPSUM 36

// Of a record (DX), windows by side.
#define END(side) const_recWin(DX)(side*8)
#define ACK(side) (const_recWin+4)(DX)(side*8)
#define MAXWIN(side) const_recMaxWin(DX)(side*2)

// func regularVectors(w *worker, c *changes, set uint64) (rest uint64)
//
// For packet after packet of set, until one is not regular or not steady: what steadyToServer and steadyToClient do. Nothing has been
// changed for the packet at which it ends. It is to changeVectors (change_amd64.s), from which the order of things and the registers
// are, what rewrite/regular.go is to plain.go.
//
//	SI  worker    DI  changes     R9   records   BX  set
//	DX  record    R13 Packet      R14  descriptor
//	CX  side      R12 node        R10  egress port
//	AX  frame, once the packet is judged; R11 and R12 its addresses, R15 its ports, R8 the Diffs
TEXT ·regularVectors(SB), NOSPLIT, $0-32
	MOVQ w+0(FP), SI
	MOVQ c+8(FP), DI
	MOVQ set+16(FP), BX
	MOVQ changes_records(DI), R9
	JMP  next

packet:
	BSFQ    BX, CX
	MOVL    worker_refs(SI)(CX*4), DX       // index<<1 | side
	TESTL   DX, DX
	JEQ     done
	IMUL3Q  $const_packetSize, CX, R13
	MOVL    DX, R15
	ANDL    $~1, DX
	SHLQ    $6, DX
	ADDQ    R9, DX
	LEAQ    worker_pkts(SI)(R13*1), R13
	MOVWLZX const_packetL3(R13), R10
	MOVWLZX const_packetL4(R13), R8
	MOVBLZX const_packetV6(R13), R11
	SUBL    R10, R8
	LEAL    (R11)(R11*4), R11
	LEAL    20(R11*4), R11
	CMPL    R8, R11                         // an IP header of 20 bytes, or of 40 for IPv6
	JNE     done
	MOVBLZX const_packetProto(R13), R8
	CMPB    R8, changes_proto(DI)
	JNE     done
	CMPB    const_packetTTL(R13), $2
	JCS     done
	MOVWLZX const_packetEnd(R13), R8
	SUBL    R10, R8
	CMPL    R8, changes_most(DI)
	JHI     done
	TESTL   $const_otherWays, (DX)          // in a tunnel, or answered past us
	JNE     otherWays

judge:
	MOVL    const_recNode(DX), R12
	MOVL    const_recVS(DX), R8
	CMPQ    R12, changes_nodesLen(DI)
	JCC     done
	CMPQ    R8, changes_virtualLen(DI)
	JCC     done
	MOVL    const_recSNAT(DX), R8
	CMPQ    R8, changes_nodesLen(DI)
	JCC     done
	MOVQ    CX, R14
	SHLQ    $4, R14
	LEAQ    worker_descs(SI)(R14*1), R14
	MOVWLZX worker_ports(SI)(CX*2), R11
	TESTL   $1, R15
	JNE     server

	CMPW    R11, const_recClientIf(DX)
	JNE     done
	SHLQ    $5, R12                         // a node is 32 bytes
	ADDQ    changes_nodes(DI), R12
	CMPB    node_ok(R12), $0
	JEQ     done
	MOVWLZX node_port(R12), R8
	CMPQ    R8, changes_portsLen(DI)
	JCC     done
	IMUL3Q  $egress__size, R8, R10
	ADDQ    changes_tx(DI), R10
	CMPQ    egress_n(R10), $const_burstSize
	JEQ     done
	XORL    CX, CX
	CMPB    changes_relearns(DI), $0
	JNE     relearn

known:
	MOVBLZX const_recScale(DX), R8
	MOVL    R8, R11
	ANDL    $0xf, R8                        // of the sender's windows
	SHRL    $4, R11                         // of the receiver's
	CMPB    changes_tcp(DI), $0
	JNE     tcp

toServer:
	MOVQ    (R14), AX
	ADDQ    changes_mem(DI), AX
	CMPB    changes_tcp(DI), $0
	JEQ     readdress
	MOVL    6(AX), R8                       // the client's MAC may have changed
	MOVWLZX 10(AX), R11
	MOVL    R8, const_recClientMAC(DX)
	MOVW    R11, (const_recClientMAC+4)(DX)

readdress:
	MOVQ    node_l2(R12), R8
	MOVL    (node_l2+8)(R12), R11
	MOVQ    R8, (AX)
	MOVL    R11, 8(AX)
	MOVWLZX node_port(R12), R8
	MOVWLZX const_packetL3(R13), R11
	ADDQ    R11, AX
	TESTL   $const_routedBit, (DX)
	JEQ     member
	TESTL   $const_oneSidedBit, (DX)
	JNE     forward
	MOVW    R8, const_recServerIf(DX)       // a route may lead elsewhere than before
	MOVL    const_recSNAT(DX), R11
	TESTL   R11, R11
	JEQ     forward
	LEAQ    const_recVirtual(DX), R12
	JMP     source

member:
	MOVL const_recNode(DX), R12
	MOVL const_recSNAT(DX), R11
	SHLQ $4, R12
	ADDQ changes_addrs(DI), R12

source:
	LEAQ    const_recClient(DX), R8
	SHLQ    $4, R11
	LEAQ    0(R11), R15
	ADDQ    changes_addrs(DI), R11
	TESTQ   R15, R15
	CMOVQEQ R8, R11
	MOVL    const_recSPort(DX), R15         // and NPort
	BSWAPL  R15
	ROLL    $16, R15
	MOVL    const_recDiffs(DX), R8

translate: // sums of swapped words, as in changeVectors
	BSWAPL  R8                              // L4Diff, and L3Diff above it
	CMPB    const_packetV6(R13), $0
	JNE     translate6
	MOVL    8(R11), R11                     // the lower half of Lo
	MOVL    8(R12), R12
	BSWAPL  R11
	BSWAPL  R12
	MOVL    R11, SRC4(AX)
	MOVL    R12, DST4(AX)
	MOVWLZX SUM4(AX), R12
	MOVL    R8, R11
	SHRL    $16, R11
	NOTL    R12
	ADDW    R11, R12
	ADCW    $0xfffe, R12                    // one less of the TTL
	ADCW    $0, R12
	NOTL    R12
	DECB    TTL4(AX)
	MOVW    R12, SUM4(AX)

transport:
	MOVL    R15, PORTS(AX)
	CMPB    changes_tcp(DI), $0
	JEQ     udpSum
	MOVWLZX TCPSUM(AX), R11
	NOTL    R11
	ADDW    R8, R11
	ADCW    $0, R11
	NOTL    R11
	MOVW    R11, TCPSUM(AX)

count:
	MOVWLZX const_packetEnd(R13), R8
	MOVWLZX const_packetL3(R13), R13
	SUBL    R13, R8
	MOVL    R8, R13
	MOVL    changes_now(DI), R8
	MOVL    R8, const_recSeen(DX)
	ADDL    $1, const_recPacketsLo(DX)(CX*4)
	ADCB    $0, const_recPacketsHi(DX)(CX*1)
	ADDL    R13, const_recBytesLo(DX)(CX*4)
	ADCW    $0, const_recBytesHi(DX)(CX*2)
	MOVL    const_recVS(DX), R8
	MOVL    const_recNode(DX), R15
	MOVQ    changes_virtual(DI), R11
	MOVQ    changes_node(DI), R12
	SHLQ    $5, R8                          // counters are 32 bytes
	SHLQ    $5, R15
	ADDQ    R11, R8
	ADDQ    R12, R15
	INCQ    TrafficStats_Packets(R8)(CX*8)
	ADDQ    R13, TrafficStats_Bytes(R8)(CX*8)
	INCQ    TrafficStats_Packets(R15)(CX*8)
	ADDQ    R13, TrafficStats_Bytes(R15)(CX*8)
	ADDQ    CX, changes_toClient(DI)
	MOVQ    egress_n(R10), R8
	MOVQ    R8, R11
	SHLQ    $4, R11
	VMOVDQU (R14), X0
	VMOVDQU X0, egress_batch(R10)(R11*1)
	INCQ    R8
	MOVQ    R8, egress_n(R10)
	LEAQ    -1(BX), R8
	ANDQ    R8, BX

next:
	TESTQ BX, BX
	JNE   packet

done:
	MOVQ BX, rest+24(FP)
	RET

otherWays: // direct return, of which there is the client's side only
	TESTL $const_tunnelledBit, (DX)
	JNE   done
	TESTL $1, R15
	JNE   done
	CMPB  changes_tcp(DI), $0
	JNE   judge
	TESTL $const_halfOpenBit, (DX)
	JNE   done
	JMP   judge

relearn: // a datagram that comes from another MAC may be from another firewall
	MOVQ    (R14), AX
	ADDQ    changes_mem(DI), AX
	MOVL    6(AX), R8
	MOVWLZX 10(AX), R11
	CMPL    R8, const_recClientMAC(DX)
	JNE     done
	CMPW    R11, (const_recClientMAC+4)(DX)
	JNE     done
	JMP     known

server:
	CMPW    R11, const_recServerIf(DX)
	JNE     done
	MOVWLZX const_recClientIf(DX), R8
	CMPQ    R8, changes_portsLen(DI)
	JCC     done
	IMUL3Q  $egress__size, R8, R10
	ADDQ    changes_tx(DI), R10
	CMPQ    egress_n(R10), $const_burstSize
	JEQ     done
	MOVL    $1, CX
	CMPB    changes_tcp(DI), $0
	JEQ     udpServer
	MOVBLZX const_recScale(DX), R11
	MOVL    R11, R8
	ANDL    $0xf, R11
	SHRL    $4, R8
	JMP     tcp

udpServer:
	MOVL (DX), R8
	ANDL $const_answeredBits, R8
	CMPL R8, $const_answered
	JNE  done

toClient:
	MOVQ    (R14), AX
	ADDQ    changes_mem(DI), AX
	MOVWLZX const_recClientIf(DX), R8
	MOVQ    changes_macs(DI), R11
	MOVQ    (R11)(R8*8), R11
	MOVQ    const_recClientMAC(DX), R12
	MOVQ    R12, (AX)                       // two bytes too many, which are written next
	MOVL    R11, 6(AX)
	SHRQ    $32, R11
	MOVW    R11, 10(AX)
	MOVWLZX const_packetL3(R13), R11
	ADDQ    R11, AX
	MOVL    (DX), R8
	ANDL    $const_routedBit, R8
	CMPL    R8, $const_routedBit
	JEQ     routedToClient

end:
	LEAQ    const_recVirtual(DX), R11
	LEAQ    const_recClient(DX), R12
	MOVL    const_recCPort(DX), R15         // and VPort
	BSWAPL  R15
	MOVL    const_recDiffs(DX), R8
	NOTL    R8
	JMP     translate

routedToClient:
	CMPL const_recSNAT(DX), $0
	JNE  end

forward:
	CMPB    const_packetV6(R13), $0
	JNE     forward6
	MOVWLZX SUM4(AX), R12
	NOTL    R12
	ADDW    $0xfffe, R12
	ADCW    $0, R12
	NOTL    R12
	DECB    TTL4(AX)
	MOVW    R12, SUM4(AX)
	JMP     count

forward6:
	DECB TTL6(AX)
	JMP  count

translate6:
	MOVQ   0(R11), X1
	MOVQ   8(R11), R11
	BSWAPQ R11
	MOVQ   R11, (SRC6+8)(AX)
	MOVQ   X1, R11
	BSWAPQ R11
	MOVQ   R11, SRC6(AX)
	MOVQ   0(R12), R11
	MOVQ   8(R12), R12
	BSWAPQ R11
	BSWAPQ R12
	MOVQ   R11, DST6(AX)
	MOVQ   R12, (DST6+8)(AX)
	DECB   TTL6(AX)
	ADDQ   $20, AX                          // as if the header were of 20 bytes
	JMP    transport

udpSum:
	MOVWLZX UDPSUM(AX), R11
	TESTL   R11, R11
	JEQ     count                           // there is none
	NOTL    R11
	ADDW    R8, R11
	ADCW    $0, R11
	NOTL    R11
	CMPW    R11, $1
	SBBW    $0, R11                         // 0 becomes 0xffff
	MOVW    R11, UDPSUM(AX)
	JMP     count

#define NOTSTEADY tcpOneSided
#include "steady_amd64.h"

tcpOneSided: // TrackClientSteady; R8 is the scale of the client's window
	TESTL   $const_oneSidedBit, (DX)
	JEQ     done
	MOVL    (DX), R15
	ANDL    $const_steadyClientBits, R15
	CMPL    R15, $const_steadyClient
	JNE     done
	MOVBLZX const_packetFlags(R13), R15
	ANDL    $const_steadyFlags, R15
	CMPL    R15, $const_steadyFlag
	JNE     done
	MOVWLZX const_recMaxWin(DX), AX
	SHLXL   R8, AX, R8
	ADDL    $const_slack, R8                // how far acknowledgements may be from the last
	MOVL    const_packetSeq(R13), AX
	MOVL    const_recWin(DX), R11
	LEAL    const_oneSidedGap(R11), R15
	SUBL    AX, R15
	ADDL    const_packetLen(R13), AX        // the segment's end
	MOVL    AX, CX
	SUBL    R11, CX
	MOVL    CX, R11                         // how much of it is new
	ADDL    $const_oneSidedGap, CX
	ORL     CX, R15
	MOVL    const_packetAck(R13), CX
	SUBL    (const_recWin+4)(DX), CX
	ADDL    R8, CX
	ORL     CX, R15
	SUBL    R8, CX
	SUBL    CX, R8
	ORL     R8, R15
	JMI     done
	TESTL   R11, R11
	JLE     ackOneSided
	MOVL    AX, const_recWin(DX)

ackOneSided:
	MOVL  const_packetAck(R13), R8
	TESTL CX, CX
	JLE   serverEnd
	MOVL  R8, (const_recWin+4)(DX)

serverEnd:
	MOVL  R8, R11
	SUBL  (const_recWin+8)(DX), R11
	TESTL R11, R11
	JLE   windowOneSided
	MOVL  R8, (const_recWin+8)(DX)

windowOneSided:
	XORL    CX, CX
	MOVWLZX const_packetWindow(R13), R8
	CMPW    R8, const_recMaxWin(DX)
	JLS     toServer
	MOVW    R8, const_recMaxWin(DX)
	JMP     toServer
