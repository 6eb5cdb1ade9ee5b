#include "../../../compressbench/kernels/native/pooling.cpp"

#include "check.h"

bool runs() { return true; }

bool mean_agrees() {
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

bool maximum_agrees() {
  const int kernel = draw(1, 5), padding = draw(0, kernel / 2), stride = draw(1, 3), least = kernel > 2 * padding ? kernel - 2 * padding : 1;
  const int height = draw(least, 40), width = draw(least, 40), channels = draw(1, 5), batch = draw(1, 2), threads = draw(1, 3);
  const cb_max_pool layer{channels, height, width, (height + 2 * padding - kernel) / stride + 1, (width + 2 * padding - kernel) / stride + 1,
                          kernel, stride, padding};
  const int64_t positions = static_cast<int64_t>(layer.out_height) * layer.out_width;
  const std::vector<float> x = values(static_cast<int64_t>(batch) * channels * height * width);
  std::vector<float> y(static_cast<size_t>(batch * channels * positions)), workspace(static_cast<size_t>(KERNEL_OF(max_pool_workspace, ISA)(&layer, threads)));
  const cb_step step{KERNEL_OF(max_pool, ISA), &layer, x.data(), workspace.data(), nullptr, y.data(), batch};
  step.run(&step, threads);
  for (int64_t at = 0; at < static_cast<int64_t>(y.size()); ++at) {
    const int64_t plane = at / positions, p = at % positions;
    float most = -2;
    for (int tap = 0; tap < kernel * kernel; ++tap) {
      const int64_t i = p / layer.out_width * stride + tap / kernel - padding, j = p % layer.out_width * stride + tap % kernel - padding;
      if (i < 0 || i >= height || j < 0 || j >= width) continue;
      const float v = x[static_cast<size_t>((plane * height + i) * width + j)];
      most = v > most ? v : most;
    }
    if (y[static_cast<size_t>(at)] != most) return false;
  }
  return true;
}

bool agrees() { return mean_agrees() && maximum_agrees(); }
