// Convolution of one-bit weights with one-bit activations, 64 input channels in a word. NHWC. Compiled once per instruction set.
//
// The lanes of a vector are output channels, each with one word of weights; an activation word is broadcast. A register
// tile holds GROUP vectors of channels x P positions of one output row.
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "isa.h"

// A convolution of one-bit weights with the signs of its input (bit 1: positive), planned for one input size. NHWC.
//
// y = scale * (base + factor * count) + bias, where count is the number of ones in XOR (factor -2: bits mean -1 and +1) or in
// AND (factor 2: weights mean 0 and +1) of the padded bit image with the weights. `base` holds what makes that exact, also at
// the zero padding, whose bits are 0: it depends on the output channel and on which taps fall outside the image.
struct cb_binary {
  int32_t c_in, height, width;
  int32_t c_out, out_height, out_width;
  int32_t kernel, stride, padding;
  const uint64_t *weights;  // [group of packed_binary_channels][tap][word of 64 c_in][channel of the group]
  const int32_t *base;      // [row class][column class][c_out, up to a whole group]
  const int32_t *row_class, *column_class;  // [out_height], [out_width]
  int32_t column_classes;
  int32_t factor;            // -2 or 2
  const float *scale, *bias; // [c_out, up to a whole group]
};

namespace {

constexpr int LANES = VECTOR_BYTES / 8;
constexpr int GROUP = 2;
constexpr int CHANNELS = GROUP * LANES;
constexpr int MOST = VECTOR_BYTES == 64 ? 8 : 4;

typedef uint64_t words __attribute__((vector_size(VECTOR_BYTES)));
typedef uint64_t unaligned_words __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
typedef int32_t integers __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef int32_t unaligned_integers __attribute__((vector_size(VECTOR_BYTES / 2), aligned(4), may_alias));
typedef float floats __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef float unaligned_floats __attribute__((vector_size(VECTOR_BYTES / 2), aligned(4), may_alias));

inline words popcount(words v) {
#if defined(__AVX512VPOPCNTDQ__)
  return (words)_mm512_popcnt_epi64((__m512i)v);
#elif defined(__AVX2__)
  // the counts of all 16 nibbles are looked up in a shuffle; `sad` adds the bytes of each word
  const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15), low = _mm256_and_si256((__m256i)v, nibble);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16((__m256i)v, 4), nibble);
  const __m256i bytes = _mm256_add_epi8(_mm256_shuffle_epi8(counts, low), _mm256_shuffle_epi8(counts, high));
  return (words)_mm256_sad_epu8(bytes, _mm256_setzero_si256());
#else
  words counts;
  for (int lane = 0; lane < LANES; ++lane) counts[lane] = static_cast<uint64_t>(__builtin_popcountll(v[lane]));
  return counts;
#endif
}

// Bit c of the word is set where x[c] > 0, for `count` channels up to 64.
inline uint64_t signs(const float *x, int count) {
  uint64_t word = 0;
  int c = 0;
#if defined(__AVX512F__)
  for (; c + 16 <= count; c += 16)
    word |= static_cast<uint64_t>(_mm512_cmp_ps_mask(_mm512_loadu_ps(x + c), _mm512_setzero_ps(), _CMP_GT_OQ)) << c;
#elif defined(__AVX2__)
  for (; c + 8 <= count; c += 8) {
    const __m256 positive = _mm256_cmp_ps(_mm256_loadu_ps(x + c), _mm256_setzero_ps(), _CMP_GT_OQ);
    word |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(positive))) << c;
  }
#endif
  for (; c < count; ++c) word |= static_cast<uint64_t>(x[c] > 0) << c;
  return word;
}

// Rows [first, last) of the padded bit image [height + 2 padding][width + 2 padding][words]; the border is bit 0.
void pack(const cb_binary &layer, const float *image, uint64_t *bits, int32_t first, int32_t last) {
  const int32_t count = (layer.c_in + 63) / 64, width = layer.width + 2 * layer.padding;
  for (int32_t row = first; row < last; ++row) {
    uint64_t *out = bits + static_cast<int64_t>(row) * width * count;
    const int32_t y = row - layer.padding;
    for (int32_t column = 0; column < width; ++column) {
      const int32_t x = column - layer.padding;
      const bool inside = y >= 0 && y < layer.height && x >= 0 && x < layer.width;
      const float *in = image + (static_cast<int64_t>(y) * layer.width + x) * layer.c_in;
      for (int32_t w = 0; w < count; ++w) {
        const int32_t channels = layer.c_in - 64 * w < 64 ? layer.c_in - 64 * w : 64;
        *out++ = inside ? signs(in + 64 * w, channels) : 0;
      }
    }
  }
}

// A group of channels: what they multiply with, and what makes outputs of their counts.
struct Group {
  const uint64_t *weights;  // [tap][word][CHANNELS]
  const float *scale, *bias;
  int32_t channels;  // that exist: the last group may be padded
};

