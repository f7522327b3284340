#include "go_asm.h"
#include "textflag.h"

// Offsets in the frame are those of plain.go, in Packet and Key those that plain_unsafe.go holds. Every field is where its name says: masks
// and places are by byte of the register that a head, 64 bytes, is loaded into.

// A head becomes 16 bytes to be judged, a word each for EtherType and version; total length, and fragment; TTL, protocol, and UDP's length; TCP's
// data offset and flags. Numbers of more than one byte are turned around but for those that are only compared.
DATA judged<>+0(SB)/8, $0x151410110f0e0d0c
DATA judged<>+8(SB)/8, $0x2e2e2f2e26271716
GLOBL judged<>(SB), RODATA|NOPTR, $16

// A tuple: the lower halves of Src and Dst, Ports, Proto.
DATA tuple<>+0(SB)/8, $0
DATA tuple<>+8(SB)/8, $0x000000001a1b1c1d
DATA tuple<>+16(SB)/8, $0
DATA tuple<>+24(SB)/8, $0x000000001e1f2021
DATA tuple<>+32(SB)/8, $0x0000001722232425
DATA tuple<>+40(SB)/8, $0
DATA tuple<>+48(SB)/8, $0
DATA tuple<>+56(SB)/8, $0
GLOBL tuple<>(SB), RODATA|NOPTR, $64

// The prefix of IPv4 addresses mapped into IPv6, of both.
DATA prefixes<>+0(SB)/8, $0
DATA prefixes<>+8(SB)/8, $0x0000ffff00000000
DATA prefixes<>+16(SB)/8, $0
DATA prefixes<>+24(SB)/8, $0x0000ffff00000000
DATA prefixes<>+32(SB)/8, $0
DATA prefixes<>+40(SB)/8, $0
DATA prefixes<>+48(SB)/8, $0
DATA prefixes<>+56(SB)/8, $0
GLOBL prefixes<>(SB), RODATA|NOPTR, $64

// A Packet up to its TCP: TTL, Proto; Seq, Ack, Window, Flags. End, Payload and Len are made for many packets at once.
DATA fields<>+0(SB)/8, $0
DATA fields<>+8(SB)/8, $0x0000001716000000
DATA fields<>+16(SB)/8, $0x2a2b2c2d26272829
DATA fields<>+24(SB)/8, $0x002f303100000000
GLOBL fields<>(SB), RODATA|NOPTR, $32

// Its constants: L3, L4; Plain.
DATA constants<>+0(SB)/8, $0x000000000022000e
DATA constants<>+8(SB)/8, $0x0001000000000000
DATA constants<>+16(SB)/8, $0
DATA constants<>+24(SB)/8, $0
GLOBL constants<>(SB), RODATA|NOPTR, $32

// Which of four and four descriptors' words are lengths.
DATA lengths<>+0(SB)/8, $0x0000000600000002
DATA lengths<>+8(SB)/8, $0x0000000e0000000a
DATA lengths<>+16(SB)/8, $0x0000001600000012
DATA lengths<>+24(SB)/8, $0x0000001e0000001a
GLOBL lengths<>(SB), RODATA|NOPTR, $32

// Where 16 Packets begin.
DATA packets<>+0(SB)/8, $0x0000002c00000000
DATA packets<>+8(SB)/8, $0x0000008400000058
DATA packets<>+16(SB)/8, $0x000000dc000000b0
DATA packets<>+24(SB)/8, $0x0000013400000108
DATA packets<>+32(SB)/8, $0x0000018c00000160
DATA packets<>+40(SB)/8, $0x000001e4000001b8
DATA packets<>+48(SB)/8, $0x0000023c00000210
DATA packets<>+56(SB)/8, $0x0000029400000268
GLOBL packets<>(SB), RODATA|NOPTR, $64

DATA words<>+0(SB)/4, $0x45000800 // EtherType, version and header length, shifted to the end
DATA words<>+4(SB)/4, $0xff3f0000 // more fragments, offset
DATA words<>+8(SB)/4, $0x0000ffff
DATA words<>+12(SB)/4, $14
DATA words<>+16(SB)/4, $0x000000fe // a TTL above 1
DATA words<>+20(SB)/4, $0x0000ff00
DATA words<>+24(SB)/4, $0x00000600 // TCP
DATA words<>+28(SB)/4, $0x00001100 // UDP
DATA words<>+32(SB)/4, $0x0000003c
DATA words<>+36(SB)/4, $0x00000200 // SYN
DATA words<>+40(SB)/4, $8
DATA words<>+44(SB)/4, $20
DATA words<>+48(SB)/4, $34
GLOBL words<>(SB), RODATA|NOPTR, $52

