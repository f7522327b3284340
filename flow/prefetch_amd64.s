#include "textflag.h"

// The sizes of a bucket and a record are 64 and 128 bytes; see table_unsafe.go.

// func prefetchBuckets(buckets []bucket, index []uint64)
TEXT ·prefetchBuckets(SB), NOSPLIT, $0-48
	MOVQ  buckets_base+0(FP), DI
	MOVQ  index_base+24(FP), SI
	MOVQ  index_len+32(FP), CX
	LEAQ  (SI)(CX*8), CX
	JMP   next

bucket:
	MOVQ       (SI), AX
	SHLQ       $6, AX
	PREFETCHT0 (DI)(AX*1)
	ADDQ       $8, SI

next:
	CMPQ SI, CX
	JB   bucket
	RET

// func candidatesVectors(buckets []bucket, records []Record, s *scratch, n int)
// A bucket's ten tags are its first 20 bytes, its references begin at 24; bucket, cand and tag of the scratch at 0, 512 and 768.
TEXT ·candidatesVectors(SB), NOSPLIT, $0-64
	MOVQ buckets_base+0(FP), DI
	MOVQ records_base+24(FP), R8
	MOVQ s+48(FP), SI
	MOVQ n+56(FP), CX
	XORL R9, R9
	XORL R11, R11
	JMP  next

tuple:
	MOVQ       (SI)(R9*8), AX
	SHLQ       $6, AX
	ADDQ       DI, AX
	MOVWLZX    768(SI)(R9*2), BX
	MOVQ       BX, X2
	PSHUFLW    $0, X2, X2
	PSHUFD     $0, X2, X2
	MOVOU      (AX), X0
	MOVQ       16(AX), X1
	PCMPEQW    X2, X0
	PCMPEQW    X2, X1
	PACKSSWB   X1, X0                // a byte per tag
	PMOVMSKB   X0, DX
	ANDL       $0x3ff, DX            // the others are counts
	XORL       R10, R10
	BSFL       DX, R10
	CMOVLEQ    R11, R10
	MOVL       24(AX)(R10*4), R10
	CMOVLEQ    R11, R10
	MOVL       R10, 512(SI)(R9*4)    // index<<1 | side
	SHRL       $1, R10
	SHLQ       $7, R10
	PREFETCHT0 (R8)(R10*1)
	PREFETCHT0 64(R8)(R10*1)
	INCQ       R9

next:
	CMPQ R9, CX
	JB   tuple
	RET

// func prefetchRecords(records []Record, refs []Ref)
TEXT ·prefetchRecords(SB), NOSPLIT, $0-48
	MOVQ  records_base+0(FP), DI
	MOVQ  refs_base+24(FP), SI
	MOVQ  refs_len+32(FP), CX
	LEAQ  (SI)(CX*4), CX
	JMP   next

record:
	MOVL       (SI), AX // index<<1 | side
	SHRQ       $1, AX
	SHLQ       $7, AX
	PREFETCHT0 (DI)(AX*1)
	PREFETCHT0 64(DI)(AX*1)
	ADDQ       $4, SI

next:
	CMPQ SI, CX
	JB   record
	RET

// func prefetchRecord(r *Record)
TEXT ·prefetchRecord(SB), NOSPLIT, $0-8
	MOVQ       r+0(FP), AX
	PREFETCHT0 (AX)
	PREFETCHT0 64(AX)
	RET

// func prefetchLinks(l *link)
TEXT ·prefetchLinks(SB), NOSPLIT, $0-8
	MOVQ       l+0(FP), AX
	PREFETCHT0 (AX)
	PREFETCHT0 -64(AX)
	PREFETCHT0 64(AX)
	RET

// func prefetchWord(p *uint32)
TEXT ·prefetchWord(SB), NOSPLIT, $0-8
	MOVQ       p+0(FP), AX
	PREFETCHT0 (AX)
	RET

// func prefetchSet(s *portSet)
// It may lie across two lines.
TEXT ·prefetchSet(SB), NOSPLIT, $0-8
	MOVQ       s+0(FP), AX
	PREFETCHT0 (AX)
	PREFETCHT0 63(AX)
	RET

// func storeInOrder(p *uint64, v uint64)
TEXT ·storeInOrder(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), AX
	MOVQ v+8(FP), BX
	MOVQ BX, (AX)
	RET
