// Convolution of one-bit weights with one-bit activations, 64 input channels in a word. NCHW. Compiled once per instruction set.
//
// The lanes of a vector are neighbouring positions of the output, each with a word of its own; a word of weights is broadcast. A
// register tile holds ROWS output channels x up to MOST vectors. Signs of the outputs are set bit by bit while the channels of a
// word go by: the next layer reads them.
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "isa.h"

// A convolution of one-bit weights with the signs of its input, planned for one input size.
//
// Signs are words [batch][word][pixel], bit c % 64 of word c / 64 set where channel c is positive, and 0 beyond the last channel.
//
// y = clip(f(scale * exact + bias + residual)). exact is base - 2 count, with the number of ones in XOR of signs and weights (bits
// mean -1 and +1), or base + 2 count, with that in AND (weights mean 0 and +1). `base` holds what makes that exact, also at the zero
// padding, whose bits are 0: it depends on the output channel and on which taps fall outside the image. f is PReLU where there is a
// slope.
//
// Like those of block_sparse.cpp, taps read copies in which all positions lie in a row: [word][column of the kernel][row phase]
// [row][out_width]; phase r of stride s has the padded rows r, r + s, ...
struct cb_binary {
  int32_t c_in, height, width;
  int32_t c_out, out_height, out_width;
  int32_t kernel, stride, padding;
  int32_t encoding;           // of weights, 0: signs, 1: ones
  int32_t centred;            // the input's signs are those of x minus the mean of its image,
  const float *norm;          // or of norm[0][c] x + norm[1][c], [2][c_in], or null
  const int32_t *offsets;     // [word][tap]: words from the first position of one to that of the other in the copies
  const uint64_t *weights;    // [group of packed_binary_rows][word][tap][channel of the group]
  const int32_t *base;        // [c_out][class_pitch], by the class of the position
  const int32_t *classes;     // [out_height * out_width, and as many as a vector of floats has]
  int32_t class_pitch;        // 16 or more
  const float *scale, *bias;  // [c_out]
  const float *slope;         // [c_out] or null
  float low, high;
  uint64_t *input;            // signs, and a vector that may be read beyond them
  uint64_t *copies;           // and a vector; null where the input is read directly
  uint64_t *signs;            // of the outputs, or null
  const int32_t *limits;      // [c_out] or null: an output is positive where exact > limit; where the bit of the channel is set in
  const uint64_t *flips;      // [words of c_out], where it is not
};

namespace {

constexpr int LANES = VECTOR_BYTES / 8;  // words
constexpr int PAIR = 2 * LANES;          // floats
constexpr int ROWS = 4;
constexpr int64_t WORTH_SHARING = 1 << 18;  // words that are counted: below it, threads take longer to meet than to compute
constexpr int MOST = VECTOR_BYTES == 64 ? 6 : 2;

typedef uint64_t words __attribute__((vector_size(VECTOR_BYTES)));
typedef uint64_t unaligned_words __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
typedef int32_t integers __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t unaligned_integers __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef float floats __attribute__((vector_size(VECTOR_BYTES)));
typedef float unaligned_floats __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

#if defined(__AVX512F__)
constexpr __mmask16 ALL = 0xffff;  // without a mask, the headers of GCC 12 warn of values that are not set
#endif

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

// The lower halves of all words of two vectors.
inline integers joined(words first, words second) {
  integers lower;
  for (int i = 0; i < PAIR; ++i) lower[i] = 2 * i;
  return __builtin_shuffle((integers)first, (integers)second, lower);
}

// Sets `bit` of those words of two vectors whose lane is set.
inline void add_bit(words *signs, integers set, uint64_t bit) {
#if defined(__AVX512F__)
  const __mmask16 mask = _mm512_test_epi32_mask((__m512i)set, (__m512i)set);
  const __m512i bits = _mm512_set1_epi64(static_cast<int64_t>(bit));
  signs[0] = (words)_mm512_mask_or_epi64((__m512i)signs[0], static_cast<__mmask8>(mask), (__m512i)signs[0], bits);
  signs[1] = (words)_mm512_mask_or_epi64((__m512i)signs[1], static_cast<__mmask8>(mask >> 8), (__m512i)signs[1], bits);
#else
  integers lower, upper;
  for (int i = 0; i < PAIR; ++i) lower[i] = i / 2, upper[i] = LANES + i / 2;
  signs[0] |= (words)__builtin_shuffle(set, lower) & bit;
  signs[1] |= (words)__builtin_shuffle(set, upper) & bit;
#endif
}

inline floats clip(floats v, float low, float high) {
#if defined(__AVX512F__)
  const __m512 above = _mm512_maskz_max_ps(ALL, _mm512_set1_ps(low), (__m512)v);
  return (floats)_mm512_maskz_min_ps(ALL, _mm512_set1_ps(high), above);
#elif defined(__AVX2__)
  return (floats)_mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), (__m256)v));
