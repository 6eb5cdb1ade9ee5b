// Depthwise convolution, 3x3 and 5x5, stride 1 and 2. Compiled once per instruction set.
//
// The lanes of a vector are consecutive positions of the output, across the ends of its rows. Where the padding keeps the size, an
// output row is as long as a row of the input, or as one of every second column, so that one tap of all positions lies at one offset.
// What it finds beyond the ends of a row is cleared afterwards, for all taps of a kernel column at once; above and below the image
// lie zeros, in a copy of its edges, or of all of it.
#include "isa.h"
#include "vectors.h"

// A convolution in which every channel has a 3x3 or 5x5 kernel of its own, with stride 1 or 2. NCHW, fp32.
struct cb_depthwise {
  int32_t channels, height, width;
  int32_t out_height, out_width;
  int32_t kernel, stride, padding;
  const float *weights;   // [channels][kernel][kernel]
  const float *bias;      // [channels]
  float low, high;        // the output is clipped to this range
  const int32_t *inside;  // [kernel][out_width + 16]: -1 where the kernel's column meets the image at output column c % out_width, else 0
};

namespace {

typedef int32_t integers __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t unaligned_integers __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

constexpr int INSIDE = 16;  // columns of `inside` beyond the output's

bool keeps_size(const cb_depthwise &layer) { return layer.padding == layer.kernel / 2; }

// Floats before and after an image that its taps can reach.
int64_t margin(const cb_depthwise &layer) {
  return static_cast<int64_t>((layer.padding + layer.stride - 1) / layer.stride) * (layer.out_width + 1);
}

// One copy with its margins; a last vector may reach beyond. With stride 2, there are four: by parity of the row and of the column.
int64_t copy_size(const cb_depthwise &layer) {
  return static_cast<int64_t>(layer.out_height) * layer.out_width + 2 * margin(layer) + V;
}

int64_t workspace_of(const cb_depthwise &layer) {
  return keeps_size(layer) ? copy_size(layer) * layer.stride * layer.stride : 0;
}

// What all positions of a channel share.
template <int K>
struct Channel {
  const float *weights;
  float bias, low, high;
  const float *rows[K];  // where output position 0 finds the kernel's rows
  int64_t odd;           // from an even column to the odd one after it, with stride 2
  const int32_t *inside;
  int64_t inside_pitch;
};

template <int K, int S, int T>
inline void tile(const Channel<K> &channel, int64_t at, const int32_t (&columns)[T], float *y) {
  vec sum[T];
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) sum[t] = channel.bias - vec{};
#pragma GCC unroll 8
  for (int v = 0; v < K; ++v) {
    const int remainder = (v + K / 2 * (S - 1)) % S;  // the same as v - K / 2 modulo S
    const int64_t place = at + remainder * channel.odd + (v - K / 2 - remainder) / S;
    vec part[T]{};
#pragma GCC unroll 8
    for (int u = 0; u < K; ++u)
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) part[t] += channel.weights[u * K + v] * load(channel.rows[u] + place + t * V);
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      const int32_t *inside = channel.inside + v * channel.inside_pitch + columns[t];
      sum[t] += v == K / 2 ? part[t] : (vec)((integers)part[t] & *reinterpret_cast<const unaligned_integers *>(inside));
    }
  }
  const vec low = channel.low - vec{}, high = channel.high - vec{};
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
    vec v = sum[t];
    v = v < low ? low : v;
    store(y + t * V, v > high ? high : v);
  }
}

// Output positions [first, first + count). in: where the first of them finds the kernel's middle, with stride 2 in the copies.
template <int K, int S>
void positions(const cb_depthwise &layer, int32_t c, const float *in, int64_t first, int64_t count, float *y) {
  constexpr int T = 4;
  const int32_t width = layer.out_width, step = V % width;
  const int64_t size = S == 1 ? 0 : copy_size(layer);
  Channel<K> channel{layer.weights + static_cast<int64_t>(c) * K * K, layer.bias[c], layer.low, layer.high, {}, size, layer.inside, width + INSIDE};
  for (int u = 0; u < K; ++u) {
    const int remainder = (u + K / 2 * (S - 1)) % S;
    channel.rows[u] = in + remainder * 2 * size + static_cast<int64_t>((u - K / 2 - remainder) / S) * width;
  }
  int32_t column = static_cast<int32_t>(first % width);
  const auto next = [&] {
    const int32_t now = column;
    column = now + step < width ? now + step : now + step - width;
    return now;
  };
  int64_t at = 0;
  for (; at + T * V <= count; at += T * V) {
    int32_t columns[T];
    for (int32_t &now : columns) now = next();
    tile<K, S, T>(channel, at, columns, y + at);
  }
  for (; at + V <= count; at += V) tile<K, S, 1>(channel, at, {next()}, y + at);
  if (at < count) {
    float last[V];
    tile<K, S, 1>(channel, at, {column}, last);
    for (int64_t p = at; p < count; ++p) y[p] = last[p - at];
  }
}

