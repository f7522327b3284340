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
