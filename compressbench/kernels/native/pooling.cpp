// The mean over the pixels of every channel. The order of the sum depends on the width of the vectors, and there is too little
// work to choose one or to share it: Python calls the portable build.
#include "isa.h"

struct cb_mean {
  int32_t channels, pixels;
};

KERNEL(void, global_mean)(const cb_step *step, int32_t) {
  const cb_mean &layer = *static_cast<const cb_mean *>(step->layer);
  const float *x = static_cast<const float *>(step->x);
  float *y = static_cast<float *>(step->y);
  for (int64_t plane = 0; plane < static_cast<int64_t>(step->batch) * layer.channels; ++plane, x += layer.pixels) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int32_t p = 0; p < layer.pixels; ++p) sum += x[p];
    y[plane] = sum / static_cast<float>(layer.pixels);
  }
}
