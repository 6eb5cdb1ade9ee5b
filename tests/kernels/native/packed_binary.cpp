#include "../../../compressbench/kernels/native/packed_binary.cpp"

#include "check.h"

bool runs() { return KERNEL_OF(packed_binary_runs, ISA)(); }

bool agrees() {
  const Geometry g(1);
  const int batch = draw(1, 2), taps = g.kernel * g.kernel, words = (g.c_in + 63) / 64, out_words = (g.c_out + 63) / 64;
  const int pixels = g.height * g.width, positions = g.out_height * g.out_width, ones = draw(0, 1);
  const bool given = draw(0, 1), centred = !given && draw(0, 1), normed = !given && !centred && draw(0, 1), added = draw(0, 1), sloped = draw(0, 1), only_signs = !added && !sloped && draw(0, 1);
  std::vector<uint64_t> weights(static_cast<size_t>((g.c_out + ROWS - 1) / ROWS) * taps * words * ROWS);
  std::vector<int> bits(static_cast<size_t>(g.c_out) * taps * g.c_in);
  for (int o = 0; o < g.c_out; ++o)
    for (int t = 0; t < taps; ++t)
      for (int c = 0; c < g.c_in; ++c)
        if (draw(0, 1)) {
          bits[static_cast<size_t>((o * taps + t) * g.c_in + c)] = 1;
          weights[static_cast<size_t>(((o / ROWS * words + c / 64) * taps + t) * ROWS + o % ROWS)] |= 1ull << (c % 64);
        }
  // A class for every position: its correction on its own.
  const int pitch = (positions + 15) / 16 * 16;
  std::vector<int32_t> base, classes(static_cast<size_t>(positions + 16));
  for (int p = 0; p < positions; ++p) classes[static_cast<size_t>(p)] = p;
  for (int o = 0; o < g.c_out; ++o)
    for (int p = 0; p < pitch; ++p) {
      int32_t sum = 0;
      for (int t = 0; t < taps && p < positions; ++t) {
        const bool inside = g.pixel(p / g.out_width, p % g.out_width, t / g.kernel, t % g.kernel) >= 0;
        for (int c = 0; c < g.c_in; ++c) {
          const int bit = bits[static_cast<size_t>((o * taps + t) * g.c_in + c)];
          sum += ones ? (inside ? -bit : 0) : inside ? 1 : 2 * bit;
        }
      }
      base.push_back(sum);
    }
  const int phases = g.stride < g.kernel ? g.stride : g.kernel;
  std::vector<int> before{0};
  for (int phase = 0; phase < phases; ++phase) before.push_back(before.back() + g.out_height + (g.kernel - 1 - phase) / g.stride);
  const int plane = before.back() * g.out_width;
  const bool direct = g.kernel == 1 && g.stride == 1 && g.padding == 0;
  std::vector<int32_t> offsets;
  for (int w = 0; w < words; ++w)
    for (int t = 0; t < taps; ++t) {
      const int u = t / g.kernel, v = t % g.kernel;
      offsets.push_back(direct ? w * pixels : (w * g.kernel + v) * plane + (before[static_cast<size_t>(u % g.stride)] + u / g.stride) * g.out_width);
    }
  const std::vector<float> scale = values(g.c_out), bias = values(g.c_out), slope = values(g.c_out);
  std::vector<int32_t> limits;
  std::vector<uint64_t> flips(static_cast<size_t>(out_words));
  for (int o = 0; o < g.c_out; ++o) {
    limits.push_back(draw(-20, 20));
    if (draw(0, 1)) flips[static_cast<size_t>(o / 64)] |= 1ull << (o % 64);
  }
  const std::vector<float> x = values(static_cast<int64_t>(batch) * g.c_in * pixels);
  const std::vector<float> residual = values(static_cast<int64_t>(batch) * g.c_out * positions);
  std::vector<double> means(static_cast<size_t>(batch));
  for (size_t i = 0; i < x.size() && centred; ++i) means[i / static_cast<size_t>(g.c_in * pixels)] += x[i] / (g.c_in * pixels);
  const std::vector<float> norm = values(2 * g.c_in);
  std::vector<uint64_t> input(static_cast<size_t>(batch * words * pixels + LANES)), signs(static_cast<size_t>(batch * out_words * positions));
  std::vector<uint64_t> copies(static_cast<size_t>(words * g.kernel * plane + LANES));
  if (given)
    for (int b = 0; b < batch; ++b)
      for (int c = 0; c < g.c_in; ++c)
        for (int p = 0; p < pixels; ++p)
          if (x[static_cast<size_t>((b * g.c_in + c) * pixels + p)] > 0)
            input[static_cast<size_t>((b * words + c / 64) * pixels + p)] |= 1ull << (c % 64);
  const cb_binary layer{g.c_in, g.height, g.width, g.c_out, g.out_height, g.out_width, g.kernel, g.stride, g.padding, ones, centred, normed ? norm.data() : nullptr,
                        offsets.data(), weights.data(), base.data(), classes.data(), pitch, scale.data(), bias.data(),
                        sloped ? slope.data() : nullptr, -3.f, 3.f, input.data(), direct ? nullptr : copies.data(), signs.data(),
                        only_signs ? limits.data() : nullptr, flips.data()};
  std::vector<float> y(static_cast<size_t>(batch) * g.c_out * positions);
  std::vector<float> sums(static_cast<size_t>(g.c_in));
  const float *in = given ? nullptr : x.data(), *sum = added ? residual.data() : nullptr;
  float *out = only_signs ? nullptr : y.data();
  const cb_step step{KERNEL_OF(packed_binary, ISA), &layer, in, sums.data(), sum, out, batch};
  if (draw(0, 1))
    convolve(layer, in, sums.data(), sum, out, batch, draw(1, 3));  // the kernel leaves little work to one thread
  else
    step.run(&step, 3);
  for (int b = 0; b < batch; ++b)
    for (int o = 0; o < g.c_out; ++o)
      for (int p = 0; p < positions; ++p) {
        int sum = 0;
        for (int t = 0; t < taps; ++t) {
          const int64_t pixel = g.pixel(p / g.out_width, p % g.out_width, t / g.kernel, t % g.kernel);
          for (int c = 0; c < g.c_in && pixel >= 0; ++c) {
            double v = x[static_cast<size_t>((b * g.c_in + c) * pixels + pixel)] - means[static_cast<size_t>(b)];
            if (normed) v = v * norm[static_cast<size_t>(c)] + norm[static_cast<size_t>(g.c_in + c)];
            const int sign = v > 0 ? 1 : -1;
            const int bit = bits[static_cast<size_t>((o * taps + t) * g.c_in + c)];
            sum += sign * (ones ? bit : 2 * bit - 1);
          }
        }
        const size_t channel = static_cast<size_t>(o), at = static_cast<size_t>((b * g.c_out + o) * positions + p);
        const bool set = signs[static_cast<size_t>((b * out_words + o / 64) * positions + p)] >> (o % 64) & 1;
        if (only_signs) {
          if (set != ((sum > limits[channel]) != static_cast<bool>(flips[channel / 64] >> (channel % 64) & 1))) return false;
          continue;
        }
        double expected = static_cast<double>(scale[channel]) * sum + bias[channel] + (added ? residual[at] : 0);
        if (sloped && expected < 0) expected *= slope[channel];
        expected = expected < -3 ? -3 : expected > 3 ? 3 : expected;
        if (std::fabs(expected - y[at]) > 1e-3 || set != (y[at] > 0)) return false;
      }
  for (int b = 0; b < batch; ++b)
    for (int w = 0; w < out_words; ++w)
      for (int p = 0; p < positions; ++p) {
        const int used = g.c_out - 64 * w;
        if (used < 64 && signs[static_cast<size_t>((b * out_words + w) * positions + p)] >> used) return false;
      }
  return true;
}
