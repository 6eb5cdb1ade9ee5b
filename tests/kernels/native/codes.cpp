#include "../../../compressbench/kernels/native/codes.cpp"

#include "check.h"

bool runs() { return true; }

namespace {

std::vector<uint8_t> codes(size_t count) {
  std::vector<uint8_t> result(count);
  for (uint8_t &v : result) v = static_cast<uint8_t>(draw(0, 255));
  return result;
}

}  // namespace

bool agrees() {
  Geometry g(1);
  g.padding = draw(0, g.kernel / 2);
  g.out_height = (g.height + 2 * g.padding - g.kernel) / g.stride + 1, g.out_width = (g.width + 2 * g.padding - g.kernel) / g.stride + 1;
  if (g.height + 2 * g.padding < g.kernel || g.width + 2 * g.padding < g.kernel) return true;
  const int channels = draw(1, 4), batch = draw(1, 2), zero = draw(0, 255), taps = g.kernel * g.kernel;
  const size_t pixels = static_cast<size_t>(g.height * g.width), positions = static_cast<size_t>(g.out_height * g.out_width);
  const size_t planes = static_cast<size_t>(batch * channels);
  const std::vector<uint8_t> x = codes(planes * pixels);
  std::vector<uint8_t> y(planes * positions), most(planes * positions), rounded_values(planes * pixels);
  std::vector<float> weights(static_cast<size_t>(channels * taps)), start(static_cast<size_t>(channels)), scale = values(channels), bias = values(channels);
  for (size_t i = 0; i < weights.size(); ++i) {
    weights[i] = static_cast<float>(draw(-128, 127));
    start[i / static_cast<size_t>(taps)] -= static_cast<float>(zero) * weights[i];
  }
  const cb_depthwise_int8 filter{channels, g.height, g.width, g.out_height, g.out_width, g.kernel, g.stride, g.padding,
                                 weights.data(), start.data(), scale.data(), bias.data(), 3, 250, zero};
  const cb_max_codes maximum{channels, g.height, g.width, g.out_height, g.out_width, g.kernel, g.stride, g.padding};
  const std::vector<float> numbers = values(static_cast<int64_t>(planes * pixels));
  const cb_quantize grid{channels * static_cast<int64_t>(pixels), 0.01f, zero, 255};
  const cb_step steps[] = {{KERNEL_OF(depthwise_int8, ISA), &filter, x.data(), nullptr, nullptr, y.data(), batch},
                           {KERNEL_OF(max_codes, ISA), &maximum, x.data(), nullptr, nullptr, most.data(), batch},
                           {KERNEL_OF(quantize, ISA), &grid, numbers.data(), nullptr, nullptr, rounded_values.data(), batch}};
  for (const cb_step &step : steps) step.run(&step, draw(1, 3));
  for (size_t i = 0; i < numbers.size(); ++i) {
    const float code = std::nearbyint(numbers[i] / 0.01f) + static_cast<float>(zero);
    if (rounded_values[i] != (code < 0 ? 0 : code > 255 ? 255 : code)) return false;
  }
  for (size_t plane = 0; plane < planes; ++plane)
    for (size_t p = 0; p < positions; ++p) {
      const size_t channel = plane % static_cast<size_t>(channels);
      float sum = 0;
      uint8_t largest = 0;
      for (int t = 0; t < taps; ++t) {
        const int64_t pixel = g.pixel(static_cast<int>(p) / g.out_width, static_cast<int>(p) % g.out_width, t / g.kernel, t % g.kernel);
        if (pixel < 0) continue;
        const uint8_t code = x[plane * pixels + static_cast<size_t>(pixel)];
        sum += weights[channel * static_cast<size_t>(taps) + static_cast<size_t>(t)] * static_cast<float>(code - zero);
        largest = code > largest ? code : largest;
      }
      const float value = std::nearbyint(std::fma(sum, scale[channel], bias[channel]));
      if (y[plane * positions + p] != (value < 3 ? 3 : value > 250 ? 250 : value)) return false;
      if (most[plane * positions + p] != largest) return false;
    }
  return true;
}
