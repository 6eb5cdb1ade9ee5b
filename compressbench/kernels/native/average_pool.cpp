// The mean over windows. There is too little work to share.
#include "isa.h"

// Without padding; a window that the edge of the image cuts is the mean of what is left of it. NCHW, fp32.
struct cb_average_pool {
  int32_t channels, height, width;
  int32_t out_height, out_width;
  int32_t kernel, stride;
};

// x: [batch, channels, height, width] -> [batch, channels, out_height, out_width].
KERNEL(void, average_pool)(const cb_step *step, int32_t) {
  const cb_average_pool &layer = *static_cast<const cb_average_pool *>(step->layer);
  const float *x = static_cast<const float *>(step->x);
  float *y = static_cast<float *>(step->y);
  for (int64_t plane = 0; plane < static_cast<int64_t>(step->batch) * layer.channels; ++plane, x += layer.height * layer.width)
    for (int32_t i = 0; i < layer.out_height; ++i) {
      const int32_t top = i * layer.stride, bottom = top + layer.kernel < layer.height ? top + layer.kernel : layer.height;
      for (int32_t j = 0; j < layer.out_width; ++j) {
        const int32_t left = j * layer.stride, right = left + layer.kernel < layer.width ? left + layer.kernel : layer.width;
        float sum = 0;
        for (int32_t row = top; row < bottom; ++row)
          for (int32_t column = left; column < right; ++column) sum += x[row * layer.width + column];
        *y++ = sum / static_cast<float>((bottom - top) * (right - left));
      }
    }
}
