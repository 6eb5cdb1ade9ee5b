// The kernels against plain loops, under AddressSanitizer and UndefinedBehaviorSanitizer (`make sanitize`). Every
// buffer is allocated at its exact size, so that one float too many is an error.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "kernels.h"

namespace {

std::mt19937 random_bits(0);
int draw(int low, int high) { return low + static_cast<int>(random_bits() % static_cast<unsigned>(high - low + 1)); }
float value() { return std::uniform_real_distribution<float>(-1, 1)(random_bits); }

std::vector<float> values(int64_t count) {
  std::vector<float> result(static_cast<size_t>(count));
  for (float &v : result) v = value();
  return result;
}

struct Geometry {
  int c_in = draw(1, 70), height = 0, width = 0, c_out, out_height, out_width, kernel = draw(0, 1) ? 3 : 1, stride = draw(1, 2), padding;

  explicit Geometry(int multiple) : c_out(multiple * draw(1, 3)), padding(draw(0, kernel - 1)) {
    const int smallest = kernel > 2 * padding ? kernel - 2 * padding : 1;
    height = draw(smallest, 14), width = draw(smallest, 14);
    out_height = (height + 2 * padding - kernel) / stride + 1;
    out_width = (width + 2 * padding - kernel) / stride + 1;
  }

  // Of tap (u, v) at output (i, j): the input pixel, or -1 in the padding.
  int64_t pixel(int i, int j, int u, int v) const {
    const int y = i * stride + u - padding, x = j * stride + v - padding;
    return y < 0 || y >= height || x < 0 || x >= width ? -1 : static_cast<int64_t>(y) * width + x;
  }
};

bool block_sparse(int isa) {
  const int n = 1 << draw(0, 5), batch = draw(1, 2);
  const Geometry g(n);
  const int columns = g.c_in * g.kernel * g.kernel, rows = g.c_out / n, lanes = n < cb_rows(isa) ? n : cb_rows(isa);
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
                             draw(1, cb_max_vectors(isa, lanes)), draw(1, 8), draw(0, 1)};
  const int64_t in_size = static_cast<int64_t>(g.c_in) * g.height * g.width, positions = static_cast<int64_t>(g.out_height) * g.out_width;
  const std::vector<float> x = values(batch * in_size), residual = values(batch * g.c_out * positions);
  std::vector<float> y(residual.size()), workspace(static_cast<size_t>(cb_workspace(&layer)));
  cb_convolve(isa, &layer, x.data(), workspace.data(), residual.data(), y.data(), batch, draw(1, 3));
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

bool depthwise(int isa) {
  Geometry g(1);
  g.kernel = draw(0, 1) ? 5 : 3, g.padding = draw(g.height < g.kernel || g.width < g.kernel ? (g.kernel - 1) / 2 : 0, g.kernel - 1);
  const int smallest = g.kernel - 2 * g.padding;
  if (g.height < smallest) g.height = smallest;
  if (g.width < smallest) g.width = smallest;
  g.out_height = (g.height + 2 * g.padding - g.kernel) / g.stride + 1, g.out_width = (g.width + 2 * g.padding - g.kernel) / g.stride + 1;
  const int taps = g.kernel * g.kernel, batch = draw(1, 2), threads = draw(1, 3);
  const std::vector<float> weights = values(static_cast<int64_t>(g.c_in) * taps), bias = values(g.c_in);
  const cb_depthwise layer{g.c_in, g.height, g.width, g.out_height, g.out_width, g.kernel, g.stride, g.padding, weights.data(), bias.data(), -1, 2};
  const int64_t pixels = static_cast<int64_t>(g.height) * g.width, positions = static_cast<int64_t>(g.out_height) * g.out_width;
  const std::vector<float> x = values(batch * g.c_in * pixels);
  std::vector<float> y(static_cast<size_t>(batch * g.c_in * positions)), workspace(static_cast<size_t>(cb_depthwise_workspace(&layer, threads)));
  cb_convolve_depthwise(isa, &layer, x.data(), workspace.data(), y.data(), batch, threads);
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

bool binary(int isa) {
  const Geometry g(1);
  const int batch = draw(1, 2), taps = g.kernel * g.kernel, words = (g.c_in + 63) / 64, group = cb_binary_channels(isa);
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
  cb_convolve_binary(isa, &layer, x.data(), workspace.data(), y.data(), batch, draw(1, 3));
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

}  // namespace

int main() {
  for (int round = 0; round < 300; ++round) {
    for (int isa = 0; isa <= cb_best_isa(); ++isa)
      if (!block_sparse(isa)) return std::printf("block-sparse, build %d, round %d: wrong\n", isa, round), 1;
    for (int isa = 0; isa <= cb_best_isa(); ++isa)
      if (!depthwise(isa)) return std::printf("depthwise, build %d, round %d: wrong\n", isa, round), 1;
    for (int isa = 0; isa <= cb_best_binary_isa(); ++isa)
      if (!binary(isa)) return std::printf("binary, build %d, round %d: wrong\n", isa, round), 1;
  }
  std::printf("300 rounds on %d builds: all right\n", cb_best_isa() + 1);
}
