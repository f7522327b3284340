#include "go_asm.h"
#include "textflag.h"

// What ParsePlain and ParseRegular do, and the table's hash, for packet after packet until one is neither plain nor regular. Offsets
// in the frame are those of plain.go: EtherType at 12, IPv4 header at 14, ports at 34. With a tag AX is 4 bytes into the
// frame, and behind an IPv6 header 20 bytes further still, so that they are the same for all.

// EtherType and the byte 0x45, neither "more fragments" nor an offset: of bytes 12 to 27 these are compared, with these.
DATA mixedMask<>+0(SB)/8, $0x0000000000ffffff
DATA mixedMask<>+8(SB)/8, $0x000000000000ff3f
GLOBL mixedMask<>(SB), RODATA|NOPTR, $16

DATA mixedWant<>+0(SB)/8, $0x0000000000450008
DATA mixedWant<>+8(SB)/8, $0x0000000000000000
GLOBL mixedWant<>(SB), RODATA|NOPTR, $16

// Bytes 38 to 53 become Seq, Ack, Len (0), Window and Flags of a segment.
DATA mixedSegment<>+0(SB)/8, $0x0405060700010203
DATA mixedSegment<>+8(SB)/8, $0x80090a0b80808080
GLOBL mixedSegment<>(SB), RODATA|NOPTR, $16

// Bytes 22 to 37 of a packet of IPv4, from its TTL on, become the lower halves of Src and Dst.
DATA mixedSrc4<>+0(SB)/8, $0x8080808080808080
DATA mixedSrc4<>+8(SB)/8, $0x8080808004050607
GLOBL mixedSrc4<>(SB), RODATA|NOPTR, $16

DATA mixedDst4<>+0(SB)/8, $0x8080808080808080
DATA mixedDst4<>+8(SB)/8, $0x8080808008090a0b
GLOBL mixedDst4<>(SB), RODATA|NOPTR, $16

// The prefix of IPv4 addresses mapped into IPv6.
DATA mixedPrefix<>+0(SB)/8, $0
DATA mixedPrefix<>+8(SB)/8, $0x0000ffff00000000
GLOBL mixedPrefix<>(SB), RODATA|NOPTR, $16

// An address of IPv6 becomes its two halves.
DATA mixedHalves<>+0(SB)/8, $0x0001020304050607
DATA mixedHalves<>+8(SB)/8, $0x08090a0b0c0d0e0f
GLOBL mixedHalves<>(SB), RODATA|NOPTR, $16

// func mixedVectors(mem []byte, frames []Frame, most uint32, pkts *Packet, keys *flow.Key, from int, to *flow.MixedPlacing, least *[256]uint8) (n int)
//
//	SI  Frame     DI  Packet     R8  Key     BX  its number in the burst     R9  8, the length of UDP's header
//	R10 TTL and protocol         R11 where the packet ends                   R12 L4
//	R13 the UDP or TCP header's length, then Payload                         R14 what must be there by that header, then ports and protocol
//	R15 VLAN, V6 and Plain as in Packet
TEXT ·mixedVectors(SB), NOSPLIT, $16-104
	MOVQ    frames_base+24(FP), SI
	MOVQ    frames_len+32(FP), CX
	MOVQ    pkts+56(FP), DI
	MOVQ    keys+64(FP), R8
	MOVQ    from+72(FP), BX
	SHLQ    $4, CX
	ADDQ    SI, CX
	MOVQ    CX, end-8(SP)
	MOVQ    mem_len+8(FP), CX
	SUBQ    $const_longHeadLen, CX       // where the last head may begin
	MOVQ    CX, last-16(SP)
	MOVL    $8, R9
	VMOVDQU mixedMask<>(SB), X8
	VMOVDQU mixedWant<>(SB), X9
	VMOVDQU mixedSegment<>(SB), X10
	VMOVDQU mixedSrc4<>(SB), X11
	VMOVDQU mixedDst4<>(SB), X12
	VMOVDQU mixedPrefix<>(SB), X13
	VMOVDQU mixedHalves<>(SB), X14

frame:
	MOVQ    0(SI), AX
	CMPQ    AX, last-16(SP)
	JHI     done
	ADDQ    mem_base+0(FP), AX
	MOVL    $14, CX                      // L3
	XORL    R15, R15
	MOVWLZX 12(AX), DX
	CMPL    DX, $0xdd86
	JEQ     six
	CMPL    DX, $0x0008
	JEQ     plain
	CMPL    DX, $0x0081                  // 802.1Q
	JEQ     tag
	CMPL    DX, $0xa888                  // 802.1ad
	JNE     done

tag:
	MOVWLZX 14(AX), R15
	ROLW    $8, R15
	ADDQ    $4, AX
	MOVL    $18, CX
	MOVWLZX 12(AX), DX
	CMPL    DX, $0xdd86
	JEQ     six

four:
	VPXOR   12(AX), X9, X0
	VPTEST  X8, X0
	JNE     done
	VMOVDQU 22(AX), X1
	VPSHUFB X11, X1, X2
	VPSHUFB X12, X1, X3
	VPOR    X13, X2, X2
	VPOR    X13, X3, X3
	MOVWLZX 22(AX), R10                  // TTL and protocol
	MOVWLZX 16(AX), R11                  // total length
	ROLW    $8, R11
	ADDL    CX, R11
	LEAL    20(CX), R12

