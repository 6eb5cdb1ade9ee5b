// Depthwise convolution, 3x3 and 5x5, stride 1 and 2. Compiled once per instruction set.
//
// The lanes of a vector are neighbouring columns of the output. A strip of them runs down the image: every input row is read once, in
// place, and added to all output rows that it is part of.
#include "isa.h"
#include "vectors.h"

// A convolution in which every channel has a 3x3 or 5x5 kernel of its own, with stride 1 or 2. NCHW, fp32.
struct cb_depthwise {
  int32_t channels, height, width;
  int32_t out_height, out_width;
  int32_t kernel, stride, padding;
  const float *weights;  // [channels][kernel][kernel]
  const float *bias;     // [channels]
  float low, high;       // the output is clipped to this range
};

namespace {

typedef int32_t integers __attribute__((vector_size(VECTOR_BYTES)));

inline vec every_second(vec first, vec second, int odd) {
  integers pick;
  for (int i = 0; i < V; ++i) pick[i] = 2 * i + odd;
  return __builtin_shuffle(first, second, pick);
}

// Lanes FROM to FROM + V - 1 of two vectors.
template <int FROM>
inline vec shifted(vec first, vec second) {
  integers pick;
  for (int i = 0; i < V; ++i) pick[i] = FROM + i;
  return __builtin_shuffle(first, second, pick);
}

// What the kernel's columns, from TAP on, meet in one input row. The middle one meets `even`; with stride 2, the one after it `odd`.
// FIRST, LAST: the strip begins, ends, at the edge of the image.
template <int K, int S, bool FIRST, bool LAST, int TAP = 0>
inline void neighbours(const float *in, vec even, vec odd, vec (&values)[K]) {
  if constexpr (TAP < K) {
    constexpr int away = TAP - K / 2, remainder = (away + 2 * S) % S, lanes = (away - remainder) / S;
    if constexpr (lanes == 0)
      values[TAP] = remainder ? odd : even;
    else if constexpr (lanes < 0 && FIRST)
      values[TAP] = shifted<V + lanes>(vec{}, remainder ? odd : even);
    else if constexpr (lanes > 0 && LAST)
      values[TAP] = shifted<lanes>(remainder ? odd : even, vec{});
    else
      values[TAP] = S == 1 ? load(in + away) : every_second(load(in + away), load(in + away + V), 0);
    neighbours<K, S, FIRST, LAST, TAP + 1>(in, even, odd, values);
  }
}

// One channel.
struct Plane {
  const float *weights;
  float bias;
  const float *x;
  float *y;
};

// The columns of one input row that V columns of the output are the middle of, and with stride 2 those after them.
template <int S, bool LAST, bool NARROW>
struct Row {
  integers in_row[S];  // the columns that exist, from the first one on; for NARROW
  int missing;         // 1: the image ends before the last odd column
  float end[2 * S * V];
  int64_t from;        // where `end` begins; from there on, a row would be read beyond the end of the image

  Row(const cb_depthwise &layer, const float *x) : missing(S == 2 && LAST ? layer.width % 2 : 0), from(0) {
    if (!NARROW) return;
    for (int i = 0; i < S * V; ++i) in_row[i / V][i % V] = i < layer.width ? -1 : 0;
    from = static_cast<int64_t>(layer.height) * layer.width - S * V;
    for (int i = 0; i < 2 * S * V; ++i) end[i] = i < S * V && from + i >= 0 ? x[from + i] : 0;
  }