// P neighbouring positions of one group: ones of (activation AND weight), or of their XOR, turned into outputs.
// base[p]: what makes the counts of position p exact.
template <bool AND, int P>
void outputs(const cb_binary &layer, const Group &group, const uint64_t *bits, const int32_t *const *base, float *y) {
  words sum[GROUP][P] = {};
  const int32_t words_in = (layer.c_in + 63) / 64;
  const int64_t row = static_cast<int64_t>(layer.width + 2 * layer.padding) * words_in, step = static_cast<int64_t>(layer.stride) * words_in;
  const uint64_t *weight = group.weights;
  for (int32_t u = 0; u < layer.kernel; ++u) {
    const uint64_t *in = bits + u * row;
    for (int32_t i = 0; i < layer.kernel * words_in; ++i, weight += CHANNELS) {
      words w[GROUP];
      for (int g = 0; g < GROUP; ++g) w[g] = *reinterpret_cast<const unaligned_words *>(weight + g * LANES);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const words a = in[i + p * step] - words{};
        for (int g = 0; g < GROUP; ++g) sum[g][p] += popcount(AND ? a & w[g] : a ^ w[g]);
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    float padded[CHANNELS];
    float *out = group.channels == CHANNELS ? y + static_cast<int64_t>(p) * layer.c_out : padded;
    for (int g = 0; g < GROUP; ++g) {
      const integers count = __builtin_convertvector(sum[g][p], integers);
      const integers exact = *reinterpret_cast<const unaligned_integers *>(base[p] + g * LANES) + layer.factor * count;
      const floats scale = *reinterpret_cast<const unaligned_floats *>(group.scale + g * LANES);
      const floats bias = *reinterpret_cast<const unaligned_floats *>(group.bias + g * LANES);
      *reinterpret_cast<unaligned_floats *>(out + g * LANES) = scale * __builtin_convertvector(exact, floats) + bias;
    }
    if (out == padded)
      for (int32_t c = 0; c < group.channels; ++c) y[static_cast<int64_t>(p) * layer.c_out + c] = padded[c];
  }
}

using Outputs = void (*)(const cb_binary &, const Group &, const uint64_t *, const int32_t *const *, float *);

template <bool AND, int P>
constexpr void fill(Outputs *table) {
  if constexpr (P > 0) {
    table[P] = outputs<AND, P>;
    fill<AND, P - 1>(table);
  }
}

struct Table {
  Outputs by_positions[2][MOST + 1] = {};
  constexpr Table() {
    fill<false, MOST>(by_positions[0]);
    fill<true, MOST>(by_positions[1]);
  }
};
constexpr Table TABLE;

// One output row of one group of channels.
void output_row(const cb_binary &layer, const uint64_t *bits, float *y, int32_t number, int32_t row) {
  const int32_t words_in = (layer.c_in + 63) / 64, first = number * CHANNELS;
  const int64_t padded = static_cast<int64_t>((layer.c_out + CHANNELS - 1) / CHANNELS) * CHANNELS;
  const Group group{layer.weights + static_cast<int64_t>(first) * layer.kernel * layer.kernel * words_in, layer.scale + first,
                    layer.bias + first, layer.c_out - first < CHANNELS ? layer.c_out - first : CHANNELS};
  const uint64_t *in = bits + row * layer.stride * static_cast<int64_t>(layer.width + 2 * layer.padding) * words_in;
  const int32_t *bases = layer.base + layer.row_class[row] * layer.column_classes * padded + first;
  float *out = y + static_cast<int64_t>(row) * layer.out_width * layer.c_out + first;
  const int32_t tiles = (layer.out_width + MOST - 1) / MOST;
  for (int32_t tile = 0; tile < tiles; ++tile) {
    const int32_t x = layer.out_width * tile / tiles, positions = layer.out_width * (tile + 1) / tiles - x;
    const int32_t *base[MOST];
    for (int32_t p = 0; p < positions; ++p) base[p] = bases + layer.column_class[x + p] * padded;
    TABLE.by_positions[layer.factor > 0][positions](layer, group, in + static_cast<int64_t>(x) * layer.stride * words_in, base,
                                                    out + static_cast<int64_t>(x) * layer.c_out);
  }
}

void convolve(const cb_binary &layer, const float *x, uint64_t *workspace, float *y, int32_t batch, int32_t threads) {
  const int32_t rows = layer.height + 2 * layer.padding, groups = (layer.c_out + CHANNELS - 1) / CHANNELS;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const int32_t part = thread(), parts = threads_running();
    for (int32_t image = 0; image < batch; ++image) {
      pack(layer, x + image * static_cast<int64_t>(layer.height) * layer.width * layer.c_in, workspace, rows * part / parts,
           rows * (part + 1) / parts);
#pragma omp barrier
      float *out = y + image * static_cast<int64_t>(layer.out_height) * layer.out_width * layer.c_out;
      const int64_t tasks = static_cast<int64_t>(groups) * layer.out_height;
      for (int64_t task = tasks * part / parts; task < tasks * (part + 1) / parts; ++task)
        output_row(layer, workspace, out, static_cast<int32_t>(task / layer.out_height), static_cast<int32_t>(task % layer.out_height));
#pragma omp barrier
    }
  }
}

}  // namespace

// x: float [batch, height, width, c_in]; y: float [batch, out_height, out_width, c_out]; workspace: the packed image,
// (height + 2 padding) * (width + 2 padding) * ceil(c_in / 64) words.
KERNEL(void, packed_binary)(const cb_binary *layer, const float *x, uint64_t *workspace, float *y, int32_t batch, int32_t threads) {
  convolve(*layer, x, workspace, y, batch, threads);
}

// Output channels that are computed together.
KERNEL(int, packed_binary_channels)() { return CHANNELS; }

// The AVX-512 build counts bits with VPOPCNTDQ, which not every such processor has.
KERNEL(int, packed_binary_runs)() {
#ifdef __AVX512VPOPCNTDQ__
  return __builtin_cpu_supports("avx512vpopcntdq");
#else
  return 1;
#endif
}
