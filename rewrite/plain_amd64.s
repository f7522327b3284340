#include "textflag.h"

// What ParsePlain does, for packet after packet until one is not plain. Offsets in the frame are those of plain.go: EtherType
// at 12, IPv4 header at 14, ports at 34. Offsets in Packet and Key are held by plain_amd64.go.

// EtherType and the byte 0x45, neither "more fragments" nor an offset: of bytes 12 to 27 these are compared, with these.
DATA plainMask<>+0(SB)/8, $0x0000000000ffffff
DATA plainMask<>+8(SB)/8, $0x000000000000ff3f
GLOBL plainMask<>(SB), RODATA|NOPTR, $16

DATA plainWant<>+0(SB)/8, $0x0000000000450008
DATA plainWant<>+8(SB)/8, $0x0000000000000000
GLOBL plainWant<>(SB), RODATA|NOPTR, $16

// Bytes 38 to 53 become Seq, Ack, Len (0), Window and Flags of a segment.
DATA segmentBytes<>+0(SB)/8, $0x0405060700010203
DATA segmentBytes<>+8(SB)/8, $0x80090a0b80808080
GLOBL segmentBytes<>(SB), RODATA|NOPTR, $16

// Bytes 23 to 38, protocol, checksum, addresses and ports, become the lower halves of Src and Dst, and Ports with Proto.
DATA srcBytes<>+0(SB)/8, $0x8080808080808080
DATA srcBytes<>+8(SB)/8, $0x8080808003040506
GLOBL srcBytes<>(SB), RODATA|NOPTR, $16

DATA dstBytes<>+0(SB)/8, $0x8080808080808080
DATA dstBytes<>+8(SB)/8, $0x808080800708090a
GLOBL dstBytes<>(SB), RODATA|NOPTR, $16

DATA portBytes<>+0(SB)/8, $0x808080000b0c0d0e
DATA portBytes<>+8(SB)/8, $0x8080808080808080
GLOBL portBytes<>(SB), RODATA|NOPTR, $16

// The prefix of IPv4 addresses mapped into IPv6.
DATA mapped<>+0(SB)/8, $0
DATA mapped<>+8(SB)/8, $0x0000ffff00000000
GLOBL mapped<>(SB), RODATA|NOPTR, $16

// func plainVectors(mem []byte, frames []Frame, most uint32, pkts *Packet, keys *flow.Key, least *[256]uint8) (n int)
// R11 is the end of the packet, R13 the length of the UDP or TCP header, R14 what of the packet it says must be there.
TEXT ·plainVectors(SB), NOSPLIT, $8-88
	MOVQ    mem_base+0(FP), BX
	MOVQ    mem_len+8(FP), R15
	MOVQ    frames_base+24(FP), SI
	MOVQ    frames_len+32(FP), CX
	MOVQ    pkts+56(FP), DI
	MOVQ    keys+64(FP), R8
	MOVQ    least+72(FP), R12
	SHLQ    $4, CX
	ADDQ    SI, CX
	MOVQ    CX, end-8(SP)
	MOVL    $8, R9
	VMOVDQU plainMask<>(SB), X8
	VMOVDQU plainWant<>(SB), X9
	VMOVDQU segmentBytes<>(SB), X10
	VMOVDQU srcBytes<>(SB), X11
	VMOVDQU dstBytes<>(SB), X12
	VMOVDQU portBytes<>(SB), X13
	VMOVDQU mapped<>(SB), X14
	SUBQ    $64, R15              // where the last head may begin
	JLT     done
	JMP     next

frame:
	MOVQ    0(SI), AX
	CMPQ    AX, R15
	JHI     done
	ADDQ    BX, AX
	VPXOR   12(AX), X9, X0
	VPTEST  X8, X0
	JNE     done
	MOVWLZX 16(AX), R11           // total length
	ROLW    $8, R11
	CMPL    R11, most+48(FP)
	JHI     done
	ADDL    $14, R11
	CMPL    R11, 8(SI)
	JHI     done
	MOVWLZX 22(AX), R10           // TTL and protocol
	CMPB    R10, $2
	JCS     done
	MOVL    R10, DX
	SHRL    $8, DX
	MOVBLZX 46(AX), R13           // TCP's data offset
	MOVWLZX 38(AX), CX            // UDP's length
	SHRL    $2, R13
	ANDL    $0x3c, R13
	ROLW    $8, CX
	MOVL    R13, R14
	CMPL    DX, $17
	CMOVLEQ CX, R14
	CMOVLEQ R9, R13
	MOVBLZX 47(AX), CX            // TCP's flags; UDP has none
	CMOVLEQ R9, CX
	MOVBLZX (R12)(DX*1), DX
	CMPL    R14, DX
	JCS     done
	ADDL    $34, R14
	CMPL    R14, R11
	JHI     done
	TESTB   $2, CX                // SYN
	JNE     done
	MOVL    $(34<<16|14), 0(DI)   // L4 and L3
	MOVW    R11, 4(DI)            // End
	ADDL    $34, R13
	MOVW    R13, 6(DI)            // Payload
	SHLQ    $24, R10              // VLAN, V6, TTL, Proto, Opens, Plain
	BTSQ    $48, R10
	MOVQ    R10, 8(DI)
	VMOVDQU 38(AX), X0
	VMOVDQU 23(AX), X1
	VPSHUFB X10, X0, X0
	VMOVDQU X0, 16(DI)            // TCP
	SUBL    R13, R11
	MOVL    R11, 24(DI)           // TCP.Len
	VPSHUFB X11, X1, X2
	VPSHUFB X12, X1, X3
	VPSHUFB X13, X1, X4
	VPOR    X14, X2, X2
	VPOR    X14, X3, X3
	VMOVDQU X2, 0(R8)             // Src
	VMOVDQU X3, 16(R8)            // Dst
	VMOVQ   X4, 32(R8)            // Ports, Proto
	ADDQ    $44, DI
	ADDQ    $40, R8
	ADDQ    $16, SI

next:
	CMPQ SI, end-8(SP)
	JCS  frame

done:
	SUBQ frames_base+24(FP), SI
	SHRQ $4, SI
	MOVQ SI, n+80(FP)
	RET
