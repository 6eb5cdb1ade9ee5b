// What every kernel is made of. Each .cpp of this folder but dispatch.cpp is compiled once per instruction set (setup.py): ISA
// names the build, VECTOR_BYTES is the width of its vectors. Python finds a function by name and build (native.py).
//
// Everything but KERNELs lies in an anonymous namespace or is static: the linker must not hand code for one instruction set to
// another.
#ifndef COMPRESSBENCH_ISA_H
#define COMPRESSBENCH_ISA_H

#include <stdint.h>

#ifdef _OPENMP
#include <omp.h>
#endif

// `KERNEL(void, mine)(...) {...}` defines the C function cb_mine_ISA. A kernel `mine` whose build asks more of the processor than
// dispatch.cpp does also defines `KERNEL(int, mine_runs)()`, which says whether it is there.
#define KERNEL(result, name) extern "C" result KERNEL_OF(name, ISA)
#define KERNEL_OF(name, isa) KERNEL_JOINED(name, isa)
#define KERNEL_JOINED(name, isa) cb_##name##_##isa

// One layer of a program: what runs it, its description (a struct of the kernel's own), and where it reads and writes, in the types
// of the kernel's own. A kernel that takes part in programs is `KERNEL(void, mine)(const cb_step *step, int32_t threads)`. What it
// does not use is null.
struct cb_step {
  void (*run)(const cb_step *, int32_t threads);
  const void *layer;
  const void *x;        // [batch, ...], contiguous
  void *workspace;      // as much as the kernel asks for
  const void *residual; // added to the output
  void *y;              // [batch, ...], contiguous
  int32_t batch;
};

#ifdef _OPENMP
static inline int thread() { return omp_get_thread_num(); }
static inline int threads_running() { return omp_get_num_threads(); }
#else
static inline int thread() { return 0; }
static inline int threads_running() { return 1; }
#endif

#endif
