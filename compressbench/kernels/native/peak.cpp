// What one core can do at most: the peak that the register tiles of the kernels are measured against.
#include "isa.h"
#include "vectors.h"

// 12 * lanes multiply-adds per iteration, of which none waits for another of the same iteration; factor: between 0 and 1.
KERNEL(float, peak)(int64_t iterations, float factor) {
  vec sum[12];
  for (int n = 0; n < 12; ++n) sum[n] = static_cast<float>(n) - vec{};  // equal chains would be merged into one
  for (int64_t i = 0; i < iterations; ++i)
    for (vec &s : sum) s = s * factor + factor;
  float total = 0;
  for (const vec &s : sum)
    for (int lane = 0; lane < V; ++lane) total += s[lane];
  return total;
}

// Floats in a vector.
KERNEL(int, peak_lanes)() { return V; }
