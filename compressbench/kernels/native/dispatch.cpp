// Chooses the build for this processor.
#include "isa.h"

namespace {

const isa::Kernels *const BUILDS[] = {
    &isa::portable,
#ifdef WITH_X86
    &isa::avx2, &isa::avx512,
#endif
};

const isa::DepthwiseKernels *const DEPTHWISE_BUILDS[] = {
    &isa::depthwise::portable,
#ifdef WITH_X86
    &isa::depthwise::avx2, &isa::depthwise::avx512,
#endif
};

const isa::BinaryKernels *const BINARY_BUILDS[] = {
    &isa::binary::portable,
#ifdef WITH_X86
    &isa::binary::avx2, &isa::binary::avx512,
#endif
};

// Too little work to choose an instruction set or to share.
void mean(const cb_mean &layer, const float *x, float *y, int32_t batch) {
  for (int64_t plane = 0; plane < static_cast<int64_t>(batch) * layer.channels; ++plane, x += layer.pixels) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int32_t p = 0; p < layer.pixels; ++p) sum += x[p];
    y[plane] = sum / static_cast<float>(layer.pixels);
  }
}

}  // namespace

extern "C" {

int cb_best_isa(void) {
#ifdef WITH_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

int cb_best_binary_isa(void) {
  const int best = cb_best_isa();
#ifdef WITH_X86
  if (best == 2 && !__builtin_cpu_supports("avx512vpopcntdq")) return 1;
#endif
  return best;
}

int cb_rows(int isa) { return BUILDS[isa]->rows; }
int cb_lanes(int isa) { return BUILDS[isa]->lanes; }
int cb_max_vectors(int isa, int rows) { return BUILDS[isa]->most_vectors(rows); }
float cb_spin(int isa, int64_t iterations, float factor) { return BUILDS[isa]->spin(iterations, factor); }
int64_t cb_workspace(const cb_convolution *layer) { return isa::workspace(*layer); }

void cb_convolve(int isa, const cb_convolution *layer, const float *x, float *workspace, const float *residual, float *y,
                 int32_t batch, int32_t threads) {
  BUILDS[isa]->convolve(*layer, x, workspace, residual, y, batch, threads);
}

int64_t cb_depthwise_workspace(const cb_depthwise *layer, int32_t threads) { return isa::padded_size(*layer) * threads; }

void cb_convolve_depthwise(int isa, const cb_depthwise *layer, const float *x, float *workspace, float *y, int32_t batch,
                           int32_t threads) {
  DEPTHWISE_BUILDS[isa]->convolve(*layer, x, workspace, y, batch, threads);
}

void cb_run(int isa, const cb_step *steps, int32_t count, int32_t threads) {
  for (const cb_step *s = steps; s < steps + count; ++s)
    if (s->kind == 0)
      cb_convolve(isa, static_cast<const cb_convolution *>(s->layer), s->x, s->workspace, s->residual, s->y, s->batch, threads);
    else if (s->kind == 2)
      mean(*static_cast<const cb_mean *>(s->layer), s->x, s->y, s->batch);
    else
      cb_convolve_depthwise(isa, static_cast<const cb_depthwise *>(s->layer), s->x, s->workspace, s->y, s->batch, threads);
}

int cb_binary_channels(int isa) { return BINARY_BUILDS[isa]->channels; }

void cb_convolve_binary(int isa, const cb_binary *layer, const float *x, uint64_t *workspace, float *y, int32_t batch,
                        int32_t threads) {
  BINARY_BUILDS[isa]->convolve(*layer, x, workspace, y, batch, threads);
}
}