// Lanes FROM to FROM + V - 1 of two vectors.
template <int FROM>
inline vec shifted(vec first, vec second) {
  integers pick;
  for (int i = 0; i < V; ++i) pick[i] = FROM + i;
  return __builtin_shuffle(first, second, pick);
}

// Of V columns and one row of the input, what every kernel column meets. FIRST, LAST: beside them lies the edge of the image.
template <int K, bool FIRST, bool LAST, int V_ = 0>
inline void neighbours(const float *row, vec middle, vec (&values)[K]) {
  if constexpr (V_ < K) {
    constexpr int away = V_ - K / 2;
    if constexpr (away < 0)
      values[V_] = FIRST ? shifted<V + away>(vec{}, middle) : load(row + away);
    else if constexpr (away > 0)
      values[V_] = LAST ? shifted<away>(middle, vec{}) : load(row + away);
    else
      values[V_] = middle;
    neighbours<K, FIRST, LAST, V_ + 1>(row, middle, values);
  }
}

// Stride 1: V columns of all output rows. Every input row is read once and added to the K output rows that it is part of.
// NARROW: a row is shorter than V, and `end` is where the last V values of the image are, and V more.
template <int K, bool FIRST, bool LAST, bool NARROW>
void strip(const cb_depthwise &layer, const float *weights, float bias, const float *x, const float *end, float *y) {
  const int64_t width = layer.width, count = layer.height * width;
  const vec low = layer.low - vec{}, high = layer.high - vec{};
  integers in_row;
  for (int i = 0; i < V; ++i) in_row[i] = i < width ? -1 : 0;
  vec sum[K];
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) sum[k] = bias - vec{};
  for (int32_t row = 0; row < layer.height + K / 2; ++row) {
    if (row < layer.height) {
      const float *in = x + row * width;
      if (NARROW && row * width + V > count) in = end + (row * width + V - count);
      vec middle = load(in), values[K];
      if (NARROW) middle = (vec)((integers)middle & in_row);
      neighbours<K, FIRST, LAST>(in, middle, values);
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) {
        vec part = weights[(K - 1 - k) * K] * values[0];
#pragma GCC unroll 8
        for (int v = 1; v < K; ++v) part += weights[(K - 1 - k) * K + v] * values[v];
        sum[k] += part;
      }
    }
    if (const int32_t done = row - K / 2; done >= 0) {
      vec v = sum[0];
      v = v < low ? low : v;
      v = v > high ? high : v;
      float *out = y + done * width;
      if (!NARROW || done * width + V <= count)
        store(out, v);
      else
        for (int i = 0; i < width; ++i) out[i] = v[i];
    }
#pragma GCC unroll 8
    for (int k = 1; k < K; ++k) sum[k - 1] = sum[k];
    sum[K - 1] = bias - vec{};
  }
}

void channel_of_any(const cb_depthwise &layer, int32_t c, const float *x, float *, float *y);

template <int K>
void channel_of_all(const cb_depthwise &layer, int32_t c, const float *x, float *workspace, float *y) {
  const float *weights = layer.weights + static_cast<int64_t>(c) * K * K;
  const int32_t width = layer.width;
  if (width > V && width < V + K / 2) return channel_of_any(layer, c, x, workspace, y);  // a vector that meets both edges
  if (width <= V) {
    const int64_t count = static_cast<int64_t>(layer.height) * width, from = count > V ? count - V : 0;
    float end[2 * V] = {};
    for (int64_t i = from; i < count; ++i) end[i - from + (count > V ? 0 : V - count)] = x[i];
    if (width < V) return strip<K, true, true, true>(layer, weights, layer.bias[c], x, end, y);
    return strip<K, true, true, false>(layer, weights, layer.bias[c], x, nullptr, y);
  }
  strip<K, true, false, false>(layer, weights, layer.bias[c], x, nullptr, y);
  for (int32_t at = V; at < width - V; at += V) {
    const int32_t inner = at < width - V - K / 2 ? at : width - V - K / 2;
    strip<K, false, false, false>(layer, weights, layer.bias[c], x + inner, nullptr, y + inner);
  }
  strip<K, false, true, false>(layer, weights, layer.bias[c], x + width - V, nullptr, y + width - V);
}