// Packet n of four: what is to be judged of it, which is put into JUDGED where K7 says; tuple, Packet; and its place, as flow.Placing.Note
// says, but that it is asked for with HINT. SI is at the descriptors of the four, R8 at the tuples, DI at the Packets, R15 and R14 at buckets and tags. BX is the memory, R13 the buckets.
#define PACKET(n, JUDGED, HINT) \
	MOVQ       (16*n)(SI), AX        \
	VMOVDQU64  (BX)(AX*1), Z0        \
	MOVBELL    26(BX)(AX*1), DX      \
	MOVBELL    30(BX)(AX*1), R10     \
	MOVBELL    34(BX)(AX*1), R11     \
	MOVBLZX    23(BX)(AX*1), R12     \
	VPERMB     Z0, Z16, K7, JUDGED   \
	VPERMB.Z   Z0, Z17, K1, Z2       \
	VPERMB.Z   Z0, Z19, K3, Z3       \
	XORQ       src-8(SP), DX         \
	XORQ       dst-16(SP), R10       \
	SHLQ       $8, R11               \
	MULXQ      R10, AX, R10          \
	ORQ        R12, R11              \
	VPORQ      Z18, Z2, Z2           \
	VPORQ      Z20, Z3, Z3           \
	VMOVDQU64  Z2, K2, (40*n)(R8)    \
	VMOVDQU    Y3, (44*n)(DI)        \
	XORQ       ports-32(SP), R11     \
	XORQ       rest-24(SP), AX       \
	MOVQ       R10, DX               \
	XORQ       AX, DX                \
	MULXQ      R11, AX, R10          \
	MOVQ       R10, DX               \
	XORQ       AX, DX                \
	MOVWLZX    DX, R11               \
	CMPL       R11, $1               \
	ADCL       $0, R11               \
	MULXQ      number-40(SP), AX, R10 \
	MOVW       R11, (2*n)(R14)       \
	MOVQ       R10, (8*n)(R15)       \
	SHLQ       $6, R10               \
	HINT       (R13)(R10*1)

// Four of them, and on to the next.
#define FOUR(HINT) \
	PACKET(0, Z25, HINT)  \
	PACKET(1, Z26, HINT)  \
	PACKET(2, Z27, HINT)  \
	PACKET(3, Z28, HINT)  \
	KSHIFTLQ $16, K7, K7  \
	ADDQ     $64, SI      \
	ADDQ     $(4*40), R8  \
	ADDQ     $(4*44), DI  \
	ADDQ     $32, R15     \
	ADDQ     $8, R14      \
	DECL     R9

// func placeWide(mem []byte, frames []Frame, most uint32, pkts *Packet, keys *flow.Key, to *flow.Placing) (n int, tcp uint64)
TEXT ·placeWide(SB), NOSPLIT, $48-96
	MOVQ         mem_base+0(FP), BX
	MOVQ         mem_len+8(FP), AX
	MOVQ         frames_base+24(FP), SI
	MOVQ         pkts+56(FP), DI
	MOVQ         keys+64(FP), R8
	MOVQ         to+72(FP), CX
	SUBQ         $64, AX                      // where the last head may begin
	VPBROADCASTQ AX, Z21
	MOVL         most+48(FP), DX
	VPBROADCASTD DX, Z22
	MOVQ         $0, tcp+88(FP)
	MOVQ         const_placingSrc(CX), AX
	MOVQ         const_placingDst(CX), DX
	MOVQ         const_placingRest(CX), R10
	MOVQ         const_placingPorts(CX), R11
	MOVQ         const_placingNumber(CX), R12
	MOVQ         AX, src-8(SP)
	MOVQ         DX, dst-16(SP)
	MOVQ         R10, rest-24(SP)
	MOVQ         R11, ports-32(SP)
	MOVBLZX      const_placingFar(CX), AX
	MOVQ         R12, number-40(SP)
	MOVQ         AX, far-48(SP)
	MOVQ         const_placingBuckets(CX), R13
	MOVQ         const_placingTag(CX), R14
	MOVQ         const_placingBucket(CX), R15
	MOVQ         frames_len+32(FP), CX
	MOVQ         $0x1f0f000f00, AX
	KMOVQ        AX, K1
	MOVL         $0x1f, AX
	KMOVB        AX, K2
	MOVL         $0x70ff1800, AX
	KMOVQ        AX, K3
	MOVL         $0x55, AX
	KMOVB        AX, K6
	VBROADCASTI32X4 judged<>(SB), Z16
	VMOVDQU64    tuple<>(SB), Z17
	VMOVDQU64    prefixes<>(SB), Z18
	VMOVDQU64    fields<>(SB), Y19
	VMOVDQU64    constants<>(SB), Y20
	VMOVDQU64    lengths<>(SB), Y23
	VMOVDQU64    packets<>(SB), Z24

