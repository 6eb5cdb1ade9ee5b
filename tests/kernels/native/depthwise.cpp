#include "../../../compressbench/kernels/native/depthwise.cpp"

#include "check.h"

bool runs() { return true; }

bool agrees() {
  Geometry g(1);
  if (draw(0, 1)) g.height = draw(14, 40), g.width = draw(14, 40);  // several strips
  g.kernel = draw(0, 1) ? 5 : 3;
  g.padding = draw(0, 1) ? g.kernel / 2 : draw(g.height < g.kernel || g.width < g.kernel ? (g.kernel - 1) / 2 : 0, g.kernel - 1);
  const int smallest = g.kernel - 2 * g.padding;
  if (g.height < smallest) g.height = smallest;
  if (g.width < smallest) g.width = smallest;
  g.out_height = (g.height + 2 * g.padding - g.kernel) / g.stride + 1, g.out_width = (g.width + 2 * g.padding - g.kernel) / g.stride + 1;
  const int taps = g.kernel * g.kernel, batch = draw(1, 2), threads = draw(1, 3);
  const std::vector<float> weights = values(static_cast<int64_t>(g.c_in) * taps), bias = values(g.c_in);
  const cb_depthwise layer{g.c_in, g.height, g.width, g.out_height, g.out_width, g.kernel, g.stride, g.padding, weights.data(), bias.data(), -1, 2};
  const int64_t pixels = static_cast<int64_t>(g.height) * g.width, positions = static_cast<int64_t>(g.out_height) * g.out_width;
  const std::vector<float> x = values(batch * g.c_in * pixels);
  std::vector<float> y(static_cast<size_t>(batch * g.c_in * positions));
  const cb_step step{KERNEL_OF(depthwise, ISA), &layer, x.data(), nullptr, nullptr, y.data(), batch};
  step.run(&step, threads);
  for (int64_t at = 0; at < static_cast<int64_t>(y.size()); ++at) {
    const int64_t plane = at / positions, c = plane % g.c_in, p = at % positions;
    double sum = bias[static_cast<size_t>(c)];
    for (int t = 0; t < taps; ++t) {
      const int64_t pixel = g.pixel(static_cast<int>(p / g.out_width), static_cast<int>(p % g.out_width), t / g.kernel, t % g.kernel);
      if (pixel >= 0) sum += static_cast<double>(weights[static_cast<size_t>(c * taps + t)]) * x[static_cast<size_t>(plane * pixels + pixel)];
    }
    sum = sum < -1 ? -1 : sum > 2 ? 2 : sum;
    if (std::fabs(sum - y[static_cast<size_t>(at)]) > 1e-4) return false;
  }
  return true;
}