// A row of the input by parity of its columns, in vectors of W, up to W - 1 of each parity beyond `count`.
template <int W>
inline void split_by(const float *in, float *even, float *odd, int32_t count) {
  using values = typename Lanes<W>::type;
  using unaligned = typename Lanes<W>::unaligned;
  typename Lanes<W>::indices evens, odds;
  for (int i = 0; i < W; ++i) evens[i] = 2 * i, odds[i] = 2 * i + 1;
  for (int32_t j = 0; j < count; j += W) {
    const values first = *reinterpret_cast<const unaligned *>(in + 2 * j), second = *reinterpret_cast<const unaligned *>(in + 2 * j + W);
    *reinterpret_cast<unaligned *>(even + j) = __builtin_shuffle(first, second, evens);
    *reinterpret_cast<unaligned *>(odd + j) = __builtin_shuffle(first, second, odds);
  }
}

void split_row(const float *in, float *even, float *odd, int32_t count) {
  if (V == 16 && count > 8)
    split_by<V>(in, even, odd, count);
  else if (V >= 8 && count > 4)
    split_by<8>(in, even, odd, count);
  else
    split_by<4>(in, even, odd, count);
}

// Stride 2.
template <int K>
void channel_of_half(const cb_depthwise &layer, int32_t c, const float *x, float *workspace, float *y) {
  const int64_t size = copy_size(layer);
  float *copies = workspace + margin(layer);
  for (int32_t row = 0; row < layer.height; ++row) {
    const float *in = x + static_cast<int64_t>(row) * layer.width;
    float *even = copies + row % 2 * 2 * size + static_cast<int64_t>(row / 2) * layer.out_width, *odd = even + size;
    if (row + 2 < layer.height && layer.out_width > 1) {  // what lies beyond this row's end is read, and written again
      split_row(in, even, odd, layer.out_width);
      continue;
    }
    for (int32_t j = 0; 2 * j < layer.width; ++j) even[j] = in[2 * j];
    for (int32_t j = 0; 2 * j + 1 < layer.width; ++j) odd[j] = in[2 * j + 1];
  }
  positions<K, 2>(layer, c, copies, 0, static_cast<int64_t>(layer.out_height) * layer.out_width, y);
}

// Any other padding, in plain loops.
void channel_of_any(const cb_depthwise &layer, int32_t c, const float *x, float *, float *y) {
  const float *weights = layer.weights + static_cast<int64_t>(c) * layer.kernel * layer.kernel;
  for (int32_t i = 0; i < layer.out_height; ++i)
    for (int32_t j = 0; j < layer.out_width; ++j) {
      float sum = layer.bias[c];
      for (int32_t u = 0; u < layer.kernel; ++u)
        for (int32_t v = 0; v < layer.kernel; ++v) {
          const int32_t row = i * layer.stride + u - layer.padding, column = j * layer.stride + v - layer.padding;
          if (row >= 0 && row < layer.height && column >= 0 && column < layer.width)
            sum += weights[u * layer.kernel + v] * x[static_cast<int64_t>(row) * layer.width + column];
        }
      sum = sum < layer.low ? layer.low : sum;
      *y++ = sum > layer.high ? layer.high : sum;
    }
}

using Compute = void (*)(const cb_depthwise &, int32_t, const float *, float *, float *);

Compute compute(const cb_depthwise &layer) {
  if (!keeps_size(layer)) return channel_of_any;
  if (layer.kernel == 3) return layer.stride == 1 ? channel_of_all<3> : channel_of_half<3>;
  return layer.stride == 1 ? channel_of_all<5> : channel_of_half<5>;
}

void convolve(const cb_depthwise &layer, const float *x, float *workspace, float *y, int32_t batch, int32_t threads) {
  const int64_t pixels = static_cast<int64_t>(layer.height) * layer.width, size = workspace_of(layer);
  const int64_t out_pixels = static_cast<int64_t>(layer.out_height) * layer.out_width;
  const int64_t planes = static_cast<int64_t>(batch) * layer.channels;
  const Compute channel = compute(layer);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const int32_t part = thread(), parts = threads_running();
    float *own = workspace + part * size;
    for (int64_t i = 0; i < size; ++i) own[i] = 0;
    for (int64_t plane = planes * part / parts; plane < planes * (part + 1) / parts; ++plane)
      channel(layer, static_cast<int32_t>(plane % layer.channels), x + plane * pixels, own, y + plane * out_pixels);
  }
}

}  // namespace

// y = clip(conv(x) + bias). x, y: [batch, channels, height, width].
KERNEL(void, depthwise)(const cb_step *step, int32_t threads) {
  convolve(*static_cast<const cb_depthwise *>(step->layer), static_cast<const float *>(step->x), static_cast<float *>(step->workspace),
           static_cast<float *>(step->y), step->batch, threads);
}

// Floats of workspace.
KERNEL(int64_t, depthwise_workspace)(const cb_depthwise *layer, int32_t threads) { return workspace_of(*layer) * threads; }
