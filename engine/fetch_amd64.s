#include "textflag.h"

// Offsets of a record, whose size is 128, held by fetch_amd64.go. Counters are 32 bytes, and never in two lines.

// func fetchCounts(records *flow.Record, refs *flow.Ref, n int, virtual, node *TrafficStats)
TEXT ·fetchCounts(SB), NOSPLIT, $0-40
	MOVQ records+0(FP), DI
	MOVQ refs+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ virtual+24(FP), R8
	MOVQ node+32(FP), R9
	LEAQ (SI)(CX*4), CX
	JMP  next

packet:
	MOVL       (SI), AX // index<<1 | side
	SHRQ       $1, AX
	SHLQ       $7, AX
	MOVL       48(DI)(AX*1), BX // Node
	MOVL       76(DI)(AX*1), DX // VS
	SHLQ       $5, BX
	SHLQ       $5, DX
	PREFETCHT0 (R8)(DX*1)
	PREFETCHT0 (R9)(BX*1)
	ADDQ       $4, SI

next:
	CMPQ SI, CX
	JB   packet
	RET
