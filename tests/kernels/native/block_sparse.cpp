#include "../../../compressbench/kernels/native/block_sparse.cpp"

#include "check.h"

bool runs() { return true; }

bool agrees() {
  const int n = 1 << draw(0, 5), batch = draw(1, 2);
  const Geometry g(n);
  const int columns = g.c_in * g.kernel * g.kernel, rows = g.c_out / n, lanes = n < ROWS ? n : ROWS;
  const int phases = g.stride < g.kernel ? g.stride : g.kernel;
  std::vector<int> starts{0};
  for (int p = 0; p < phases; ++p) starts.push_back(starts.back() + (g.out_height + (g.kernel - 1 - p) / g.stride) * g.kernel * g.out_width);
  const bool direct = g.kernel == 1 && g.stride == 1 && g.padding == 0;
  std::vector<float> dense(static_cast<size_t>(g.c_out) * columns), bias = values(g.c_out), weights;
  std::vector<int32_t> indptr{0}, offsets;
  for (int row = 0; row < rows; ++row) {
    std::vector<int> kept;
    for (int c = 0; c < columns; ++c)
      if (draw(0, 2) == 0) kept.push_back(c);
    for (int c : kept) {
      const int u = c / g.kernel % g.kernel, v = c % g.kernel, channel = c / (g.kernel * g.kernel), phase = u % g.stride;
      const int copy = (starts[phase + 1] - starts[phase]) / g.kernel;
      offsets.push_back(direct ? channel * g.height * g.width : channel * starts[phases] + starts[phase] + v * copy + u / g.stride * g.out_width);
      for (int o = 0; o < n; ++o) dense[static_cast<size_t>(row * n + o) * columns + c] = value();
    }
    for (int pass = 0; pass < n; pass += lanes)
      for (int c : kept)
        for (int o = 0; o < lanes; ++o) weights.push_back(dense[static_cast<size_t>(row * n + pass + o) * columns + c]);
    indptr.push_back(static_cast<int32_t>(offsets.size()));
  }
  const cb_convolution layer{g.c_in, g.height, g.width, g.c_out, g.out_height, g.out_width, g.kernel, g.stride, g.padding, n,
                             indptr.data(), offsets.data(), weights.data(), bias.data(), -1, 2,
                             draw(1, most_vectors(lanes)), draw(1, 8), draw(0, 1)};
  const int64_t in_size = static_cast<int64_t>(g.c_in) * g.height * g.width, positions = static_cast<int64_t>(g.out_height) * g.out_width;
  const std::vector<float> x = values(batch * in_size), residual = values(batch * g.c_out * positions);
  std::vector<float> y(residual.size()), workspace(static_cast<size_t>(KERNEL_OF(block_sparse_workspace, ISA)(&layer)));
  const cb_step step{KERNEL_OF(block_sparse, ISA), &layer, x.data(), workspace.data(), residual.data(), y.data(), batch};
  step.run(&step, draw(1, 3));
  for (int b = 0; b < batch; ++b)
    for (int o = 0; o < g.c_out; ++o)
      for (int64_t p = 0; p < positions; ++p) {
        const int64_t at = (static_cast<int64_t>(b) * g.c_out + o) * positions + p;
        double sum = bias[static_cast<size_t>(o)] + residual[static_cast<size_t>(at)];
        for (int c = 0; c < columns; ++c) {
          const int64_t pixel = g.pixel(static_cast<int>(p / g.out_width), static_cast<int>(p % g.out_width), c / g.kernel % g.kernel, c % g.kernel);
          if (pixel >= 0) sum += static_cast<double>(dense[static_cast<size_t>(o) * columns + c]) * x[static_cast<size_t>(b * in_size + c / (g.kernel * g.kernel) * g.height * g.width + pixel)];
        }
        sum = sum < -1 ? -1 : sum > 2 ? 2 : sum;
        if (std::fabs(sum - y[static_cast<size_t>(at)]) > 1e-4) return false;
      }
  return true;
}
