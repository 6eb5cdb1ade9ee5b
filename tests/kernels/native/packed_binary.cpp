#include "../../../compressbench/kernels/native/packed_binary.cpp"

#include "check.h"

bool runs() { return KERNEL_OF(packed_binary_runs, ISA)(); }

bool agrees() {
  const Geometry g(1);
  const int batch = draw(1, 2), taps = g.kernel * g.kernel, words = (g.c_in + 63) / 64, group = CHANNELS;
  const int groups = (g.c_out + group - 1) / group;
  std::vector<uint64_t> weights(static_cast<size_t>(groups) * taps * words * group);
  std::vector<int> bits(static_cast<size_t>(g.c_out) * taps * g.c_in);
  for (int o = 0; o < g.c_out; ++o)
    for (int t = 0; t < taps; ++t)
      for (int c = 0; c < g.c_in; ++c)
        if (draw(0, 1)) {
          bits[static_cast<size_t>((o * taps + t) * g.c_in + c)] = 1;
          weights[static_cast<size_t>(((o / group * taps + t) * words + c / 64) * group + o % group)] |= 1ull << (c % 64);
        }
  const int padded = (g.c_out + group - 1) / group * group;
  // A class per row and column: the correction of every position on its own.
  std::vector<int32_t> base, row_class, column_class;
  for (int i = 0; i < g.out_height; ++i) row_class.push_back(i);
  for (int j = 0; j < g.out_width; ++j) column_class.push_back(j);
  for (int i = 0; i < g.out_height; ++i)
    for (int j = 0; j < g.out_width; ++j)
      for (int o = 0; o < padded; ++o) {
        int32_t sum = 0;
        for (int t = 0; t < taps && o < g.c_out; ++t)
          for (int c = 0; c < g.c_in; ++c)
            sum += g.pixel(i, j, t / g.kernel, t % g.kernel) >= 0 ? 1 : 2 * bits[static_cast<size_t>((o * taps + t) * g.c_in + c)];
        base.push_back(sum);
      }
  const std::vector<float> scale(static_cast<size_t>(padded), 1.f), bias(static_cast<size_t>(padded), 0.f);
  const cb_binary layer{g.c_in, g.height, g.width, g.c_out, g.out_height, g.out_width, g.kernel, g.stride, g.padding, weights.data(),
                        base.data(), row_class.data(), column_class.data(), g.out_width, -2, scale.data(), bias.data()};
  const std::vector<float> x = values(static_cast<int64_t>(batch) * g.height * g.width * g.c_in);
  std::vector<float> y(static_cast<size_t>(batch) * g.out_height * g.out_width * g.c_out);
  std::vector<uint64_t> workspace(static_cast<size_t>((g.height + 2 * g.padding) * (g.width + 2 * g.padding) * words));
  KERNEL_OF(packed_binary, ISA)(&layer, x.data(), workspace.data(), y.data(), batch, draw(1, 3));
  size_t at = 0;
  for (int b = 0; b < batch; ++b)
    for (int i = 0; i < g.out_height; ++i)
      for (int j = 0; j < g.out_width; ++j)
        for (int o = 0; o < g.c_out; ++o, ++at) {
          int sum = 0;
          for (int t = 0; t < taps; ++t) {
            const int64_t pixel = g.pixel(i, j, t / g.kernel, t % g.kernel);
            for (int c = 0; c < g.c_in && pixel >= 0; ++c)
              sum += (x[static_cast<size_t>((static_cast<int64_t>(b) * g.height * g.width + pixel) * g.c_in + c)] > 0) == bits[static_cast<size_t>((o * taps + t) * g.c_in + c)] ? 1 : -1;
          }
          if (static_cast<float>(sum) != y[at]) return false;
        }
  return true;
}