batch:
	VMOVDQU64 (SI), Z4
	VMOVDQU64 64(SI), Z5
	VMOVDQU64 128(SI), Z6
	VMOVDQU64 192(SI), Z7
	VPCMPUQ   $6, Z21, Z4, K6, K4
	VPCMPUQ   $6, Z21, Z5, K6, K5
	KORB      K4, K5, K4
	VPCMPUQ   $6, Z21, Z6, K6, K5
	KORB      K4, K5, K4
	VPCMPUQ   $6, Z21, Z7, K6, K5
	KORTESTB  K4, K5
	JNE       done
	MOVL      $4, R9
	MOVL      $0xffff, AX
	KMOVQ     AX, K7                           // the first 16 bytes; of the next four packets the next

	CMPB      far-48(SP), $0
	JNE       fourFar

four:
	FOUR(PREFETCHT0)
	JNE      four

judge:

	// Z8 to Z11 are the four words of 16 packets, in their order.
	VPERMT2D      Z5, Z23, Z4
	VPERMT2D      Z7, Z23, Z6
	VINSERTI64X4  $1, Y6, Z4, Z4                 // lengths of the frames
	VPUNPCKLDQ    Z26, Z25, Z12
	VPUNPCKHDQ    Z26, Z25, Z13
	VPUNPCKLDQ    Z28, Z27, Z14
	VPUNPCKHDQ    Z28, Z27, Z15
	VPUNPCKLQDQ   Z14, Z12, Z8
	VPUNPCKHQDQ   Z14, Z12, Z9
	VPUNPCKLQDQ   Z15, Z13, Z10
	VPUNPCKHQDQ   Z15, Z13, Z11
	VPSLLD        $8, Z8, Z8
	VPCMPEQD.BCST words<>+0(SB), Z8, K4
	VPTESTNMD.BCST words<>+4(SB), Z9, K4, K4
	VPTESTMD.BCST words<>+16(SB), Z10, K4, K4    // TTL
	VPANDD.BCST   words<>+8(SB), Z9, Z9          // total length
	VPCMPUD       $2, Z22, Z9, K4, K4
	VPADDD.BCST   words<>+12(SB), Z9, Z9         // End
	VPCMPUD       $2, Z4, Z9, K4, K4
	VPANDD.BCST   words<>+20(SB), Z10, Z0
	VPCMPEQD.BCST words<>+24(SB), Z0, K5         // TCP
	VPCMPEQD.BCST words<>+28(SB), Z0, K7         // UDP
	MOVQ          SI, DX
	SUBQ          frames_base+24(FP), DX
	SHRQ          $7, DX                         // 2 bytes for 16 descriptors
	KMOVW         K5, AX
	LEAQ          tcp+88(FP), R10
	MOVW          AX, -2(R10)(DX*1)
	VPTESTMD.BCST words<>+36(SB), Z11, K5, K3
	KANDNW        K4, K3, K4                     // no SYN
	KORW          K5, K7, K3
	KANDW         K4, K3, K4
	VPSRLD        $2, Z11, Z0
	VPANDD.BCST   words<>+32(SB), Z0, Z0         // TCP's header
	VPSRLD        $16, Z10, Z1                   // what must be there: UDP's length
	VMOVDQA32     Z0, K5, Z1                     // or TCP's header
	VPBROADCASTD  words<>+40(SB), Z2
	VMOVDQA32     Z2, K7, Z0                     // UDP's header
	VPBROADCASTD  words<>+44(SB), K5, Z2         // the least
	VPCMPUD       $5, Z2, Z1, K4, K4
	VPADDD.BCST   words<>+48(SB), Z1, Z1
	VPCMPUD       $2, Z9, Z1, K4, K4
	VPADDD.BCST   words<>+48(SB), Z0, Z0         // Payload
	VPSLLD        $16, Z0, Z1
	VPORD         Z9, Z1, Z1                     // End and Payload
	VPSUBD        Z0, Z9, Z0                     // Len
	KMOVW         K4, AX
	KXNORW        K5, K5, K5
	VPSCATTERDD   Z1, K5, -700(DI)(Z24*1)
	KXNORW        K7, K7, K7
	VPSCATTERDD   Z0, K7, -680(DI)(Z24*1)
	MOVL          $0x70ff1800, DX
	KMOVQ         DX, K3
	XORL          $0xffff, AX
	JNE           other
	SUBQ          $16, CX
	JNE           batch

done:
	SUBQ frames_base+24(FP), SI
	SHRQ $4, SI
	MOVQ SI, n+80(FP)
	VZEROUPPER
	RET

fourFar:
	FOUR(PREFETCHT1)
	JNE fourFar
	JMP judge

other:
	BSFL AX, AX
	SHLQ $4, AX
	LEAQ -256(SI)(AX*1), SI
	JMP  done