#else
  v = v < low ? low - floats{} : v;
  return v > high ? high - floats{} : v;
#endif
}

inline floats read(const float *from, int32_t count) {
  if (count >= PAIR) return *reinterpret_cast<const unaligned_floats *>(from);
#if defined(__AVX512F__)
  return (floats)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1 << count) - 1), from);
#else
  floats values{};
  for (int32_t i = 0; i < count; ++i) values[i] = from[i];
  return values;
#endif
}

inline void write(float *to, floats values, int32_t count) {
  if (count >= PAIR) {
    *reinterpret_cast<unaligned_floats *>(to) = values;
    return;
  }
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1 << count) - 1), (__m512)values);
#else
  for (int32_t i = 0; i < count; ++i) to[i] = values[i];
#endif
}

inline void write(uint64_t *to, words values, int32_t count) {
  if (count >= LANES)
    *reinterpret_cast<unaligned_words *>(to) = values;
  else
    for (int32_t i = 0; i < count; ++i) to[i] = values[i];
}

inline int32_t words_of(int32_t channels) { return (channels + 63) / 64; }

// The signs of the pairs of vectors [first, last) of one image, counted through all words: bit 1 where x > mean, or its norm > 0.
void pack(const cb_binary &layer, const float *image, float mean, uint64_t *out, int32_t first, int32_t last) {
  const int32_t pixels = layer.height * layer.width, pairs = (pixels + PAIR - 1) / PAIR;
  for (int32_t number = first; number < last; ++number) {
    const int32_t word = number / pairs, pixel = number % pairs * PAIR, count = pixels - pixel;
    const int32_t channels = layer.c_in - 64 * word < 64 ? layer.c_in - 64 * word : 64;
    const float *in = image + static_cast<int64_t>(64 * word) * pixels + pixel;
    words signs[2]{};
    const float *scale = layer.norm ? layer.norm + 64 * word : nullptr;
    for (int32_t c = 0; c < channels; ++c, in += pixels) {
      const floats v = read(in, count);
      add_bit(signs, (scale ? scale[c] * v + scale[layer.c_in + c] : v) > mean, 1ull << c);
    }
    uint64_t *to = out + static_cast<int64_t>(word) * pixels + pixel;
    write(to, signs[0], count);
    if (count > LANES) write(to + LANES, signs[1], count - LANES);
  }
}

// The sums of channels [first, last) of one image.
void sum_channels(const cb_binary &layer, const float *image, float *sums, int32_t first, int32_t last) {
  const int64_t pixels = static_cast<int64_t>(layer.height) * layer.width;
  for (int32_t c = first; c < last; ++c) {
    const float *in = image + c * pixels;
    floats some[4]{};
    int64_t p = 0;
    for (; p + 4 * PAIR <= pixels; p += 4 * PAIR)
      for (int i = 0; i < 4; ++i) some[i] += *reinterpret_cast<const unaligned_floats *>(in + p + i * PAIR);
    const floats lanes = (some[0] + some[1]) + (some[2] + some[3]);
    double sum = 0;
    for (int i = 0; i < PAIR; ++i) sum += lanes[i];
    for (; p < pixels; ++p) sum += in[p];
    sums[c] = static_cast<float>(sum);
  }
}

