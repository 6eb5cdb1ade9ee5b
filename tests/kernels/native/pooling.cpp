#include "../../../compressbench/kernels/native/pooling.cpp"

#include "check.h"

bool runs() { return true; }

bool agrees() {
  const cb_mean layer{draw(1, 9), draw(1, 200)};
  const int batch = draw(1, 3);
  const std::vector<float> x = values(static_cast<int64_t>(batch) * layer.channels * layer.pixels);
  std::vector<float> y(static_cast<size_t>(batch * layer.channels));
  const cb_step step{KERNEL_OF(global_mean, ISA), &layer, x.data(), nullptr, nullptr, y.data(), batch};
  step.run(&step, 1);
  for (size_t plane = 0; plane < y.size(); ++plane) {
    double sum = 0;
    for (int p = 0; p < layer.pixels; ++p) sum += x[plane * static_cast<size_t>(layer.pixels) + static_cast<size_t>(p)];
    if (std::fabs(sum / layer.pixels - y[plane]) > 1e-4) return false;
  }
  return true;
}
