#include "textflag.h"

// A bucket's ten tags are its first 20 bytes, then come two counts, and references from 24 on; tag and reference of slot i are at 2*i
// and 24+4*i, the bit of its being secondary is bit i of the second count; see table.go.

// func fillSlot(b *bucket, tag uint16, r Ref) bool
TEXT ·fillSlot(SB), NOSPLIT, $0-17
	MOVQ     b+0(FP), AX
	MOVWLZX  tag+8(FP), BX
	MOVL     r+12(FP), SI
	MOVOU    (AX), X0
	MOVQ     16(AX), X1
	PXOR     X2, X2
	PCMPEQW  X2, X0
	PCMPEQW  X2, X1
	PACKSSWB X1, X0                // a byte per tag
	PMOVMSKB X0, DX
	ANDL     $0x3ff, DX            // the others are counts
	JEQ      full
	BSFL     DX, CX
	MOVW     BX, (AX)(CX*2)
	MOVL     SI, 24(AX)(CX*4)
	MOVB     $1, ret+16(FP)
	RET

full:
	MOVB $0, ret+16(FP)
	RET

// func clearSlot(b *bucket, tag uint16, r Ref) bool
TEXT ·clearSlot(SB), NOSPLIT, $0-17
	MOVQ     b+0(FP), AX
	MOVWLZX  tag+8(FP), BX
	MOVL     r+12(FP), SI
	MOVQ     BX, X2
	PSHUFLW  $0, X2, X2
	PSHUFD   $0, X2, X2
	MOVOU    (AX), X0
	MOVQ     16(AX), X1
	PCMPEQW  X2, X0
	PCMPEQW  X2, X1
	PACKSSWB X1, X0
	PMOVMSKB X0, DX
	ANDL     $0x3ff, DX
	JEQ      not
	BSFL     DX, CX
	CMPL     24(AX)(CX*4), SI
	JNE      not
	MOVWLZX  22(AX), DI
	BTL      CX, DI
	JCS      not
	XORL     DX, DX
	MOVW     DX, (AX)(CX*2)
	MOVL     DX, 24(AX)(CX*4)
	MOVB     $1, ret+16(FP)
	RET

not:
	MOVB $0, ret+16(FP)
	RET
