// What this processor runs, and programs of kernels.
#include "isa.h"

extern "C" {

int cb_runs_portable(void) { return 1; }

#ifdef __x86_64__
int cb_runs_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
int cb_runs_avx512(void) { return cb_runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl"); }
#else
int cb_runs_avx2(void) { return 0; }
int cb_runs_avx512(void) { return 0; }
#endif

void cb_run(const cb_step *steps, int32_t count, int32_t threads) {
  for (const cb_step *step = steps; step < steps + count; ++step) step->run(step, threads);
}
}