transport:
	CMPL    R11, 8(SI)
	JHI     done
	CMPL    R11, $0xffff                 // offsets have 16 bits
	JHI     done
	MOVW    CX, 0(DI)                    // L3
	MOVL    R10, DX
	SHRL    $8, DX
	MOVBLZX 46(AX), R13                  // TCP's data offset
	MOVWLZX 38(AX), CX                   // UDP's length
	SHRL    $2, R13
	ANDL    $0x3c, R13
	ROLW    $8, CX
	MOVL    R13, R14
	CMPL    DX, $17
	CMOVLEQ CX, R14
	CMOVLEQ R9, R13
	MOVBLZX 47(AX), CX                   // TCP's flags; UDP has none
	CMOVLEQ R9, CX
	TESTB   $2, CX                       // SYN
	JNE     done
	MOVQ    least+88(FP), CX
	MOVBLZX (CX)(DX*1), CX
	CMPL    R14, CX
	JCS     done
	ADDL    R12, R14
	CMPL    R14, R11
	JHI     done
	MOVW    R12, 2(DI)                   // L4
	ADDL    R12, R13
	MOVW    R11, 4(DI)                   // End
	MOVW    R13, 6(DI)                   // Payload
	SHLQ    $24, R10
	ORQ     R15, R10
	MOVQ    R10, 8(DI)                   // VLAN, V6, TTL, Proto, Opens, Plain, ICMP
	VMOVDQU 38(AX), X0
	VPSHUFB X10, X0, X0
	VMOVDQU X0, 16(DI)                   // TCP
	SUBL    R13, R11
	MOVL    R11, 24(DI)                  // TCP.Len
	MOVL    34(AX), R14
	BSWAPL  R14
	VMOVDQU X2, 0(R8)                    // Src
	VMOVDQU X3, 16(R8)                   // Dst
	MOVL    R14, 32(R8)                  // Ports
	MOVL    DX, 36(R8)                   // Proto
	SHLQ    $8, R14
	ORQ     DX, R14

	// As hashKeys (flow/burst_amd64.s).
	MOVQ       to+80(FP), CX
	MOVQ       (const_mixedSecret+16)(CX), AX
	MOVQ       (const_mixedSecret+24)(CX), DX
	XORQ       0(R8), AX
	XORQ       16(R8), DX
	MULQ       DX
	MOVQ       AX, R10
	XORQ       DX, R10
	MOVQ       (const_mixedSecret+0)(CX), AX
	MOVQ       (const_mixedSecret+8)(CX), DX
	XORQ       8(R8), AX
	XORQ       24(R8), DX
	XORQ       (const_mixedSecret+8)(CX), R10
	MULQ       DX
	XORQ       (const_mixedSecret+16)(CX), R14
	XORQ       DX, AX
	XORQ       R10, AX
	MULQ       R14
	XORQ       DX, AX
	MOVWLZX    AX, R13                   // the tag, never 0
	CMPL       R13, $1
	ADCL       $0, R13
	MULQ       const_mixedNumber(CX)
	MOVQ       const_mixedTag(CX), R10
	MOVQ       const_mixedBucket(CX), R11
	MOVW       R13, (R10)(BX*2)
	MOVQ       DX, (R11)(BX*8)
	SHLQ       $6, DX
	ADDQ       const_mixedBuckets(CX), DX
	CMPB       const_mixedFar(CX), $0
	JNE        far
	PREFETCHT0 (DX)

asked:
	INCQ       BX
	ADDQ       $44, DI
	ADDQ       $40, R8
	ADDQ       $16, SI
	CMPQ       SI, end-8(SP)
	JCS        frame

done:
	SUBQ from+72(FP), BX
	MOVQ BX, n+96(FP)
	RET

far:
	PREFETCHT1 (DX)
	JMP        asked

plain:
	BTSQ    $48, R15
	CMPB    22(AX), $2                   // TTL
	JCS     done
	MOVWLZX 16(AX), R11
	ROLW    $8, R11
	CMPL    R11, most+48(FP)
	JLS     four
	JMP     done

six:
	MOVBLZX 14(AX), DX
	SHRL    $4, DX
	CMPL    DX, $6
	JNE     done
	CMPQ    22(AX), $0                   // addresses that begin with 64 zeros
	JEQ     done
	CMPQ    38(AX), $0
	JEQ     done
	MOVBLZX 20(AX), DX                   // UDP without a checksum
	XORL    $17, DX
	ORW     60(AX), DX
	JEQ     done
	VMOVDQU 22(AX), X2
	VMOVDQU 38(AX), X3
	VPSHUFB X14, X2, X2
	VPSHUFB X14, X3, X3
	BTSQ    $16, R15                     // V6
	MOVWLZX 20(AX), R10                  // protocol and TTL
	ROLW    $8, R10
	MOVWLZX 18(AX), R11                  // payload length
	ROLW    $8, R11
	LEAL    40(CX)(R11*1), R11
	LEAL    40(CX), R12
	ADDQ    $20, AX
	JMP     transport