float mean_of(const cb_binary &layer, const float *sums) {
  double sum = 0;
  for (int32_t c = 0; c < layer.c_in; ++c) sum += sums[c];
  return static_cast<float>(sum / (static_cast<double>(layer.c_in) * layer.height * layer.width));
}

// Rows of one word and column in the copies.
inline int32_t rows_copied(const cb_binary &layer) {
  const int32_t phases = layer.stride < layer.kernel ? layer.stride : layer.kernel;
  int32_t rows = 0;
  for (int32_t phase = 0; phase < phases; ++phase) rows += layer.out_height + (layer.kernel - 1 - phase) / layer.stride;
  return rows;
}

// Planes [first, last) of the copies, one for each word and column of the kernel.
void lay_out(const cb_binary &layer, const uint64_t *signs, int32_t first, int32_t last) {
  const int32_t phases = layer.stride < layer.kernel ? layer.stride : layer.kernel;
  const int64_t plane = static_cast<int64_t>(rows_copied(layer)) * layer.out_width;
  for (int32_t number = first; number < last; ++number) {
    const uint64_t *in = signs + static_cast<int64_t>(number / layer.kernel) * layer.height * layer.width;
    uint64_t *out = layer.copies + number * plane;
    const int32_t shift = number % layer.kernel - layer.padding;
    // output columns whose input column stride * j + shift lies inside the image
    const int32_t from = shift < 0 ? (-shift + layer.stride - 1) / layer.stride : 0;
    const int32_t inside = layer.width > shift ? (layer.width - shift + layer.stride - 1) / layer.stride : 0;
    const int32_t begin = from < layer.out_width ? from : layer.out_width;
    const int32_t end = inside < begin ? begin : inside < layer.out_width ? inside : layer.out_width;
    for (int32_t phase = 0; phase < phases; ++phase) {
      const int32_t rows = layer.out_height + (layer.kernel - 1 - phase) / layer.stride;
      for (int32_t row = 0; row < rows; ++row, out += layer.out_width) {
        const int32_t y = layer.stride * row + phase - layer.padding;
        if (y < 0 || y >= layer.height) {
          for (int32_t j = 0; j < layer.out_width; ++j) out[j] = 0;
          continue;
        }
        const int64_t source = static_cast<int64_t>(y) * layer.width + shift;
        for (int32_t j = 0; j < begin; ++j) out[j] = 0;
        if (layer.stride == 1)
          for (int32_t j = begin; j < end; ++j) out[j] = in[source + j];
        else
          for (int32_t j = begin; j < end; ++j) out[j] = in[source + layer.stride * j];
        for (int32_t j = end; j < layer.out_width; ++j) out[j] = 0;
      }
    }
  }
}

// What a tile reads and writes: `count` positions from `first` on, of one image.
struct Tile {
  const uint64_t *in;
  const float *residual;  // or null
  float *y;               // or null
  int32_t word, first, count;
};

inline integers look_up(const cb_binary &layer, int32_t channel, integers classes) {
  const int32_t *table = layer.base + static_cast<int64_t>(channel) * layer.class_pitch;
#if defined(__AVX512F__)
  if (layer.class_pitch == 16) return (integers)_mm512_maskz_permutexvar_epi32(ALL, (__m512i)classes, _mm512_loadu_si512(table));
#endif
  integers found;
  for (int lane = 0; lane < PAIR; ++lane) found[lane] = table[classes[lane]];
  return found;
}

