// What networks of uint8 codes need beside block_int8.cpp: rounding to codes, depthwise convolutions, and maxima. NCHW. Every build
// gives the same codes.
#include "bytes.h"
#include "isa.h"
#include "scratch.h"
#include "vectors.h"

// code = x / scale, rounded half to even, + zero, clipped to [0, high].
struct cb_quantize {
  int64_t count;  // values of an image
  float scale;
  int32_t zero, high;
};

// One filter per channel. With sum = start + the products: y = fma(sum, scale, bias), rounded half to even, clipped to [low, high].
// Sums are whole numbers below 2^24, which fp32 holds.
struct cb_depthwise_int8 {
  int32_t channels, height, width, out_height, out_width;
  int32_t kernel, stride, padding;
  const float *weights;                // [channels][kernel * kernel]
  const float *start, *scale, *bias;  // [channels]
  float low, high;
  int32_t zero;  // the code of zero in the input
};

// Padding takes no part in a maximum; every window meets the image.
struct cb_max_codes {
  int32_t channels, height, width, out_height, out_width;
  int32_t kernel, stride, padding;
};

namespace {

constexpr int CHUNK = 64;          // positions of a depthwise convolution at a time
constexpr float ROUND = 12582912;  // 1.5 * 2^23: a sum with it has no fraction

inline uint8_t rounded(float value, float low, float high) {
  const float inside = value > low ? value < high ? value : high : low;
  return static_cast<uint8_t>(static_cast<int32_t>((inside + ROUND) - ROUND));
}

void quantize(const cb_quantize &layer, const float *x, uint8_t *y, int64_t count) {
  const float low = static_cast<float>(-layer.zero), high = static_cast<float>(layer.high - layer.zero), zero = static_cast<float>(layer.zero);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float value = x[i] / layer.scale, inside = value > low ? value < high ? value : high : low;
    y[i] = static_cast<uint8_t>(static_cast<int32_t>((inside + ROUND) - ROUND + zero));
  }
}

// The padded input of a channel as fp32, every stride-th row and column in a plane of its own: a tap of the filter reads one plane in
// one run, rows one after the other. Columns that are not part of the output are computed and dropped.
struct Planes {
  int32_t rows, pitch;  // of a plane
  explicit Planes(const cb_depthwise_int8 &layer)
      : rows(layer.out_height + (layer.kernel - 1) / layer.stride), pitch(layer.out_width + (layer.kernel - 1) / layer.stride) {}
  int64_t size() const { return static_cast<int64_t>(rows) * pitch + CHUNK; }
  int64_t run(const cb_depthwise_int8 &layer) const { return static_cast<int64_t>(layer.out_height - 1) * pitch + layer.out_width; }
};

void lay_out(const cb_depthwise_int8 &layer, const Planes &planes, const uint8_t *x, float *line, float *out) {
  const float zero = static_cast<float>(layer.zero);
  const int32_t stride = layer.stride, columns = stride * planes.pitch;
  for (int32_t j = 0; j < columns; ++j) line[j] = zero;
  for (int32_t i = 0; i < stride * planes.rows; ++i) {
    const int32_t y = i - layer.padding, inside = columns - layer.padding < layer.width ? columns - layer.padding : layer.width;
    float *plane = out + (i % stride) * stride * planes.size() + static_cast<int64_t>(i / stride) * planes.pitch;
    if (y < 0 || y >= layer.height) {
      for (int32_t b = 0; b < stride; ++b)
        for (int32_t j = 0; j < planes.pitch; ++j) plane[b * planes.size() + j] = zero;
      continue;
    }
    const uint8_t *row = x + static_cast<int64_t>(y) * layer.width;
    if (stride == 1) {
      for (int32_t j = 0; j < layer.padding && j < columns; ++j) plane[j] = zero;
      widen(row, plane + layer.padding, inside);
      for (int32_t j = layer.padding + inside; j < columns; ++j) plane[j] = zero;
      continue;
    }
    widen(row, line + layer.padding, inside);
    for (int32_t b = 0; b < stride; ++b) copy_every(stride, line + b, plane + b * planes.size(), planes.pitch);
  }
}

template <int KERNEL, int STRIDE>
void filter(const cb_depthwise_int8 &layer, const Planes &planes, int32_t channel, const float *in, uint8_t *codes) {
  const int32_t kernel = KERNEL ? KERNEL : layer.kernel, stride = STRIDE ? STRIDE : layer.stride;
  const float *weights = layer.weights + static_cast<int64_t>(channel) * kernel * kernel;
  const float scale = layer.scale[channel], bias = layer.bias[channel], low = layer.low, high = layer.high;
  const float start = layer.start[channel];
  const int64_t count = planes.run(layer);
  for (int64_t p = 0; p < count; p += CHUNK) {
    vec sum[CHUNK / V];
#pragma GCC unroll 16
    for (int i = 0; i < CHUNK / V; ++i) sum[i] = start - vec{};
#pragma GCC unroll 3
    for (int32_t u = 0; u < kernel; ++u)
#pragma GCC unroll 3
      for (int32_t v = 0; v < kernel; ++v) {
        const float *plane = in + (u % stride * stride + v % stride) * planes.size() + u / stride * static_cast<int64_t>(planes.pitch) + v / stride + p;
#pragma GCC unroll 16
        for (int i = 0; i < CHUNK / V; ++i) sum[i] += weights[u * kernel + v] * load(plane + i * V);
      }
#ifdef __AVX512F__
#pragma GCC unroll 4
    for (int i = 0; i < CHUNK / V; ++i) {
      const __m512 value = _mm512_fmadd_ps(sum[i], _mm512_set1_ps(scale), _mm512_set1_ps(bias));
      const __m512 inside = _mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), value));
      _mm_storeu_si128(reinterpret_cast<__m128i *>(codes + p + i * V), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(inside)));
    }
