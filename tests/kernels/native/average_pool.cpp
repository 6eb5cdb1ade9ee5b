#include "../../../compressbench/kernels/native/average_pool.cpp"

#include "check.h"

bool runs() { return true; }

bool agrees() {
  const int kernel = draw(1, 3), stride = draw(1, 3), height = draw(kernel, 9), width = draw(kernel, 9), batch = draw(1, 2);
  const int out_height = (height - kernel + stride) / stride, out_width = (width - kernel + stride) / stride;
  const cb_average_pool layer{draw(1, 5), height, width, out_height, out_width, kernel, stride};
  const std::vector<float> x = values(static_cast<int64_t>(batch) * layer.channels * height * width);
  std::vector<float> y(static_cast<size_t>(batch * layer.channels * out_height * out_width));
  const cb_step step{KERNEL_OF(average_pool, ISA), &layer, x.data(), nullptr, nullptr, y.data(), batch};
  step.run(&step, 1);
  for (size_t at = 0; at < y.size(); ++at) {
    const int j = static_cast<int>(at) % out_width, i = static_cast<int>(at) / out_width % out_height;
    const int plane = static_cast<int>(at) / out_width / out_height;
    double sum = 0;
    int count = 0;
    for (int u = 0; u < kernel; ++u)
      for (int v = 0; v < kernel; ++v)
        if (i * stride + u < height && j * stride + v < width) {
          sum += x[static_cast<size_t>((plane * height + i * stride + u) * width + j * stride + v)];
          ++count;
        }
    if (std::fabs(sum / count - y[at]) > 1e-5) return false;
  }
  return true;
}