// The number of ones of (activation AND weight), or of their XOR, for ROWS output channels and T vectors.
template <bool AND, int T>
inline void count(const cb_binary &layer, const uint64_t *weight, const uint64_t *in, integers (*counts)[(T + 1) / 2]) {
  words sum[ROWS][T + T % 2]{};
  const int32_t taps = layer.kernel * layer.kernel * words_of(layer.c_in);
  for (int32_t tap = 0; tap < taps; ++tap, weight += ROWS) {
    words a[T];
    for (int t = 0; t < T; ++t) a[t] = *reinterpret_cast<const unaligned_words *>(in + layer.offsets[tap] + t * LANES);
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
      const words w = weight[r] - words{};
#pragma GCC unroll 6
      for (int t = 0; t < T; ++t) sum[r][t] += popcount(AND ? a[t] & w : a[t] ^ w);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < ROWS; ++r)
    for (int t = 0; t < T; t += 2) counts[r][t / 2] = joined(sum[r][t], sum[r][t + 1]);
}

// A pair of vectors of one output channel, from position `at` on, of which `count` exist: writes it where wanted, and returns it.
inline floats finish(const cb_binary &layer, const Tile &tile, int32_t channel, integers exact, int32_t at, int32_t count) {
  const int64_t place = static_cast<int64_t>(channel) * layer.out_height * layer.out_width + at;
  floats v = layer.scale[channel] * __builtin_convertvector(exact, floats) + layer.bias[channel];
  if (tile.residual) v += read(tile.residual + place, count);
  if (layer.slope) v = v > 0 ? v : v * layer.slope[channel];
  v = clip(v, layer.low, layer.high);
  if (tile.y) write(tile.y + place, v, count);
  return v;
}

// All output channels of one word; signs: the plane of the word.
template <bool AND, int T>
void outputs(const cb_binary &layer, const Tile &tile, uint64_t *signs) {
  constexpr int PAIRS = (T + 1) / 2;
  words set[2 * PAIRS]{};
  integers classes[PAIRS];
  for (int p = 0; p < PAIRS; ++p)
    classes[p] = *reinterpret_cast<const unaligned_integers *>(layer.classes + tile.first + p * PAIR);
  const int64_t taps = static_cast<int64_t>(layer.kernel) * layer.kernel * words_of(layer.c_in);
  const int32_t last = layer.c_out < 64 * (tile.word + 1) ? layer.c_out : 64 * (tile.word + 1);
  for (int32_t first = 64 * tile.word; first < last; first += ROWS) {
    integers counts[ROWS][PAIRS];
    count<AND, T>(layer, layer.weights + first * taps, tile.in, counts);
    for (int32_t channel = first; channel < first + ROWS && channel < last; ++channel) {
      const uint64_t bit = 1ull << (channel % 64);
#pragma GCC unroll 3
      for (int p = 0; p < PAIRS; ++p) {
        const integers half = counts[channel - first][p], base = look_up(layer, channel, classes[p]);
        const integers exact = AND ? base + (half + half) : base - (half + half);
        if (layer.limits)
          add_bit(set + 2 * p, exact > layer.limits[channel], bit);
        else
          add_bit(set + 2 * p, finish(layer, tile, channel, exact, tile.first + p * PAIR, tile.count - p * PAIR) > 0, bit);
      }
    }
  }
  if (!signs) return;
  for (int t = 0; t < T; ++t)
    write(signs + tile.first + t * LANES, layer.limits ? set[t] ^ (layer.flips[tile.word] - words{}) : set[t], tile.count - t * LANES);
}

using Outputs = void (*)(const cb_binary &, const Tile &, uint64_t *);

template <bool AND, int T>
constexpr void fill(Outputs *table) {
  if constexpr (T > 0) {
    table[T] = outputs<AND, T>;
    fill<AND, T - 1>(table);
  }
}

struct Table {
  Outputs by_vectors[2][MOST + 1] = {};
  constexpr Table() {
    fill<false, MOST>(by_vectors[0]);
    fill<true, MOST>(by_vectors[1]);
  }
};
constexpr Table TABLE;

