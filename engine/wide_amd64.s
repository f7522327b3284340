#include "go_asm.h"
#include "textflag.h"

// Where every packet of a burst begins, of 16.
DATA packets<>+0(SB)/8, $0x0000002c00000000
DATA packets<>+8(SB)/8, $0x0000008400000058
DATA packets<>+16(SB)/8, $0x000000dc000000b0
DATA packets<>+24(SB)/8, $0x0000013400000108
DATA packets<>+32(SB)/8, $0x0000018c00000160
DATA packets<>+40(SB)/8, $0x000001e4000001b8
DATA packets<>+48(SB)/8, $0x0000023c00000210
DATA packets<>+56(SB)/8, $0x0000029400000268
GLOBL packets<>(SB), RODATA|NOPTR, $64

#define PROTO const_packetProto
#define MANY (16*const_packetSize)

// func tcpWide(pkts *[burstSize]rewrite.Packet) uint64
TEXT ·tcpWide(SB), NOSPLIT, $0-16
	MOVQ          pkts+0(FP), DI
	VMOVDQU64     packets<>(SB), Z4
	MOVL          $6, AX
	MOVL          $0xff, DX
	VPBROADCASTD  AX, Z5
	VPBROADCASTD  DX, Z6
	KXNORW        K1, K1, K1
	VPGATHERDD    PROTO(DI)(Z4*1), K1, Z0
	KXNORW        K2, K2, K2
	VPGATHERDD    (PROTO+MANY)(DI)(Z4*1), K2, Z1
	KXNORW        K3, K3, K3
	VPGATHERDD    (PROTO+2*MANY)(DI)(Z4*1), K3, Z2
	KXNORW        K4, K4, K4
	VPGATHERDD    (PROTO+3*MANY)(DI)(Z4*1), K4, Z3
	VPANDD        Z6, Z0, Z0
	VPANDD        Z6, Z1, Z1
	VPANDD        Z6, Z2, Z2
	VPANDD        Z6, Z3, Z3
	VPCMPEQD      Z5, Z0, K1
	VPCMPEQD      Z5, Z1, K2
	VPCMPEQD      Z5, Z2, K3
	VPCMPEQD      Z5, Z3, K4
	KUNPCKWD      K1, K2, K1
	KUNPCKWD      K3, K4, K3
	KUNPCKDQ      K1, K3, K1
	KMOVQ         K1, AX
	MOVQ          AX, ret+8(FP)
	VZEROUPPER
	RET

// By byte or word of a register that a line is loaded into: where the counters of a record stand, 4 bytes each, by those of a service, 8 bytes each
// (what a packet does not count is 0, and its last word among it); all bits of Seen in a record; what the TTL and the sum
// of the header that has it are less; where the MACs and the address of a frame stand in a member's entry, of half a line, behind which are zeros; what is never too much in the second line of a record: VS is put in, counters do not overflow.
DATA service<>+0(SB)/8, $0x3c3c3c3c2f2e2d2c
DATA service<>+8(SB)/8, $0x3c3c3c3c33323130
DATA service<>+16(SB)/8, $0x3c3c3c3c37363534
DATA service<>+24(SB)/8, $0x3c3c3c3c3b3a3938
DATA service<>+32(SB)/8, $0x3c3c3c3c3c3c3c3c
DATA service<>+40(SB)/8, $0x3c3c3c3c3c3c3c3c
DATA service<>+48(SB)/8, $0x3c3c3c3c3c3c3c3c
DATA service<>+56(SB)/8, $0x3c3c3c3c3c3c3c3c
GLOBL service<>(SB), RODATA|NOPTR, $64

DATA seenBits<>+0(SB)/8, $0
DATA seenBits<>+8(SB)/8, $0
DATA seenBits<>+16(SB)/8, $0
DATA seenBits<>+24(SB)/8, $0
DATA seenBits<>+32(SB)/8, $0
DATA seenBits<>+40(SB)/8, $0
DATA seenBits<>+48(SB)/8, $0
DATA seenBits<>+56(SB)/8, $0xffffffff00000000
GLOBL seenBits<>(SB), RODATA|NOPTR, $64

