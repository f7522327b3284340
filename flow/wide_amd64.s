#include "textflag.h"

// What candidates and confirmVectors do, for processors with AVX-512: a line of the cache is one register. Sizes and offsets are those
// that burst_amd64.s and prefetch_amd64.s know.

// No reference, for what has none.
DATA none<>+0(SB)/4, $0
GLOBL none<>(SB), RODATA|NOPTR, $4

// The candidate of tuple n from R9 on. Its record is asked for with HINT.
#define CANDIDATE(n, HINT) \
	MOVQ         (8*n)(SI)(R9*8), AX       \
	SHLQ         $6, AX                    \
	VPBROADCASTW (768+2*n)(SI)(R9*2), Y2   \
	ADDQ         DI, AX                    \
	VPCMPEQW     (AX), Y2, K2, K1          \
	KMOVD        K1, DX                    \
	TZCNTL       DX, DX                    \
	LEAQ         24(AX)(DX*4), R10         \
	CMOVQCS      R11, R10                  \
	MOVL         (R10), R10                \
	MOVL         R10, (512+4*n)(SI)(R9*4)  \
	ANDL         $~1, R10                  \
	SHLQ         $6, R10                   \
	HINT         (R8)(R10*1)               \
	HINT         64(R8)(R10*1)

// Of a bucket's words ten are tags; the others are counts and references.
#define CANDIDATES(HINT) \
	MOVQ  buckets_base+0(FP), DI  \
	MOVQ  records_base+24(FP), R8 \
	MOVQ  s+48(FP), SI            \
	MOVQ  n+56(FP), CX            \
	LEAQ  none<>(SB), R11         \
	MOVL  $0x3ff, AX              \
	KMOVD AX, K2                  \
	XORL  R9, R9                  \
	SUBQ  $4, CX                  \
	JLT   few                     \
tuples:                           \
	CANDIDATE(0, HINT)            \
	CANDIDATE(1, HINT)            \
	CANDIDATE(2, HINT)            \
	CANDIDATE(3, HINT)            \
	ADDQ $4, R9                   \
	CMPQ R9, CX                   \
	JLE  tuples                   \
few:                              \
	ADDQ $4, CX                   \
	JMP  next                     \
tuple:                            \
	CANDIDATE(0, HINT)            \
	INCQ R9                       \
next:                             \
	CMPQ R9, CX                   \
	JB   tuple                    \
	VZEROUPPER                    \
	RET

// func candidatesWide(buckets []bucket, records []Record, s *scratch, n int)
TEXT ·candidatesWide(SB), NOSPLIT, $0-64
	CANDIDATES(PREFETCHT0)

// func candidatesFar(buckets []bucket, records []Record, s *scratch, n int)
TEXT ·candidatesFar(SB), NOSPLIT, $0-64
	CANDIDATES(PREFETCHT1)

// Where the bytes of a tuple stand in a record, by side: from the client Src is Client, Dst Virtual, and the ports are the first two;
// from the server Dst is Client, and the ports are the last two. The protocol is in the second byte of both.
DATA place<>+0(SB)/8, $0x0000000000002400
DATA place<>+8(SB)/8, $0x0706050403020100
DATA place<>+16(SB)/8, $0x0f0e0d0c0b0a0908
DATA place<>+24(SB)/8, $0x1716151413121110
DATA place<>+32(SB)/8, $0x1f1e1d1c1b1a1918
DATA place<>+40(SB)/8, $0x0000000021202322
DATA place<>+48(SB)/8, $0
DATA place<>+56(SB)/8, $0
DATA place<>+64(SB)/8, $0x0000000000002400
DATA place<>+72(SB)/8, $0x1716151413121110
DATA place<>+80(SB)/8, $0x1f1e1d1c1b1a1918
DATA place<>+88(SB)/8, $0
DATA place<>+96(SB)/8, $0
DATA place<>+104(SB)/8, $0x2322212000000000
DATA place<>+112(SB)/8, $0
DATA place<>+120(SB)/8, $0
GLOBL place<>(SB), RODATA|NOPTR, $128