#else
    float values[CHUNK];
    for (int i = 0; i < CHUNK / V; ++i) store(values + i * V, sum[i]);
#pragma omp simd
    for (int i = 0; i < CHUNK; ++i) codes[p + i] = rounded(__builtin_fmaf(values[i], scale, bias), low, high);
#endif
  }
}

void depthwise(const cb_depthwise_int8 &layer, int32_t channel, const uint8_t *x, uint8_t *y) {
  const Planes planes(layer);
  const int64_t all = planes.size() * layer.stride * layer.stride, line = static_cast<int64_t>(layer.stride) * planes.pitch;
  float *floats = static_cast<float *>(scratch.at_least(static_cast<size_t>(4 * (all + line) + planes.run(layer) + CHUNK)));
  uint8_t *codes = reinterpret_cast<uint8_t *>(floats + all + line);
  lay_out(layer, planes, x, floats + all, floats);
  for (int i = 0; i < layer.stride * layer.stride; ++i)  // what a last vector reads beyond the plane
    for (int64_t j = planes.size() - CHUNK; j < planes.size(); ++j) floats[i * planes.size() + j] = 0;
  (layer.kernel != 3 ? filter<0, 0> : layer.stride == 1 ? filter<3, 1> : layer.stride == 2 ? filter<3, 2> : filter<3, 0>)(
      layer, planes, channel, floats, codes);
  for (int32_t i = 0; i < layer.out_height; ++i)
    __builtin_memcpy(y + static_cast<int64_t>(i) * layer.out_width, codes + static_cast<int64_t>(i) * planes.pitch, static_cast<size_t>(layer.out_width));
}

// One channel. The maximum over the rows of a window goes into a line with a margin of zeros.
void max_codes(const cb_max_codes &layer, const uint8_t *x, uint8_t *line, uint8_t *most, uint8_t *y) {
  for (int32_t i = 0; i < layer.out_height; ++i, y += layer.out_width) {
    const int32_t top = i * layer.stride - layer.padding, first = top > 0 ? top : 0;
    const int32_t last = top + layer.kernel < layer.height ? top + layer.kernel : layer.height;
    uint8_t *values = line + layer.padding;
    __builtin_memcpy(values, x + static_cast<int64_t>(first) * layer.width, static_cast<size_t>(layer.width));
    for (int32_t row = first + 1; row < last; ++row) raise(x + static_cast<int64_t>(row) * layer.width, values, layer.width);
    const int32_t columns = layer.stride * (layer.out_width - 1) + 1;
    __builtin_memcpy(most, line, static_cast<size_t>(columns));
    for (int32_t v = 1; v < layer.kernel; ++v) raise(line + v, most, columns);
    copy_every(layer.stride, most, y, layer.out_width);
  }
}

}  // namespace

// x: fp32, y: uint8.
KERNEL(void, quantize)(const cb_step *step, int32_t threads) {
  const cb_quantize &layer = *static_cast<const cb_quantize *>(step->layer);
  const int64_t count = layer.count * step->batch;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const int64_t first = count * thread() / threads_running(), last = count * (thread() + 1) / threads_running();
    quantize(layer, static_cast<const float *>(step->x) + first, static_cast<uint8_t *>(step->y) + first, last - first);
  }
}

// x, y: uint8 [batch, channels, ...].
KERNEL(void, depthwise_int8)(const cb_step *step, int32_t threads) {
  const cb_depthwise_int8 &layer = *static_cast<const cb_depthwise_int8 *>(step->layer);
  const int64_t pixels = static_cast<int64_t>(layer.height) * layer.width, positions = static_cast<int64_t>(layer.out_height) * layer.out_width;
  const int64_t planes = static_cast<int64_t>(step->batch) * layer.channels;
#pragma omp parallel num_threads(threads) if (threads > 1)
  for (int64_t plane = planes * thread() / threads_running(); plane < planes * (thread() + 1) / threads_running(); ++plane)
    depthwise(layer, static_cast<int32_t>(plane % layer.channels), static_cast<const uint8_t *>(step->x) + plane * pixels,
              static_cast<uint8_t *>(step->y) + plane * positions);
}

// x, y: uint8 [batch, channels, ...].
KERNEL(void, max_codes)(const cb_step *step, int32_t threads) {
  const cb_max_codes &layer = *static_cast<const cb_max_codes *>(step->layer);
  const int64_t pixels = static_cast<int64_t>(layer.height) * layer.width, positions = static_cast<int64_t>(layer.out_height) * layer.out_width;
  const int64_t planes = static_cast<int64_t>(step->batch) * layer.channels;
  const size_t line = static_cast<size_t>(layer.width + 2 * layer.padding + layer.stride);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    uint8_t *margin = static_cast<uint8_t *>(__builtin_memset(scratch.at_least(2 * line), 0, line));
    for (int64_t plane = planes * thread() / threads_running(); plane < planes * (thread() + 1) / threads_running(); ++plane)
      max_codes(layer, static_cast<const uint8_t *>(step->x) + plane * pixels, margin, margin + line, static_cast<uint8_t *>(step->y) + plane * positions);
  }
}