DATA hop<>+0(SB)/8, $0
DATA hop<>+8(SB)/8, $0
DATA hop<>+16(SB)/8, $0x0001000000000000
DATA hop<>+24(SB)/8, $0x000000000000fffe
DATA hop<>+32(SB)/8, $0
DATA hop<>+40(SB)/8, $0
DATA hop<>+48(SB)/8, $0
DATA hop<>+56(SB)/8, $0
GLOBL hop<>(SB), RODATA|NOPTR, $64

DATA member<>+0(SB)/8, $0x0706050403020100
DATA member<>+8(SB)/8, $0x202020200b0a0908
DATA member<>+16(SB)/8, $0x2020202020202020
DATA member<>+24(SB)/8, $0x0d0c202020202020
DATA member<>+32(SB)/8, $0x2020202020200f0e
DATA member<>+40(SB)/8, $0x2020202020202020
DATA member<>+48(SB)/8, $0x2020202020202020
DATA member<>+56(SB)/8, $0x2020202020202020
GLOBL member<>(SB), RODATA|NOPTR, $64

DATA most<>+0(SB)/8, $0xffffffffffffffff
DATA most<>+8(SB)/8, $0xffffffffffffffff
DATA most<>+16(SB)/8, $0xffffffffffffffff
DATA most<>+24(SB)/8, $0xffffffffffffffff
DATA most<>+32(SB)/8, $0xffffffffffffffff
DATA most<>+40(SB)/8, $0xfffeffffffffffff
DATA most<>+48(SB)/8, $0xfffefffffffeffff
DATA most<>+56(SB)/8, $0xfffffffffffeffff
GLOBL most<>(SB), RODATA|NOPTR, $64

// What is first of a packet of the side that its reference ends with, SIDE; of the other one it jumps by OTHER. UP is the port that its record
// wants, BITS and IS what the state must be. R13 is where its Packet is, CX its descriptor, AX the frame in R14, DX the record, R12 the member.
#define JUDGE(SIDE, OTHER, UP, BITS, IS) \
	TZCNTQ  BX, CX                                          \
	MOVL    worker_refs(SI)(CX*4), DX                       \
	IMUL3Q  $const_packetSize, CX, R13                      \
	MOVWLZX worker_ports(SI)(CX*2), R11                     \
	SHLQ    $4, CX                                          \
	MOVQ    worker_descs(SI)(CX*1), AX                      \
	TESTL   $1, DX                                          \
	OTHER   turn                                            \
	SHLQ    $6, DX                                          \
	ADDQ    R9, DX                                          \
	CMPB    (worker_pkts+const_packetPlain)(SI)(R13*1), $0  \
	JEQ     done                                            \
	MOVL    (-64*SIDE)(DX), R8                              \
	ANDL    $(BITS|const_kindBits|const_liveBit), R8        \
	XORL    $(IS|const_liveBit), R8                         \
	ORL     (const_recSNAT-64*SIDE)(DX), R8                 \
	JNE     done                                            \
	CMPW    R11, (UP-64*SIDE)(DX)                           \
	JNE     done                                            \
	MOVL    (const_recNode-64*SIDE)(DX), R12                \
	CMPQ    R12, changes_nodesLen(DI)                       \
	JCC     done

// The egress port R8, whose batch is not full. R15 is how many are in it, R10 the port.
#define EGRESS \
	CMPQ   R8, changes_portsLen(DI)  \
	JCC    done                      \
	IMUL3Q $egress__size, R8, R10    \
	ADDQ   changes_tx(DI), R10       \
	MOVQ   egress_n(R10), R15        \
	CMPQ   R15, $const_burstSize     \
	JEQ    done

