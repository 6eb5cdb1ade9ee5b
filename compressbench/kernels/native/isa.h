// What the kernels of one instruction set offer to the dispatcher, and the sizes that both must agree on.
#ifndef COMPRESSBENCH_ISA_H
#define COMPRESSBENCH_ISA_H

#ifdef _OPENMP
#include <omp.h>
#endif

#include "kernels.h"

namespace isa {

struct Kernels {
  void (*convolve)(const cb_convolution &, const float *, float *, const float *, float *, int32_t, int32_t);
  float (*spin)(int64_t, float);
  int rows, lanes;
  int (*most_vectors)(int rows);
};

struct DepthwiseKernels {
  void (*convolve)(const cb_depthwise &, const float *, float *, float *, int32_t, int32_t);
};

struct BinaryKernels {
  void (*convolve)(const cb_binary &, const float *, uint64_t *, float *, int32_t, int32_t);
  int channels;
};

extern const Kernels portable, avx2, avx512;

namespace depthwise {
extern const DepthwiseKernels portable, avx2, avx512;
}

namespace binary {
extern const BinaryKernels portable, avx2, avx512;
}

// Static, so that every file has its own copy: the linker must not hand code for one instruction set to another.
static inline int64_t channel_pitch(const cb_convolution &layer) {
  const int32_t phases = layer.stride < layer.kernel ? layer.stride : layer.kernel;
  int64_t rows = 0;
  for (int32_t phase = 0; phase < phases; ++phase) rows += layer.out_height + (layer.kernel - 1 - phase) / layer.stride;
  return rows * layer.kernel * layer.out_width;
}

static inline int64_t workspace(const cb_convolution &layer) {
  const bool direct = layer.kernel == 1 && layer.stride == 1 && layer.padding == 0;
  return direct ? 0 : channel_pitch(layer) * layer.c_in;
}

// The padded image of one channel; its columns are sorted by their remainder modulo the stride: [row][remainder][pitch].
static inline int64_t padded_pitch(const cb_depthwise &layer) {
  return (layer.width + 2 * layer.padding + layer.stride - 1) / layer.stride;
}
static inline int64_t padded_size(const cb_depthwise &layer) {
  return (layer.height + 2 * layer.padding) * layer.stride * padded_pitch(layer);
}

#ifdef _OPENMP
static inline int thread() { return omp_get_thread_num(); }
static inline int threads() { return omp_get_num_threads(); }
#else
static inline int thread() { return 0; }
static inline int threads() { return 1; }
#endif

}  // namespace isa

#endif
