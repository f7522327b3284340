#include "go_asm.h"
#include "textflag.h"

// Of eight addresses and eight lengths, which quadwords are descriptors: the first four, and the others.
DATA four<>+0(SB)/8, $0
DATA four<>+8(SB)/8, $8
DATA four<>+16(SB)/8, $1
DATA four<>+24(SB)/8, $9
DATA four<>+32(SB)/8, $2
DATA four<>+40(SB)/8, $10
DATA four<>+48(SB)/8, $3
DATA four<>+56(SB)/8, $11
GLOBL four<>(SB), RODATA|NOPTR, $64

DATA others<>+0(SB)/8, $4
DATA others<>+8(SB)/8, $12
DATA others<>+16(SB)/8, $5
DATA others<>+24(SB)/8, $13
DATA others<>+32(SB)/8, $6
DATA others<>+40(SB)/8, $14
DATA others<>+48(SB)/8, $7
DATA others<>+56(SB)/8, $15
GLOBL others<>(SB), RODATA|NOPTR, $64

// Of eight descriptors, which quadwords are addresses.
DATA even<>+0(SB)/8, $0
DATA even<>+8(SB)/8, $2
DATA even<>+16(SB)/8, $4
DATA even<>+24(SB)/8, $6
DATA even<>+32(SB)/8, $8
DATA even<>+40(SB)/8, $10
DATA even<>+48(SB)/8, $12
DATA even<>+56(SB)/8, $14
GLOBL even<>(SB), RODATA|NOPTR, $64

// func writeWide(mem []byte, fill []uint64, rx *Desc, heads *byte, size int, lengths *uint16, longest uint16) (n int)
TEXT ·writeWide(SB), NOSPLIT, $0-96
	MOVQ         mem_base+0(FP), BX
	MOVQ         mem_len+8(FP), DX
	MOVQ         fill_base+24(FP), SI
	MOVQ         fill_len+32(FP), CX
	MOVQ         rx+48(FP), DI
	MOVQ         heads+56(FP), R8
	MOVQ         size+64(FP), R10
	MOVQ         lengths+72(FP), R9
	MOVWLZX      longest+80(FP), AX
	VPBROADCASTQ AX, Z20
	MOVL         $const_Headroom, AX
	VPBROADCASTQ AX, Z21
	SUBQ         R10, DX                      // where the last head may begin
	VPBROADCASTQ DX, Z22
	VMOVDQU64    four<>(SB), Z23
	VMOVDQU64    others<>(SB), Z24
	MOVQ         SI, R13
	MOVQ         R10, R12
	SHLQ         $6, R12                      // a burst of heads
	ANDQ         $~7, CX
	LEAQ         (SI)(CX*8), CX

batch:
	CMPQ      SI, CX
	JEQ       done
	VPADDQ    (SI), Z21, Z0
	VPMOVZXWQ (R9), Z1
	VPCMPUQ   $6, Z22, Z0, K1
	VPCMPUQ   $6, Z20, Z1, K2
	KORTESTW  K1, K2
	JNE       done
	LEAQ      64(SI), R11
	VMOVDQA64 Z23, Z2
	VMOVDQA64 Z24, Z3
	VPERMI2Q  Z1, Z0, Z2
	VPERMI2Q  Z1, Z0, Z3

head:
	MOVQ       (SI), AX
	VMOVDQU64  (R8), Z4
	PREFETCHT1 (R8)(R12*1)
	VMOVDQU64  Z4, const_Headroom(BX)(AX*1)
	CMPQ       R10, $const_HeadLen
	JEQ        next
	VMOVDQU64  const_HeadLen(R8), Z4
	PREFETCHT1 const_HeadLen(R8)(R12*1)
	VMOVDQU64  Z4, (const_Headroom+const_HeadLen)(BX)(AX*1)

next:
	ADDQ      $8, SI
	ADDQ      R10, R8
	CMPQ      SI, R11
	JNE       head
	VMOVDQU64 Z2, (DI)
	VMOVDQU64 Z3, 64(DI)
	ADDQ      $128, DI
	ADDQ      $16, R9
	JMP       batch

done:
	VZEROUPPER
	SUBQ R13, SI
	SHRQ $3, SI
	MOVQ SI, n+88(FP)
	RET

// func addressesWide(from []Desc, to *uint64) (n int)
TEXT ·addressesWide(SB), NOSPLIT, $0-40
	MOVQ      from_base+0(FP), SI
	MOVQ      from_len+8(FP), CX
	MOVQ      to+24(FP), DI
	VMOVDQU64 even<>(SB), Z2
	SHRQ      $3, CX
	MOVQ      CX, AX
	SHLQ      $3, AX
	MOVQ      AX, n+32(FP)
	JMP       more

eight:
	VMOVDQU64 (SI), Z0
	VPERMT2Q  64(SI), Z2, Z0
	VMOVDQU64 Z0, (DI)
	ADDQ      $128, SI
	ADDQ      $64, DI
	DECQ      CX

more:
	TESTQ CX, CX
	JNE   eight
	VZEROUPPER
	RET
