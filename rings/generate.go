package rings

// The object and its Go wrapper are committed: a build needs no clang. After a change of xdp/classify.c run
// go generate with clang, llvm-strip and the headers of libbpf; -mcpu=v3 needs Linux 5.1, below what the
// program needs anyway. The include paths are Debian's for asm/types.h and harmless elsewhere.

//go:generate go tool bpf2go -target bpfel -output-stem classify classify xdp/classify.c -- -O2 -g -Wall -Wextra -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