// What of a record is compared: the protocol and kind of the state, what stands for the tuple, and SNAT, which is 0.
DATA compared<>+0(SB)/8, $0x000000000030ff00
DATA compared<>+8(SB)/8, $0xffffffffffffffff
DATA compared<>+16(SB)/8, $0xffffffffffffffff
DATA compared<>+24(SB)/8, $0xffffffffffffffff
DATA compared<>+32(SB)/8, $0xffffffffffffffff
DATA compared<>+40(SB)/8, $0x00000000ffffffff
DATA compared<>+48(SB)/8, $0xffffffff00000000
DATA compared<>+56(SB)/8, $0
DATA compared<>+64(SB)/8, $0x000000000030ff00
DATA compared<>+72(SB)/8, $0xffffffffffffffff
DATA compared<>+80(SB)/8, $0xffffffffffffffff
DATA compared<>+88(SB)/8, $0
DATA compared<>+96(SB)/8, $0
DATA compared<>+104(SB)/8, $0xffffffff00000000
DATA compared<>+112(SB)/8, $0xffffffff00000000
DATA compared<>+120(SB)/8, $0
GLOBL compared<>(SB), RODATA|NOPTR, $128

// func confirmWide(records []Record, nodes []Addr, keys []Key, s *scratch, refs []Ref) (sure uint64)
TEXT ·confirmWide(SB), NOSPLIT, $0-112
	MOVQ      records_base+0(FP), DI
	MOVQ      nodes_base+24(FP), R8
	MOVQ      nodes_len+32(FP), R9
	MOVQ      keys_base+48(FP), SI
	MOVQ      keys_len+56(FP), CX
	MOVQ      s+72(FP), BX
	MOVQ      refs_base+80(FP), R12
	VMOVDQU64 place<>+0(SB), Z8
	VMOVDQU64 place<>+64(SB), Z9
	VMOVDQU64 compared<>+0(SB), Z10
	VMOVDQU64 compared<>+64(SB), Z11
	MOVL      $0x1f, AX                // a tuple is five words
	KMOVB     AX, K5
	MOVQ      $0x00000fffffffff02, AX  // what of the place is not 0
	KMOVQ     AX, K6
	MOVQ      $0x0000f00000ffff02, AX
	KMOVQ     AX, K7
	XORL      R13, R13
	XORL      R15, R15
	TESTQ     CX, CX
	JEQ       done

tuple:
	MOVL        512(BX)(R13*4), AX    // index<<1 | side
	VMOVDQU64.Z (SI), K5, Z0
	MOVL        AX, (R12)(R13*4)
	TESTL       $1, AX
	JNE         server
	SHLQ        $6, AX
	VPERMB.Z    Z0, Z8, K6, Z0
	VPXORD      (DI)(AX*1), Z0, Z0
	VPTESTMD    Z10, Z0, K1
	KORTESTW    K1, K1
	JNE         other
	BTSQ        R13, R15

other:
	INCQ R13
	ADDQ $40, SI
	CMPQ R13, CX
	JLT  tuple

done:
	MOVQ R15, sure+104(FP)
	VZEROUPPER
	RET

server:
	DECL        AX
	SHLQ        $6, AX
	MOVL        48(DI)(AX*1), DX      // Node is Src
	CMPQ        DX, R9
	JAE         other
	SHLQ        $4, DX
	VPXORD      (R8)(DX*1), X0, X1
	VPERMB.Z    Z0, Z9, K7, Z0
	VPXORD      (DI)(AX*1), Z0, Z0
	VPTESTMD    X1, X1, K2
	VPTESTMD    Z11, Z0, K1
	KORTESTW    K1, K2
	JNE         other
	BTSQ        R13, R15
	JMP         other