#define FLAGS \
	MOVBLZX (worker_pkts+const_packetFlags)(SI)(R13*1), R11 \
	ANDL    $const_steadyFlags, R11                         \
	CMPL    R11, $const_steadyFlag                          \
	JNE     done

// flow.Record.TrackSteady, for all its tests at once: Z4 is what the segment says, Z6 by how much that is more than what the record has, and
// Z7 and Z5 what must not be more than the other. No counter overflows, and VS is one that there is.
#define TRACK(SIDE) \
	VMOVDQU64     (-64*SIDE)(DX), Z0                                    \
	VMOVDQU64     (64-64*SIDE)(DX), Z2                                  \
	VMOVDQU64     (AX)(R14*1), Z3                                       \
	VPCMPUD       $2, Z21, Z2, K6                                       \
	VPERMB        Z3, Z16, Z4                                           \
	VPADDD.BCST   (worker_pkts+const_packetLen)(SI)(R13*1), Z4, K2, Z4  \
	VPERMB.Z      Z2, Z22, K1, Z5                                       \
	VPBROADCASTD  (const_recScale-64*SIDE)(DX), Z6                      \
	VPSRLVD       Z24, Z6, Z6                                           \
	VPANDD        Z25, Z6, Z6                                           \
	VPSLLVD       Z6, Z5, Z5                                            \
	VPADDD        Z26, Z5, Z5                                           \
	VPSUBD        Z2, Z4, Z6                                            \
	VPXORD        Z12, Z6, Z6                                           \
	VPADDD        Z5, Z6, Z7                                            \
	VPTERNLOGD    $0xea, Z27, Z28, Z5                                   \
	VPCMPUD       $2, Z5, Z7, K6, K6                                    \
	KORTESTW      K6, K6                                                \
	JCC           done                                                  \
	VMOVDQA64     Z4, Z8                                                \
	VPTERNLOGD    $0xea, Z29, Z30, Z8                                   \
	VPMAXSD       Z15, Z6, K3, Z8                                       \
	VPADDD        Z8, Z2, Z2                                            \
	VPMAXUW       Z4, Z2, K4, Z2

// The same for a datagram, of which there is nothing to be judged.
#define COUNT(SIDE) \
	VMOVDQU64  (-64*SIDE)(DX), Z0     \
	VMOVDQU64  (64-64*SIDE)(DX), Z2   \
	VMOVDQU64  (AX)(R14*1), Z3        \
	VPCMPUD    $2, Z21, Z2, K6        \
	VPERMB     Z3, Z16, Z8            \
	KORTESTW   K6, K6                 \
	JCC        done                   \
	VPORD      Z29, Z8, Z8            \
	VPADDD     Z8, Z2, Z2

// TTL and sums: in one's complement, what is borrowed is taken away at the other end. Z7 are the Diffs.
#define HOP \
	VPCMPUW $1, Z14, Z3, K7    \
	VPSUBW  Z14, Z3, Z3        \
	VPADDW  Z13, Z3, K7, Z3

#define TCPSUMS \
	VPCMPUW $1, Z7, Z3, K6     \
	VPSUBW  Z7, Z3, Z3         \
	VPADDW  Z13, Z3, K6, Z3    \
	HOP

// A sum of 0 is none and stays, and no other becomes 0.
#define UDPSUMS \
	VPTESTMW   Z3, Z3, K1, K3      \
	KORD       K2, K3, K4          \
	VPCMPUW    $1, Z7, Z3, K4, K6  \
	VPSUBW     Z7, Z3, K4, Z3      \
	VPADDW     Z13, Z3, K6, Z3     \
	VPTESTNMW  Z3, Z3, K3, K6      \
	VMOVDQU16  Z13, K6, Z3         \
	HOP