// Vectors [first, last) of one image, counted through the words of output channels. tile: the image.
void run(const cb_binary &layer, Tile tile, const uint64_t *in, uint64_t *signs, int32_t first, int32_t last) {
  const int32_t positions = layer.out_height * layer.out_width, vectors = (positions + LANES - 1) / LANES;
  for (int32_t end; first < last; first = end) {
    tile.word = first / vectors;
    end = last < (tile.word + 1) * vectors ? last : (tile.word + 1) * vectors;
    const int32_t begin = first - tile.word * vectors, count = end - first, tiles = (count + MOST - 1) / MOST;
    for (int32_t number = 0; number < tiles; ++number) {
      const int32_t from = begin + count * number / tiles, to = begin + count * (number + 1) / tiles;
      tile.first = from * LANES;
      tile.count = (to * LANES < positions ? to * LANES : positions) - tile.first;
      tile.in = in + tile.first;
      TABLE.by_vectors[layer.encoding][to - from](layer, tile, signs ? signs + static_cast<int64_t>(tile.word) * positions : nullptr);
    }
  }
}

void convolve(const cb_binary &layer, const float *x, float *sums, const float *residual, float *y, int32_t batch, int32_t threads) {
  const int32_t pixels = layer.height * layer.width, positions = layer.out_height * layer.out_width;
  const int32_t packed = words_of(layer.c_in) * ((pixels + PAIR - 1) / PAIR), planes = words_of(layer.c_in) * layer.kernel;
  const int32_t computed = words_of(layer.c_out) * ((positions + LANES - 1) / LANES);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const int32_t part = thread(), parts = threads_running();
    for (int32_t image = 0; image < batch; ++image) {
      const uint64_t *in = layer.input + static_cast<int64_t>(image) * words_of(layer.c_in) * pixels;
      if (x) {
        const float *source = x + static_cast<int64_t>(image) * layer.c_in * pixels;
        if (layer.centred) {
          sum_channels(layer, source, sums, layer.c_in * part / parts, layer.c_in * (part + 1) / parts);
#pragma omp barrier
        }
        pack(layer, source, layer.centred ? mean_of(layer, sums) : 0, const_cast<uint64_t *>(in), packed * part / parts,
             packed * (part + 1) / parts);
#pragma omp barrier
      }
      if (layer.copies) {
        lay_out(layer, in, planes * part / parts, planes * (part + 1) / parts);
        in = layer.copies;
#pragma omp barrier
      }
      const int64_t out = static_cast<int64_t>(image) * layer.c_out * positions;
      const Tile tile{nullptr, residual ? residual + out : nullptr, y ? y + out : nullptr, 0, 0, 0};
      uint64_t *signs = layer.signs ? layer.signs + static_cast<int64_t>(image) * words_of(layer.c_out) * positions : nullptr;
      run(layer, tile, in, signs, computed * part / parts, computed * (part + 1) / parts);
      if (layer.copies && image + 1 < batch) {  // the next one overwrites the copies
#pragma omp barrier
      }
    }
  }
}

}  // namespace

// x: float [batch, c_in, height, width], or null where layer->input holds its signs; workspace: c_in floats where the mean is
// subtracted; residual, or null, and y, or null where nobody wants the values: float [batch, c_out, out_height, out_width].
KERNEL(void, packed_binary)(const cb_step *step, int32_t threads) {
  const cb_binary &layer = *static_cast<const cb_binary *>(step->layer);
  const int64_t taps = static_cast<int64_t>(layer.kernel) * layer.kernel * words_of(layer.c_in);
  const int64_t counted = taps * layer.c_out * layer.out_height * layer.out_width * step->batch;
  convolve(layer, static_cast<const float *>(step->x), static_cast<float *>(step->workspace), static_cast<const float *>(step->residual),
           static_cast<float *>(step->y), step->batch, counted < WORTH_SHARING ? 1 : threads);
}

// Output channels that are computed together.
KERNEL(int, packed_binary_rows)() { return ROWS; }

// The AVX-512 build counts bits with VPOPCNTDQ, which not every such processor has.
KERNEL(int, packed_binary_runs)() {
#ifdef __AVX512VPOPCNTDQ__
  return __builtin_cpu_supports("avx512vpopcntdq");
#else
  return 1;
#endif
}
