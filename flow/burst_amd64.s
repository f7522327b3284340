#include "textflag.h"

// Sizes and offsets of records, buckets, keys and the scratch are held by burst_unsafe_amd64.go and table_unsafe.go.

// func hashKeys(secret *Secret, buckets []bucket, keys []Key, s *scratch, from int)
// R8 to R11 are the secret, R12 the number of buckets.
TEXT ·hashKeys(SB), NOSPLIT, $0-72
	MOVQ secret+0(FP), AX
	MOVQ 0(AX), R8
	MOVQ 8(AX), R9
	MOVQ 16(AX), R10
	MOVQ 24(AX), R11
	MOVQ buckets_base+8(FP), DI
	MOVQ buckets_len+16(FP), R12
	MOVQ keys_base+32(FP), SI
	MOVQ keys_len+40(FP), CX
	MOVQ s+56(FP), BX
	MOVQ from+64(FP), R14
	LEAQ (R14)(R14*4), AX
	LEAQ (SI)(AX*8), SI
	JMP  next

key:
	MOVQ       0(SI), AX             // fold(Src.Hi^s2, Dst.Hi^s3)
	MOVQ       16(SI), R13
	XORQ       R10, AX
	XORQ       R11, R13
	MULQ       R13
	MOVQ       AX, R15
	XORQ       DX, R15
	MOVQ       8(SI), AX             // fold(Src.Lo^s0, Dst.Lo^s1)
	MOVQ       24(SI), R13
	XORQ       R8, AX
	XORQ       R9, R13
	MULQ       R13
	XORQ       DX, AX
	XORQ       R15, AX
	MOVL       32(SI), R13           // and with ports and protocol
	MOVBLZX    36(SI), R15
	SHLQ       $8, R13
	XORQ       R9, AX
	ORQ        R15, R13
	XORQ       R10, R13
	MULQ       R13
	XORQ       DX, AX
	MOVWLZX    AX, R13               // the tag, never 0
	CMPL       R13, $1
	ADCL       $0, R13
	MULQ       R12                   // the bucket
	MOVW       R13, 768(BX)(R14*2)
	MOVQ       DX, (BX)(R14*8)
	SHLQ       $6, DX
	PREFETCHT0 (DI)(DX*1)
	INCQ       R14
	ADDQ       $40, SI

next:
	CMPQ R14, CX
	JLT  key
	RET

// func confirmVectors(records []Record, nodes []Addr, keys []Key, s *scratch, refs []Ref) (sure uint64)
// AX is the candidate, DX collects what differs of ports, SNAT, kind and protocol, X0 what differs of the addresses.
TEXT ·confirmVectors(SB), NOSPLIT, $0-112
	MOVQ records_base+0(FP), DI
	MOVQ nodes_base+24(FP), R8
	MOVQ nodes_len+32(FP), R9
	MOVQ keys_base+48(FP), SI
	MOVQ keys_len+56(FP), CX
	MOVQ s+72(FP), BX
	MOVQ refs_base+80(FP), R12
	XORL R13, R13
	XORL R15, R15
	JMP  next

tuple:
	MOVL    512(BX)(R13*4), AX    // index<<1 | side
	MOVL    AX, R10
	ANDL    $~1, R10
	SHLQ    $6, R10
	ADDQ    DI, R10
	MOVL    AX, (R12)(R13*4)
	TESTL   $1, AX
	JNE     server
	VMOVDQU 8(R10), X0            // Client is Src, Virtual is Dst
	VMOVDQU 24(R10), X1
	VPXOR   (SI), X0, X0
	VPXOR   16(SI), X1, X1
	MOVL    40(R10), DX           // CPort, VPort
	ROLL    $16, DX

rest:
	MOVL    (R10), R11            // protocol and kind of the state
	ANDL    $0x30ff00, R11
	MOVBLZX 36(SI), AX
	SHLL    $8, AX
	XORL    32(SI), DX
	XORL    AX, R11
	ORL     52(R10), DX           // SNAT
	VPOR    X1, X0, X0
	ORL     R11, DX
	JNE     other
	VPTEST  X0, X0
	JNE     other
	BTSQ    R13, R15

other:
	INCQ R13
	ADDQ $40, SI

next:
	CMPQ R13, CX
	JLT  tuple
	MOVQ R15, sure+104(FP)
	RET

server:
	MOVL    48(R10), DX           // Node is Src, Client is Dst
	CMPQ    DX, R9
	JAE     other
	SHLQ    $4, DX
	VMOVDQU 8(R10), X1
	VMOVDQU (R8)(DX*1), X0
	VPXOR   16(SI), X1, X1
	VPXOR   (SI), X0, X0
	MOVL    44(R10), DX           // SPort, NPort
	JMP     rest
