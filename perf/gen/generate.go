package gen

// The objects and their Go wrappers are committed: a build needs no clang. After a change below bpf/ run go generate with
// clang, llvm-strip and the headers of libbpf. The include paths are Debian's for asm/types.h and harmless elsewhere.

//go:generate go tool bpf2go -target bpfel -output-stem live live bpf/live.c -- -O2 -g -Wall -Wextra -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
//go:generate go tool bpf2go -target bpfel -output-stem sink sink bpf/sink.c -- -O2 -g -Wall -Wextra -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
