#include "../../../compressbench/kernels/native/block_int8.cpp"

#include "check.h"

bool runs() { return KERNEL_OF(block_int8_runs, ISA)(); }

bool agrees() {
  const int n = 1 << draw(0, 5), batch = draw(1, 2), zero = draw(0, 255), low = draw(0, 20), high = draw(200, 255);
  const bool floats = draw(0, 1), adds = draw(0, 1), adds_floats = draw(0, 1);
  const Geometry g(n);
  const int columns = g.c_in * g.kernel * g.kernel, rows = g.c_out / n, phases = g.stride < g.kernel ? g.stride : g.kernel;
  std::vector<int> starts{0};
  for (int p = 0; p < phases; ++p) starts.push_back(starts.back() + (g.out_height + (g.kernel - 1 - p) / g.stride) * g.kernel * g.out_width);
  const bool direct = g.kernel == 1 && g.stride == 1 && g.padding == 0;
  std::vector<int> dense(static_cast<size_t>(g.c_out) * columns);
  std::vector<weight> weights;
  std::vector<int32_t> indptr{0}, offsets, start(static_cast<size_t>(g.c_out));
  for (int row = 0; row < rows; ++row) {
    std::vector<int> kept;
    for (int c = 0; c < columns; ++c)
      if (draw(0, 2) == 0) kept.push_back(c);
    for (int c : kept)
      for (int o = 0; o < n; ++o) {
        const int value = dense[static_cast<size_t>(row * n + o) * columns + c] = draw(-128, 127);
        start[static_cast<size_t>(row * n + o)] -= zero * value;
      }
    for (size_t four = 0; four < kept.size(); four += 4) {
      for (int o = 0; o < n; ++o)
        for (size_t i = four; i < four + 4; ++i)
          weights.push_back(static_cast<weight>(i < kept.size() ? dense[static_cast<size_t>(row * n + o) * columns + kept[i]] : 0));
      for (size_t i = four; i < four + 4; ++i) {
        const int c = kept[i < kept.size() ? i : 0], u = c / g.kernel % g.kernel, v = c % g.kernel, channel = c / (g.kernel * g.kernel), phase = u % g.stride;
        const int copy = (starts[phase + 1] - starts[phase]) / g.kernel;
        offsets.push_back(direct ? channel * g.height * g.width : channel * starts[phases] + starts[phase] + v * copy + u / g.stride * g.out_width);
      }
    }
    indptr.push_back(static_cast<int32_t>(offsets.size() / 4));
  }
  std::vector<float> scale = values(g.c_out), bias = values(g.c_out);
  for (float &s : scale) s /= 1000;
  const cb_block_int8 layer{g.c_in, g.height, g.width, g.c_out, g.out_height, g.out_width, g.kernel, g.stride, g.padding, n,
                            indptr.data(), offsets.data(), weights.data(), start.data(), scale.data(), bias.data(), 0.7f,
                            static_cast<float>(low), static_cast<float>(high), zero, floats, adds_floats, draw(1, 8)};
  const int64_t in_size = static_cast<int64_t>(g.c_in) * g.height * g.width, positions = static_cast<int64_t>(g.out_height) * g.out_width;
  std::vector<uint8_t> x(static_cast<size_t>(batch * in_size)), residual(static_cast<size_t>(batch * g.c_out * positions));
  const std::vector<float> added = values(batch * g.c_out * positions);
  for (uint8_t &v : x) v = static_cast<uint8_t>(draw(0, 255));
  for (uint8_t &v : residual) v = static_cast<uint8_t>(draw(0, 255));
  std::vector<uint8_t> workspace(static_cast<size_t>(KERNEL_OF(block_int8_workspace, ISA)(&layer))), bytes(floats ? 0 : residual.size());
  std::vector<float> numbers(floats ? residual.size() : 0);
  void *y = floats ? static_cast<void *>(numbers.data()) : bytes.data();
  const void *other = adds_floats ? static_cast<const void *>(added.data()) : residual.data();
  const cb_step step{KERNEL_OF(block_int8, ISA), &layer, x.data(), workspace.data(), adds ? other : nullptr, y, batch};
  step.run(&step, draw(1, 3));
  for (int b = 0; b < batch; ++b)
    for (int o = 0; o < g.c_out; ++o)
      for (int64_t p = 0; p < positions; ++p) {
        const size_t at = static_cast<size_t>((static_cast<int64_t>(b) * g.c_out + o) * positions + p);
        int32_t sum = 0;
        for (int c = 0; c < columns; ++c) {
          const int64_t pixel = g.pixel(static_cast<int>(p / g.out_width), static_cast<int>(p % g.out_width), c / g.kernel % g.kernel, c % g.kernel);
          if (pixel >= 0) sum += dense[static_cast<size_t>(o) * columns + c] * (x[static_cast<size_t>(b * in_size + c / (g.kernel * g.kernel) * g.height * g.width + pixel)] - zero);
        }
        float value = std::fma(static_cast<float>(sum), scale[static_cast<size_t>(o)], bias[static_cast<size_t>(o)]);
        if (adds) value = std::fma(adds_floats ? added[at] : residual[at], 0.7f, value);
        const float rounded = floats ? value : std::nearbyint(value);
        const float expected = rounded < low ? low : rounded > high ? high : rounded;
        if (expected != (floats ? numbers[at] : bytes[at])) return false;
      }
  return true;
}
