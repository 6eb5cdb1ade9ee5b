// Depthwise convolution, 3x3 and 5x5, stride 1 and 2. Compiled once per instruction set.
//
// A channel is copied into a padded image in the cache; then the lanes of a vector are neighbouring columns, and a few rows are
// computed together, which share what they load.
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

// The padded image of one channel; its columns are sorted by their remainder modulo the stride: [row][remainder][pitch].
int64_t padded_pitch(const cb_depthwise &layer) { return (layer.width + 2 * layer.padding + layer.stride - 1) / layer.stride; }
int64_t padded_size(const cb_depthwise &layer) { return (layer.height + 2 * layer.padding) * layer.stride * padded_pitch(layer); }

// R output rows: K x K taps, stride S, by vectors of W columns, of which the last overlaps.
template <int K, int S, int W, int R>
void rows_by(const cb_depthwise &layer, const float *weights, float bias, const float *in, int64_t pitch, float *y) {
  using values = typename Lanes<W>::type;
  using unaligned = typename Lanes<W>::unaligned;
  const values low = layer.low - values{}, high = layer.high - values{};
  for (int32_t x = 0; x < layer.out_width; x += W) {
    const int32_t at = x + W < layer.out_width ? x : layer.out_width - W;
    values sum[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) sum[r] = bias - values{};
#pragma GCC unroll 16
    for (int row = 0; row < S * (R - 1) + K; ++row)
#pragma GCC unroll 8
      for (int v = 0; v < K; ++v) {
        const values value = *reinterpret_cast<const unaligned *>(in + (row * S + v % S) * pitch + v / S + at);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
          if (const int u = row - S * r; u >= 0 && u < K) sum[r] += weights[u * K + v] * value;
      }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      values v = sum[r];
      v = v < low ? low : v;
      v = v > high ? high : v;
      *reinterpret_cast<unaligned *>(y + r * layer.out_width + at) = v;
    }
  }
}

template <int K, int S, int W>
void channel_by(const cb_depthwise &layer, const float *weights, float bias, const float *in, float *y) {
  const int64_t pitch = padded_pitch(layer), step = S * S * pitch;
  int32_t row = 0;
  for (; row + 4 <= layer.out_height; row += 4) rows_by<K, S, W, 4>(layer, weights, bias, in + row * step, pitch, y + row * layer.out_width);
  for (; row + 2 <= layer.out_height; row += 2) rows_by<K, S, W, 2>(layer, weights, bias, in + row * step, pitch, y + row * layer.out_width);
  if (row < layer.out_height) rows_by<K, S, W, 1>(layer, weights, bias, in + row * step, pitch, y + row * layer.out_width);
}

// All but the padding, which stays zero. Every row has at least W columns of every remainder.
template <int S, int W>
void pad_by(const cb_depthwise &layer, const float *in, float *padded) {
  const int64_t pitch = padded_pitch(layer);
  padded += layer.padding * S * pitch;
  for (int32_t y = 0; y < layer.height; ++y, in += layer.width, padded += S * pitch)
#pragma GCC unroll 2
    for (int32_t remainder = 0; remainder < S; ++remainder) {
      const int32_t first = (remainder + layer.padding) % S;  // the same as minus the padding, as S is 1 or 2
      copy_by<S, W>(in + first, padded + remainder * pitch + (first + layer.padding) / S, (layer.width - first + S - 1) / S);
    }
}

struct Steps {
  void (*pad)(const cb_depthwise &, const float *, float *);
  void (*compute)(const cb_depthwise &, const float *, float, const float *, float *);
};

// The widest vectors that a row of `padded` values, and one of the output, have room for.
template <int K, int S>
Steps steps_by(int32_t padded, int32_t width) {
  return {padded >= V            ? pad_by<S, V>
          : V > 8 && padded >= 8 ? pad_by<S, 8>
          : padded >= 4          ? pad_by<S, 4>
                                 : pad_by<S, 1>,
          width >= V            ? channel_by<K, S, V>
          : V > 8 && width >= 8 ? channel_by<K, S, 8>
          : width >= 4          ? channel_by<K, S, 4>
                                : channel_by<K, S, 1>};
}

Steps steps(const cb_depthwise &layer) {
  const int32_t padded = layer.width / layer.stride, width = layer.out_width;
  if (layer.kernel == 3) return layer.stride == 1 ? steps_by<3, 1>(padded, width) : steps_by<3, 2>(padded, width);
  return layer.stride == 1 ? steps_by<5, 1>(padded, width) : steps_by<5, 2>(padded, width);
}

void convolve(const cb_depthwise &layer, const float *x, float *workspace, float *y, int32_t batch, int32_t threads) {
  const int64_t pixels = static_cast<int64_t>(layer.height) * layer.width, size = padded_size(layer);
  const int64_t positions = static_cast<int64_t>(layer.out_height) * layer.out_width;
  const int64_t planes = static_cast<int64_t>(batch) * layer.channels;
  const Steps step = steps(layer);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const int32_t part = thread(), parts = threads_running();
    float *padded = workspace + part * size;
    for (int64_t i = 0; i < size; ++i) padded[i] = 0;
    for (int64_t plane = planes * part / parts; plane < planes * (part + 1) / parts; ++plane) {
      const int64_t c = plane % layer.channels;
      step.pad(layer, x + plane * pixels, padded);
      step.compute(layer, layer.weights + c * layer.kernel * layer.kernel, layer.bias[c], padded, y + plane * positions);
    }
  }
}

}  // namespace

// y = clip(conv(x) + bias). x, y: [batch, channels, height, width].
KERNEL(void, depthwise)(const cb_step *step, int32_t threads) {
  convolve(*static_cast<const cb_depthwise *>(step->layer), static_cast<const float *>(step->x), static_cast<float *>(step->workspace),
           static_cast<float *>(step->y), step->batch, threads);
}

// Floats of workspace.
KERNEL(int64_t, depthwise_workspace)(const cb_depthwise *layer, int32_t threads) { return padded_size(*layer) * threads; }
