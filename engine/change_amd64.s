#include "go_asm.h"
#include "textflag.h"

// Offsets of a plain frame, those of rewrite/plain.go.
#define TTL 22
#define IPSUM 24
#define SRC 26
#define DST 30
#define SRCPORT 34
#define DSTPORT 36
#define UDPSUM 40
#define TCPSUM 50

// Of a record (DX), windows by side.
#define END(side) const_recWin(DX)(side*8)
#define ACK(side) (const_recWin+4)(DX)(side*8)
#define MAXWIN(side) const_recMaxWin(DX)(side*2)

// func changeVectors(w *worker, c *changes, set uint64) (rest uint64)
//
// For packet after packet of set, until one is not as nearly all are: what trackPlain asks, and then what changeOne does. Nothing
// has been changed for the packet at which it ends.
//
//	SI  worker    DI  changes     R9   records   BX  set
//	DX  record    R13 Packet      R14  descriptor
//	CX  side      R12 node        R10  egress port
//	AX  frame, once the packet is judged
TEXT ·changeVectors(SB), NOSPLIT, $0-32
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
	CMPB    const_packetPlain(R13), $0
	JEQ     done
	MOVL    (DX), R8                        // the state
	ANDL    $const_kindBits, R8
	ORL     const_recSNAT(DX), R8
	JNE     done
	MOVL    const_recNode(DX), R12
	MOVL    const_recVS(DX), R8
	CMPQ    R12, changes_nodesLen(DI)
	JCC     done
	CMPQ    R8, changes_virtualLen(DI)
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
	MOVBLZX const_recScale(DX), R8
	MOVL    R8, R11
	ANDL    $0xf, R8                        // of the sender's windows
	SHRL    $4, R11                         // of the receiver's
	CMPB    changes_tcp(DI), $0
	JNE     tcp

toServer:
	MOVQ    (R14), AX
	ADDQ    changes_mem(DI), AX
	MOVL    const_recNode(DX), R15
	SHLQ    $4, R15
	ADDQ    changes_addrs(DI), R15
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
	MOVL    8(R15), R8                      // the lower half of Lo
	MOVWLZX const_recNPort(DX), R11
	BSWAPL  R8
	ROLW    $8, R11
	MOVL    R8, DST(AX)
	MOVW    R11, DSTPORT(AX)
	MOVL    const_recDiffs(DX), R12

sums: // of swapped words (rewrite/plain.go); an addition with carry folds them
	BSWAPL  R12
	MOVWLZX R12, R11                        // swapped L4Diff
	SHRL    $16, R12                        // swapped L3Diff
	MOVWLZX IPSUM(AX), R8
	NOTL    R8
	ADDW    R12, R8
	ADCW    $0xfffe, R8                     // one less of the TTL
	ADCW    $0, R8
	NOTL    R8
	DECB    TTL(AX)
	MOVW    R8, IPSUM(AX)
	CMPB    changes_tcp(DI), $0
	JEQ     udpSum
	MOVWLZX TCPSUM(AX), R8
	NOTL    R8
	ADDW    R11, R8
	ADCW    $0, R8
	NOTL    R8
	MOVW    R8, TCPSUM(AX)

count:
	MOVWLZX const_packetEnd(R13), R13
	SUBL    $14, R13                        // from the IP header on
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
	MOVL    const_recVirtual4(DX), R8
	MOVWLZX const_recVPort(DX), R11
	BSWAPL  R8
	ROLW    $8, R11
	MOVL    R8, SRC(AX)
	MOVW    R11, SRCPORT(AX)
	MOVL    const_recDiffs(DX), R12
	NOTL    R12
	JMP     sums

udpSum:
	MOVWLZX UDPSUM(AX), R8
	TESTL   R8, R8
	JEQ     count                           // there is none
	NOTL    R8
	ADDW    R11, R8
	ADCW    $0, R8
	NOTL    R8
	CMPW    R8, $1
	SBBW    $0, R8                          // 0 becomes 0xffff
	MOVW    R8, UDPSUM(AX)
	JMP     count

#define NOTSTEADY done
#include "steady_amd64.h"