  // The input row that begins at place `at` of the image x; `in`: where it has been found.
  inline void read(const float *x, int64_t at, const float **in, vec *even, vec *odd) const {
    *in = NARROW && at > from ? end + (at - from) : x + at;
    vec first = load(*in), second = S == 2 ? load(*in + V - (NARROW ? 0 : missing)) : vec{};
    if (NARROW) first = (vec)((integers)first & in_row[0]), second = (vec)((integers)second & in_row[S - 1]);
    *even = first, *odd = second;
    if (S == 1) return;
    if (LAST && !NARROW && missing) second = shifted<1>(second, vec{});
    *even = every_second(first, second, 0), *odd = every_second(first, second, 1);
  }
};

// V columns of all output rows, from column `at` on. NARROW: a row of the output is shorter than V.
template <int K, int S, bool FIRST, bool LAST, bool NARROW>
void strip(const cb_depthwise &layer, const Plane &plane, int32_t at) {
  constexpr int SUMS = S == 1 ? K : K / 2 + 1, ABOVE = S == 1 ? K / 2 : K / 4;  // rows of the output in work, and those above this one
  const int64_t width = layer.width, out_width = layer.out_width, positions = layer.out_height * out_width;
  const vec bias = plane.bias - vec{}, low = layer.low - vec{}, high = layer.high - vec{};
  const Row<S, LAST, NARROW> row(layer, plane.x);
  vec sum[SUMS];
#pragma GCC unroll 8
  for (int k = 0; k < SUMS; ++k) sum[k] = bias;
  for (int32_t i = 0; i < layer.out_height + ABOVE; ++i) {
#pragma GCC unroll 2
    for (int s = 0; s < S; ++s) {
      if (i * S + s >= layer.height) continue;
      const float *in;
      vec even, odd, values[K];
      row.read(plane.x, (i * S + s) * width + S * at, &in, &even, &odd);
      neighbours<K, S, FIRST, LAST>(in, even, odd, values);
#pragma GCC unroll 8
      for (int u = 0; u < K; ++u) {
        if ((s + K / 2 - u) % S) continue;
        vec part = plane.weights[u * K] * values[0];
#pragma GCC unroll 8
        for (int v = 1; v < K; ++v) part += plane.weights[u * K + v] * values[v];
        sum[(s + K / 2 - u) / S + ABOVE] += part;
      }
    }
    if (const int32_t done = i - ABOVE; done >= 0) {
      vec v = sum[0];
      v = v < low ? low : v;
      v = v > high ? high : v;
      float *out = plane.y + done * out_width + at;
      if (!NARROW || done * out_width + V <= positions)  // what lies beyond this row is written again
        store(out, v);
      else
        for (int j = 0; j < out_width; ++j) out[j] = v[j];
    }
#pragma GCC unroll 8
    for (int k = 1; k < SUMS; ++k) sum[k - 1] = sum[k];
    sum[SUMS - 1] = bias;
  }
}

// Any geometry, in plain loops.
void plain(const cb_depthwise &layer, const Plane &plane) {
  float *y = plane.y;
  for (int32_t i = 0; i < layer.out_height; ++i)
    for (int32_t j = 0; j < layer.out_width; ++j) {
      float sum = plane.bias;
      for (int32_t u = 0; u < layer.kernel; ++u)
        for (int32_t v = 0; v < layer.kernel; ++v) {
          const int32_t row = i * layer.stride + u - layer.padding, column = j * layer.stride + v - layer.padding;
          if (row >= 0 && row < layer.height && column >= 0 && column < layer.width)
            sum += plane.weights[u * layer.kernel + v] * plane.x[static_cast<int64_t>(row) * layer.width + column];
        }
      sum = sum < layer.low ? layer.low : sum;
      *y++ = sum > layer.high ? layer.high : sum;
    }
}

template <int K, int S>
void strips(const cb_depthwise &layer, const Plane &plane) {
  const int32_t width = layer.out_width, last = width - V;
  if (layer.padding != K / 2 || (last > 0 && last < K / 2)) return plain(layer, plane);  // a strip would meet both edges
  if (last < 0) return strip<K, S, true, true, true>(layer, plane, 0);
  if (last == 0) return strip<K, S, true, true, false>(layer, plane, 0);
  strip<K, S, true, false, false>(layer, plane, 0);
  for (int32_t at = V; at < last; at += V) strip<K, S, false, false, false>(layer, plane, at < last - K / 2 ? at : last - K / 2);
  strip<K, S, false, true, false>(layer, plane, last);
}

using Compute = void (*)(const cb_depthwise &, const Plane &);

Compute compute(const cb_depthwise &layer) {
  if (layer.kernel == 3) return layer.stride == 1 ? strips<3, 1> : strips<3, 2>;
  return layer.stride == 1 ? strips<5, 1> : strips<5, 2>;
}

// Planes [first, last) of x and y, of which plane p belongs to channel p % layer.channels.
void convolve(const cb_depthwise &layer, const float *x, float *y, int64_t first, int64_t last) {
  const int64_t pixels = static_cast<int64_t>(layer.height) * layer.width, positions = static_cast<int64_t>(layer.out_height) * layer.out_width;
  const Compute one = compute(layer);
  for (int64_t plane = first; plane < last; ++plane) {
    const int64_t c = plane % layer.channels;
    one(layer, {layer.weights + c * layer.kernel * layer.kernel, layer.bias[c], x + plane * pixels, y + plane * positions});
  }
}

}  // namespace

// y = clip(conv(x) + bias). x, y: [batch, channels, height, width].
KERNEL(void, depthwise)(const cb_step *step, int32_t threads) {
  const cb_depthwise &layer = *static_cast<const cb_depthwise *>(step->layer);
  const int64_t planes = static_cast<int64_t>(step->batch) * layer.channels;
#pragma omp parallel num_threads(threads) if (threads > 1)
  convolve(layer, static_cast<const float *>(step->x), static_cast<float *>(step->y), planes * thread() / threads_running(),
           planes * (thread() + 1) / threads_running());
}

// Channels [first, last) of one image, which x and y hold alone.
KERNEL(void, depthwise_part)(const cb_depthwise *layer, const float *x, float *y, int32_t first, int32_t last) {
  const int64_t pixels = static_cast<int64_t>(layer->height) * layer->width, positions = static_cast<int64_t>(layer->out_height) * layer->out_width;
  const Compute one = compute(*layer);
  for (int32_t c = first; c < last; ++c, x += pixels, y += positions)
    one(*layer, {layer->weights + static_cast<int64_t>(c) * layer->kernel * layer->kernel, layer->bias[c], x, y});
}
