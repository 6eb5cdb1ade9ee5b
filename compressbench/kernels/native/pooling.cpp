// Pooling: the mean over the pixels of every channel, and the maximum over windows.
#include "isa.h"
#include "vectors.h"

struct cb_mean {
  int32_t channels, pixels;
};

// NCHW, fp32. Padding takes no part in a maximum; every window meets the image.
struct cb_max_pool {
  int32_t channels, height, width;
  int32_t out_height, out_width;
  int32_t kernel, stride, padding;
};

namespace {

// As PyTorch's: NaN where one of them is.
inline float larger(float a, float b) { return (a > b) | (a != a) ? a : b; }

int64_t line_size(const cb_max_pool &layer) { return layer.width + 2 * layer.padding + layer.stride; }

// One channel. The maximum over the rows of a window goes into a padded line, from which every column of the windows is picked.
void pool(const cb_max_pool &layer, const float *x, float *line, float *picked, float *y) {
  for (int32_t i = 0; i < layer.out_height; ++i, y += layer.out_width) {
    const int32_t top = i * layer.stride - layer.padding, first = top > 0 ? top : 0;
    const int32_t last = top + layer.kernel < layer.height ? top + layer.kernel : layer.height;
    float *values = line + layer.padding;
    copy<1>(x + static_cast<int64_t>(first) * layer.width, values, layer.width);
    for (int32_t row = first + 1; row < last; ++row) {
      const float *in = x + static_cast<int64_t>(row) * layer.width;
#pragma omp simd
      for (int32_t j = 0; j < layer.width; ++j) values[j] = larger(in[j], values[j]);
    }
    copy_every(layer.stride, line, y, layer.out_width);
    for (int32_t v = 1; v < layer.kernel; ++v) {
      copy_every(layer.stride, line + v, picked, layer.out_width);
#pragma omp simd
      for (int32_t j = 0; j < layer.out_width; ++j) y[j] = larger(picked[j], y[j]);
    }
  }
}

}  // namespace

// x: [batch, channels, height, width]. The order of the sum depends on the width of the vectors, and there is too little work to
// choose one or to share it: Python calls the portable build.
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

// x: [batch, channels, height, width] -> [batch, channels, out_height, out_width].
KERNEL(void, max_pool)(const cb_step *step, int32_t threads) {
  const cb_max_pool &layer = *static_cast<const cb_max_pool *>(step->layer);
  const int64_t pixels = static_cast<int64_t>(layer.height) * layer.width, positions = static_cast<int64_t>(layer.out_height) * layer.out_width;
  const int64_t planes = static_cast<int64_t>(step->batch) * layer.channels, size = line_size(layer);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const int32_t part = thread(), parts = threads_running();
    float *line = static_cast<float *>(step->workspace) + part * (size + layer.out_width);
    for (int64_t j = 0; j < size; ++j) line[j] = -__builtin_inff();
    for (int64_t plane = planes * part / parts; plane < planes * (part + 1) / parts; ++plane)
      pool(layer, static_cast<const float *>(step->x) + plane * pixels, line, line + size, static_cast<float *>(step->y) + plane * positions);
  }
}

// Floats of workspace.
KERNEL(int64_t, max_pool_workspace)(const cb_max_pool *layer, int32_t threads) { return (line_size(*layer) + layer->out_width) * threads; }