// Frame, record and counters: Z3 is the frame but for what Z5 has instead, Z8 what a packet counts. The descriptor goes to its egress port.
#define STORE(SIDE) \
	VPTERNLOGD $0xd8, Z9, Z31, Z0                      \
	VPTERNLOGD $0xd8, Z10, Z5, Z3                      \
	VPERMB     Z8, Z18, Z8                             \
	MOVQ       changes_virtual(DI), R11                \
	MOVQ       changes_node(DI), R13                   \
	SHLQ       $5, R8                                  \
	SHLQ       $5, R12                                 \
	VMOVDQU    worker_descs(SI)(CX*1), X4              \
	VMOVDQU8   Z3, K5, (AX)(R14*1)                     \
	VMOVDQU64  Z0, (-64*SIDE)(DX)                      \
	VMOVDQU64  Z2, (64-64*SIDE)(DX)                    \
	VPADDQ     (R11)(R8*1), Y8, Y5                     \
	VMOVDQU    Y5, (R11)(R8*1)                         \
	VPADDQ     (R13)(R12*1), Y8, Y6                    \
	VMOVDQU    Y6, (R13)(R12*1)                        \
	LEAQ       1(R15), R11                             \
	SHLQ       $4, R15                                 \
	MOVQ       R11, egress_n(R10)                      \
	VMOVDQU    X4, egress_batch(R10)(R15*1)

// To the server: R11 is the member's entry, and R8 its port. READDRESS has in Z5 what becomes of the frame's addresses, and in Z7 the Diffs.
#define TOSERVER \
	MOVQ R12, R11                 \
	SHLQ $5, R11                  \
	ADDQ changes_nodes(DI), R11   \
	MOVL node_port(R11), R8       \
	SUBL $const_nodeUsable, R8    \
	EGRESS

#define READDRESS \
	VMOVDQU (R11), Y5            \
	VPERMB  Z0, Z17, Z7          \
	VPERMB  Z5, Z19, Z5          \
	MOVL    const_recVS(DX), R8  \
	VPORQ   Z7, Z5, Z5

// To the client: R8 is the port.
#define TOCLIENT \
	MOVWLZX (const_recClientIf-64)(DX), R8 \
	EGRESS

#define READDRESSBACK \
	SHLQ       $4, R8                     \
	ADDQ       changes_senders(DI), R8    \
	VMOVDQU    (R8), X5                   \
	VPERMB     Z0, Z17, Z7                \
	VPTERNLOGD $0xf8, Z11, Z2, Z5         \
	MOVL       (const_recVS-64)(DX), R8   \
	VPORQ      Z7, Z5, Z5                 \
	VPXORQ     Z20, Z7, Z7

// func changeWide(w *worker, c *changes, set uint64) (rest uint64)
//
// What changeVectors does. A packet is changed by few instructions for all of its fields, without a branch on what it says.
//
//	SI  worker    DI  changes     R9   records   R14  memory   BX  set
//	Z0  record's first line       Z2   its second line         Z3  frame
TEXT ·changeWide(SB), NOSPLIT, $16-32
	MOVQ         w+0(FP), SI
	MOVQ         c+8(FP), DI
	MOVQ         set+16(FP), BX
	MOVQ         changes_records(DI), R9
	MOVQ         changes_mem(DI), R14
	MOVQ         changes_virtualLen(DI), AX
	VMOVDQU64    most<>(SB), Z21
	VMOVDQU64    service<>(SB), Z18
	VMOVDQU64    member<>(SB), Z19
	VMOVDQU64    seenBits<>(SB), Z9
	VMOVDQU64    hop<>(SB), Z14
	VPXORQ       Z15, Z15, Z15
	VPTERNLOGD   $0xff, Z13, Z13, Z13
	VPBROADCASTD changes_now(DI), Z31
	MOVL         $0xf, DX
	VPBROADCASTD DX, Z25
	MOVQ         BX, turned-8(SP)             // the set at the last turn
	MOVQ         $0, toClient-16(SP)          // all bits while packets go to clients
	SUBQ         $1, AX
	JCS          done
	MOVL         $(1<<const_vsWord), DX
	KMOVW        DX, K1
	VPBROADCASTD AX, K1, Z21
	TESTQ        BX, BX
	JEQ          done

turn: // the patterns of the next packet's side
	TZCNTQ    BX, CX
	MOVQ      turned-8(SP), R8
	XORQ      BX, R8
	POPCNTQ   R8, R8
	ANDQ      toClient-16(SP), R8
	ADDQ      R8, changes_toClient(DI)
	MOVL      worker_refs(SI)(CX*4), DX
	MOVQ      BX, turned-8(SP)
	ANDL      $1, DX
	MOVBLZX   changes_tcp(DI), AX
	MOVQ      DX, R8
	NEGQ      R8
	MOVQ      R8, toClient-16(SP)
	LEAQ      (DX)(AX*2), AX
	IMUL3Q    $pattern__size, AX, AX
	LEAQ      ·patterns(SB), R8
	ADDQ      R8, AX
	VMOVDQU64 pattern_said(AX), Z16
	VMOVDQU64 pattern_diffs(AX), Z17
	VMOVDQU64 pattern_one(AX), Z29
	VMOVDQU64 pattern_turns(AX), Z20
	VMOVDQU64 pattern_mac(AX), Z11
	VMOVDQU64 pattern_ends(AX), Z10
	KMOVQ     pattern_stored(AX), K5
	CMPB      changes_tcp(DI), $0
	JNE       segments
	KMOVQ     pattern_sum(AX), K1
	MOVL      $(1<<const_ipSumWord), R8
	KMOVQ     R8, K2
	TESTL     DX, DX
	JNE       udpClient

udpServer:
	JUDGE(0, JNE, const_recClientIf, 0, 0)
	TOSERVER
	COUNT(0)
	READDRESS
	UDPSUMS
	STORE(0)
	BLSRQ BX, BX
	JNE   udpServer
	JMP   done

udpClient:
	JUDGE(1, JEQ, const_recServerIf, const_answeredBits, const_answered)
	TOCLIENT
	COUNT(1)
	READDRESSBACK
	UDPSUMS
	STORE(1)
	BLSRQ BX, BX
	JNE   udpClient
	JMP   done

segments:
	VMOVDQU64 pattern_windows(AX), Z22
	VMOVDQU64 pattern_nibble(AX), Z24
	VMOVDQU64 pattern_slack(AX), Z26
	VMOVDQU64 pattern_turned(AX), Z12
	VMOVDQU64 pattern_limit(AX), Z27
	VMOVDQU64 pattern_open(AX), Z28
	VMOVDQU64 pattern_size(AX), Z30
	KMOVQ     pattern_windowBytes(AX), K1
	KMOVQ     pattern_endWord(AX), K2
	KMOVQ     pattern_grows(AX), K3
	KMOVQ     pattern_widest(AX), K4
	TESTL     DX, DX
	JNE       tcpClient

tcpServer:
	JUDGE(0, JNE, const_recClientIf, const_steadyBits, const_steady)
	FLAGS
	TOSERVER
	TRACK(0)
	VPTERNLOGD $0xd8, Z11, Z4, Z2             // the client's MAC may have changed
	READDRESS
	TCPSUMS
	STORE(0)
	BLSRQ BX, BX
	JNE   tcpServer
	JMP   done

tcpClient:
	JUDGE(1, JEQ, const_recServerIf, const_steadyBits, const_steady)
	FLAGS
	TOCLIENT
	TRACK(1)
	READDRESSBACK
	TCPSUMS
	STORE(1)
	BLSRQ BX, BX
	JNE   tcpClient

done:
	MOVQ    BX, rest+24(FP)
	XORQ    turned-8(SP), BX
	POPCNTQ BX, BX
	ANDQ    toClient-16(SP), BX
	ADDQ    BX, changes_toClient(DI)
	VZEROUPPER
	RET
