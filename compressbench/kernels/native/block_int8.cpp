// 1xN block-sparse convolution in int8: uint8 activations, int8 weights, int32 sums. Every build gives the same integers.
//
// As in block_sparse.cpp, the lanes of a vector are consecutive positions. The kept columns of a block row are taken in fours,
// because AVX-512 VNNI adds the products of four bytes to a 32-bit lane: the bytes of four columns are interleaved, position by
// position. Unpacking 64 positions of four columns yields four vectors whose positions are permuted within 128-bit lanes; the packs
// that narrow the sums to bytes undo exactly that. The first R output channels of a block interleave, the others read what these kept
// in the first-level cache.
#include "bytes.h"
#include "scratch.h"

#include "blocks.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define FOURS 1
#else
#define FOURS 0
#endif

// A convolution with weights in 1xN blocks, planned for one input size; NCHW. Where its input is not read directly, the columns of
// the im2col matrix lie in copies as in block_sparse.cpp, with the code of zero in the padding. With sum = start + the products:
//   value = fma(sum, scale, bias), and with a residual (uint8 or fp32) fma(residual, residual_scale, value), each rounded once;
//   y = value rounded half to even, then clipped to [low, high], as uint8; or value, clipped, as fp32.
struct cb_block_int8 {
  int32_t c_in, height, width;           // input image
  int32_t c_out, out_height, out_width;  // output image
  int32_t kernel, stride, padding;
  int32_t n;                  // output channels of a block: 1, 2, 4, 8, 16, 32
  const int32_t *indptr;      // [c_out / n + 1] first four of every block row
  const int32_t *offsets;     // [fours][4] where output position 0 finds its value
  const void *weights;        // [fours][n][4] `weight`; zeros fill up the last four of a row
  const int32_t *start;       // [c_out] what the zero point of the input adds to the sums
  const float *scale, *bias;  // [c_out]
  float residual_scale, low, high;
  int32_t zero;    // the code of zero in the input
  int32_t floats, residual_floats;  // 1: the output, or the residual, is fp32; 0: uint8
  int32_t group;   // tiles per group: block rows run outside, the tiles of a group inside
};

namespace {

constexpr int LANES = 16, TILE = 4 * LANES, LEFTOVER = 4;
template <bool>
struct Weight {
  using type = int8_t;
};
template <>
struct Weight<false> {
  using type = int16_t;
};
using weight = Weight<FOURS>::type;

// One block row.
struct Row {
  const weight *weights;   // [fours][n][4]
  const int32_t *offsets;  // [fours][4]
  int32_t fours, n;
  const int32_t *start;  // [n]
  const float *scale, *bias;
  float residual_scale, low, high;
  bool floats, residual_floats;
  int64_t pitch;         // from one output channel to the next
  const void *residual;  // of the first channel, or null
  void *y;
};

#if FOURS

// GCC copies registers around the builtin where sums have another type than its own.
using sums = int32_t __attribute__((vector_size(64)));
inline sums add_products(sums to, __m512i codes, __m512i weights) {
  return reinterpret_cast<sums>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(to), codes, weights));
}

// The bytes of four columns, interleaved: T vectors of 16 positions x 4 columns. Four vectors hold permuted positions, fewer hold
// them in order; of these, `inside` has the positions to be read.
template <int T>
inline void interleave(const uint8_t *x, const int32_t *offsets, __mmask64 inside, __m512i (&to)[T]) {
  __m512i in[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    if (T == 4) {
      in[i] = _mm512_loadu_si512(x + offsets[i]);
    } else {
      const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
      in[i] = _mm512_permutexvar_epi32(order, _mm512_maskz_loadu_epi8(inside, x + offsets[i]));
    }
  }
  const __m512i ab = _mm512_unpacklo_epi8(in[0], in[1]), cd = _mm512_unpacklo_epi8(in[2], in[3]);
  to[0] = _mm512_unpacklo_epi16(ab, cd);
  if constexpr (T > 1) to[1] = _mm512_unpackhi_epi16(ab, cd);
  if constexpr (T > 2) {
    const __m512i second_ab = _mm512_unpackhi_epi8(in[0], in[1]), second_cd = _mm512_unpackhi_epi8(in[2], in[3]);
    to[2] = _mm512_unpacklo_epi16(second_ab, second_cd);
    if constexpr (T > 3) to[3] = _mm512_unpackhi_epi16(second_ab, second_cd);
  }
}

inline void store_floats(const Row &row, float *y, __mmask16 inside, __m512 value) {
  const __m512 low = _mm512_set1_ps(row.low), high = _mm512_set1_ps(row.high);
  _mm512_mask_storeu_ps(y, inside, _mm512_min_ps(high, _mm512_max_ps(low, value)));
}

// Between 64 positions in order and in the order of `interleave`: the 128-bit lanes of four vectors as a matrix, transposed.
inline void transpose(__m512 (&v)[4]) {
  const __m512 a = _mm512_shuffle_f32x4(v[0], v[1], 0x44), b = _mm512_shuffle_f32x4(v[2], v[3], 0x44);
  const __m512 c = _mm512_shuffle_f32x4(v[0], v[1], 0xee), d = _mm512_shuffle_f32x4(v[2], v[3], 0xee);
  v[0] = _mm512_shuffle_f32x4(a, b, 0x88), v[1] = _mm512_shuffle_f32x4(a, b, 0xdd);
  v[2] = _mm512_shuffle_f32x4(c, d, 0x88), v[3] = _mm512_shuffle_f32x4(c, d, 0xdd);
}

// The residual at T vectors of positions, in the order of the sums.
template <int T>
__attribute__((always_inline)) inline void residual_at(const Row &row, int64_t at, __mmask64 inside, __m512 (&to)[T]) {
  const float *floats = static_cast<const float *>(row.residual) + at;
  const uint8_t *bytes = static_cast<const uint8_t *>(row.residual) + at;
  if (!row.residual_floats && T == 4) {
    const __m512i all = _mm512_loadu_si512(bytes), none = _mm512_setzero_si512();
    const __m512i first = _mm512_unpacklo_epi8(all, none), second = _mm512_unpackhi_epi8(all, none);
    to[0] = _mm512_cvtepi32_ps(_mm512_unpacklo_epi16(first, none));
    to[T > 1 ? 1 : 0] = _mm512_cvtepi32_ps(_mm512_unpackhi_epi16(first, none));
    to[T > 2 ? 2 : 0] = _mm512_cvtepi32_ps(_mm512_unpacklo_epi16(second, none));
    to[T > 3 ? 3 : 0] = _mm512_cvtepi32_ps(_mm512_unpackhi_epi16(second, none));
    return;
  }
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
    const __mmask16 here = static_cast<__mmask16>(inside >> (LANES * t));
    to[t] = row.residual_floats ? _mm512_maskz_loadu_ps(here, floats + LANES * t)
                                : _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(here, bytes + LANES * t)));
  }
  if constexpr (T == 4) transpose(to);
}

// Sums of one output channel at T vectors of positions, to the output. A call would move the sums from registers to memory.
template <int T>
__attribute__((always_inline)) inline void finish(const Row &row, int r, int64_t p, __mmask64 inside, const sums (&sum)[T]) {
  const int64_t at = r * row.pitch + p;
  const __m512 scale = _mm512_set1_ps(row.scale[r]), bias = _mm512_set1_ps(row.bias[r]);
  __m512 value[T];
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) value[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(sum[t])), scale, bias);
  if (row.residual) {
    const __m512 factor = _mm512_set1_ps(row.residual_scale);
    __m512 added[T];
    residual_at<T>(row, at, inside, added);
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) value[t] = _mm512_fmadd_ps(added[t], factor, value[t]);
  }
  if (row.floats) {
    float *y = static_cast<float *>(row.y) + at;
    if constexpr (T == 4) transpose(value);
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) store_floats(row, y + LANES * t, static_cast<__mmask16>(inside >> (LANES * t)), value[t]);
    return;
  }
  uint8_t *y = static_cast<uint8_t *>(row.y) + at;
  __m512i code[T];
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) code[t] = _mm512_cvtps_epi32(value[t]);
  if constexpr (T == 4) {
    const __m512i first = _mm512_packs_epi32(code[0], code[1]), second = _mm512_packs_epi32(code[2], code[3]);
    const __m512i low = _mm512_set1_epi8(static_cast<char>(row.low)), high = _mm512_set1_epi8(static_cast<char>(static_cast<int>(row.high)));
    _mm512_storeu_si512(y, _mm512_min_epu8(high, _mm512_max_epu8(low, _mm512_packus_epi16(first, second))));
  } else {
    const __m512i low = _mm512_set1_epi32(static_cast<int>(row.low)), high = _mm512_set1_epi32(static_cast<int>(row.high));
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      const __m512i clip = _mm512_min_epi32(high, _mm512_max_epi32(low, code[t]));
      _mm_mask_storeu_epi8(y + LANES * t, static_cast<__mmask16>(inside >> (LANES * t)), _mm512_cvtepi32_epi8(clip));
    }
  }
}

enum Source { INTERLEAVE, INTERLEAVE_AND_KEEP, KEPT };

// R output channels, from r, of a block row at T vectors of positions from p.
template <int R, int T, Source SOURCE>
void tile(const Row &row, int r, const uint8_t *x, int64_t p, __mmask64 inside, __m512i *kept) {
  sums sum[R][T];
#pragma GCC unroll 6
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) sum[i][t] = row.start[r + i] - sums{};
  const weight *w = row.weights + 4 * r;
  const int32_t *offsets = row.offsets;
  for (int32_t four = 0; four < row.fours; ++four, w += 4 * row.n, offsets += 4, kept += T) {
    __m512i value[T];
    if constexpr (SOURCE == KEPT) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) value[t] = _mm512_load_si512(kept + t);
    } else {
      interleave<T>(x + p, offsets, inside, value);
    }
    if constexpr (SOURCE == INTERLEAVE_AND_KEEP) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) _mm512_store_si512(kept + t, value[t]);
    }
#pragma GCC unroll 6
    for (int i = 0; i < R; ++i) {
      int32_t four_weights;
      __builtin_memcpy(&four_weights, w + 4 * i, 4);
      const __m512i factor = _mm512_set1_epi32(four_weights);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) sum[i][t] = add_products(sum[i][t], value[t], factor);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < R; ++i) finish<T>(row, r + i, p, inside, sum[i]);
}

template <int T>
void tiles(const Row &row, const uint8_t *x, int64_t p, int count) {
  const __mmask64 inside = ~__mmask64{0} >> (TILE - count);
  if (row.n == 1) return tile<1, T, INTERLEAVE>(row, 0, x, p, inside, nullptr);
  if (row.n == 2) return tile<2, T, INTERLEAVE>(row, 0, x, p, inside, nullptr);
  if (row.n == 4) return tile<4, T, INTERLEAVE>(row, 0, x, p, inside, nullptr);
  __m512i *kept = static_cast<__m512i *>(scratch.at_least(sizeof(__m512i) * T * static_cast<size_t>(row.fours)));
  tile<4, T, INTERLEAVE_AND_KEEP>(row, 0, x, p, inside, kept);
  int r = 4;
  for (; r + 6 <= row.n; r += 6) tile<6, T, KEPT>(row, r, x, p, inside, kept);
  if (r < row.n) tile<4, T, KEPT>(row, r, x, p, inside, kept);
}

// Up to 64 positions from p.
void positions(const Row &row, const uint8_t *x, int64_t p, int count) {
  if (count == TILE) return tiles<4>(row, x, p, count);
  if (count > 3 * LANES) {  // four vectors are read and written whole
    tiles<3>(row, x, p, 3 * LANES);
    return positions(row, x, p + 3 * LANES, count - 3 * LANES);
  }
  if (count > 2 * LANES) return tiles<3>(row, x, p, count);
  if (count > LANES) return tiles<2>(row, x, p, count);
  tiles<1>(row, x, p, count);
}

// Sums of the `lanes` output channels from r, which are the lanes, at the L last positions.
template <int L>
inline void finish(const Row &row, int r, int lanes, const __m512i (&sum)[L]) {
  const __mmask16 inside = static_cast<__mmask16>((1u << lanes) - 1);
  const __m512 scale = _mm512_maskz_loadu_ps(inside, row.scale + r), bias = _mm512_maskz_loadu_ps(inside, row.bias + r);
  const __m512 factor = _mm512_set1_ps(row.residual_scale);
  const __m512i low = _mm512_set1_epi32(static_cast<int>(row.low)), high = _mm512_set1_epi32(static_cast<int>(row.high));
  const int64_t last = r * row.pitch + row.pitch - L;
  int32_t bytes[LANES]{};  // of every channel, L bytes
  __m512i codes = _mm512_setzero_si512();
  for (int l = 0; l < L; ++l) {
    __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[l]), scale, bias);
    if (row.residual) {
      float added[LANES]{};
      for (int i = 0; i < lanes; ++i) {
        const int64_t at = last + i * row.pitch + l;
        added[i] = row.residual_floats ? static_cast<const float *>(row.residual)[at] : static_cast<const uint8_t *>(row.residual)[at];
      }
      value = _mm512_fmadd_ps(_mm512_loadu_ps(added), factor, value);
    }
    if (row.floats) {
      float values[LANES];
      store_floats(row, values, ~__mmask16{0}, value);
      for (int i = 0; i < lanes; ++i) static_cast<float *>(row.y)[last + i * row.pitch + l] = values[i];
    } else {
      const __m512i code = _mm512_min_epi32(high, _mm512_max_epi32(low, _mm512_cvtps_epi32(value)));
      codes = _mm512_or_si512(codes, _mm512_slli_epi32(code, static_cast<unsigned>(8 * l)));
    }
  }
  if (row.floats) return;
  _mm512_storeu_si512(bytes, codes);
  for (int i = 0; i < lanes; ++i) __builtin_memcpy(static_cast<uint8_t *>(row.y) + last + i * row.pitch, bytes + i, L);
}

// The L last positions (49 = 3 x 16 + 1): here output channels are the lanes. The image has at least 4 positions.
template <int L>
void leftover(const Row &row, const uint8_t *x) {
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (int r = 0; r < row.n; r += LANES) {
    const int lanes = row.n < LANES ? row.n : LANES;
    const __mmask16 inside = static_cast<__mmask16>((1u << lanes) - 1);
    constexpr int CHAINS = L == 1 ? 4 : 2;
    __m512i sum[CHAINS][L];
    for (int l = 0; l < L; ++l) {
      sum[0][l] = _mm512_maskz_loadu_epi32(inside, row.start + r);
      for (int chain = 1; chain < CHAINS; ++chain) sum[chain][l] = _mm512_setzero_si512();
    }
    const auto add = [&](int32_t four, __m512i(&to)[L]) {
      const int32_t *offsets = row.offsets + 4 * four;
      int32_t in[4];  // the last four positions of every column
      for (int i = 0; i < 4; ++i) __builtin_memcpy(in + i, x + offsets[i] + row.pitch - 4, 4);
      const __m512i values = _mm512_castsi128_si512(_mm_shuffle_epi8(_mm_setr_epi32(in[0], in[1], in[2], in[3]), order));
      const __m512i w = _mm512_maskz_loadu_epi32(inside, row.weights + 4 * (static_cast<int64_t>(four) * row.n + r));
#pragma GCC unroll 4
      for (int l = 0; l < L; ++l)
        to[l] = _mm512_dpbusd_epi32(to[l], _mm512_permutexvar_epi32(_mm512_set1_epi32(4 - L + l), values), w);
    };
    int32_t four = 0;
    for (; four + CHAINS <= row.fours; four += CHAINS)
#pragma GCC unroll 4
      for (int chain = 0; chain < CHAINS; ++chain) add(four + chain, sum[chain]);
    for (; four < row.fours; ++four) add(four, sum[0]);
    for (int l = 0; l < L; ++l)
      for (int chain = 1; chain < CHAINS; ++chain) sum[0][l] = _mm512_add_epi32(sum[0][l], sum[chain][l]);
    finish<L>(row, r, lanes, sum[0]);
  }
}

void leftover(const Row &row, const uint8_t *x, int left) {
  if (left == 1) return leftover<1>(row, x);
  if (left == 2) return leftover<2>(row, x);
  if (left == 3) return leftover<3>(row, x);
  leftover<4>(row, x);
}

#else

// Rounded half to even; within the bounds of uint8, the sum with 1.5 * 2^23 has no fraction.
uint8_t clipped(float value, const Row &row) {
  constexpr float ROUND = 12582912;
  const float inside = value < row.low ? row.low : value > row.high ? row.high : value;
  return static_cast<uint8_t>(static_cast<int32_t>((inside + ROUND) - ROUND));
}

float residual_at(const Row &row, int64_t at) {
  return row.residual_floats ? static_cast<const float *>(row.residual)[at] : static_cast<const uint8_t *>(row.residual)[at];
}

// One value of output channel r at position p.
void finish(const Row &row, int r, int64_t p, int32_t sum) {
  const int64_t at = r * row.pitch + p;
  float value = __builtin_fmaf(static_cast<float>(sum), row.scale[r], row.bias[r]);
  if (row.residual) value = __builtin_fmaf(residual_at(row, at), row.residual_scale, value);
  if (row.floats)
    static_cast<float *>(row.y)[at] = value < row.low ? row.low : value > row.high ? row.high : value;
  else
    static_cast<uint8_t *>(row.y)[at] = clipped(value, row);
}

// R output channels, from r, at 16 positions from p.
template <int R>
void tile(const Row &row, int r, const uint8_t *x, int64_t p) {
  alignas(64) int32_t sum[R][LANES];
#ifdef __AVX2__
  __m256i sums[R][2];
  for (int i = 0; i < R; ++i) sums[i][0] = sums[i][1] = _mm256_set1_epi32(row.start[r + i]);
#else
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < LANES; ++j) sum[i][j] = row.start[r + i];
#endif
  const weight *w = row.weights + 4 * r;
  for (int32_t four = 0; four < row.fours; ++four, w += 4 * row.n) {
    const int32_t *offsets = row.offsets + 4 * four;
    for (int pair = 0; pair < 4; pair += 2) {
      const uint8_t *a = x + offsets[pair] + p, *b = x + offsets[pair + 1] + p;
#ifdef __AVX2__
      // pairs of 16 bits: the sums of two products of bytes would saturate
      const __m128i left = _mm_loadu_si128(reinterpret_cast<const __m128i *>(a)), right = _mm_loadu_si128(reinterpret_cast<const __m128i *>(b));
      const __m256i values[2] = {_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(left, right)), _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(left, right))};
      for (int i = 0; i < R; ++i) {
        int32_t two_weights;
        __builtin_memcpy(&two_weights, w + 4 * i + pair, 4);
        for (int half = 0; half < 2; ++half)
          sums[i][half] = _mm256_add_epi32(sums[i][half], _mm256_madd_epi16(values[half], _mm256_set1_epi32(two_weights)));
      }
#else
      for (int i = 0; i < R; ++i) {
        const int16_t first = w[4 * i + pair], second = w[4 * i + pair + 1];
        for (int j = 0; j < LANES; ++j) sum[i][j] += static_cast<int16_t>(a[j]) * first + static_cast<int16_t>(b[j]) * second;
      }
#endif
    }
  }
#ifdef __AVX2__
  for (int i = 0; i < R; ++i)
    for (int half = 0; half < 2; ++half) _mm256_store_si256(reinterpret_cast<__m256i *>(sum[i] + 8 * half), sums[i][half]);
#endif
  for (int i = 0; i < R; ++i) {
    alignas(64) float value[LANES];
    const int64_t at = (r + i) * row.pitch + p;
    for (int j = 0; j < LANES; ++j) value[j] = __builtin_fmaf(static_cast<float>(sum[i][j]), row.scale[r + i], row.bias[r + i]);
    if (row.residual)
      for (int j = 0; j < LANES; ++j) value[j] = __builtin_fmaf(residual_at(row, at + j), row.residual_scale, value[j]);
    if (row.floats) {
      float *y = static_cast<float *>(row.y) + at;
      for (int j = 0; j < LANES; ++j) y[j] = value[j] < row.low ? row.low : value[j] > row.high ? row.high : value[j];
    } else {
      uint8_t *y = static_cast<uint8_t *>(row.y) + at;
      for (int j = 0; j < LANES; ++j) y[j] = clipped(value[j], row);
    }
  }
}

// The last positions, fewer than 16.
void leftover(const Row &row, const uint8_t *x, int left) {
  for (int64_t p = row.pitch - left; p < row.pitch; ++p)
    for (int r = 0; r < row.n; ++r) {
      int32_t sum = row.start[r];
      for (int32_t four = 0; four < row.fours; ++four)
        for (int i = 0; i < 4; ++i) sum += x[row.offsets[4 * four + i] + p] * row.weights[4 * (static_cast<int64_t>(four) * row.n + r) + i];
      finish(row, r, p, sum);
    }
}

// Up to 64 positions from p, a multiple of 16.
void positions(const Row &row, const uint8_t *x, int64_t p, int count) {
  for (const int64_t end = p + count; p < end; p += LANES) {
    if (row.n == 1) tile<1>(row, 0, x, p);
    if (row.n == 2) tile<2>(row, 0, x, p);
    for (int r = 0; r + 4 <= row.n; r += 4) tile<4>(row, r, x, p);
  }
}

#endif

// How the positions of an image are cut: tiles of 64, vectors that are left, and positions left by these.
struct Cut {
  int32_t tiles, rest, left;

  explicit Cut(int64_t positions) {
    tiles = static_cast<int32_t>(positions / TILE);
    rest = static_cast<int32_t>(positions % TILE);
    left = rest % LANES;
    if (FOURS && (left > LEFTOVER || positions < LEFTOVER)) left = 0;  // the last vector is not full
    rest -= left;
  }
  // Units of work, in this order.
  int32_t units() const { return tiles + (rest > 0) + (left > 0); }
};

// Of a value.
int64_t bytes(int32_t floats) { return floats ? 4 : 1; }

// Block rows [row0, row1) at units [unit0, unit1) of one image.
void run(const cb_block_int8 &layer, const Cut &cut, const uint8_t *x, const void *residual, void *y, int32_t row0, int32_t row1,
         int32_t unit0, int32_t unit1) {
  const int64_t pitch = static_cast<int64_t>(layer.out_height) * layer.out_width;
  for (int32_t group = unit0; group < unit1; group += layer.group) {
    const int32_t end = group + layer.group < unit1 ? group + layer.group : unit1;
    for (int32_t block = row0; block < row1; ++block) {
      const int64_t first = layer.indptr[block], channel = static_cast<int64_t>(block) * layer.n;
      const Row row{static_cast<const weight *>(layer.weights) + 4 * first * layer.n,
                    layer.offsets + 4 * first,
                    layer.indptr[block + 1] - layer.indptr[block],
                    layer.n,
                    layer.start + channel,
                    layer.scale + channel,
                    layer.bias + channel,
                    layer.residual_scale,
                    layer.low,
                    layer.high,
                    layer.floats != 0,
                    layer.residual_floats != 0,
                    pitch,
                    residual ? static_cast<const char *>(residual) + channel * pitch * bytes(layer.residual_floats) : nullptr,
                    static_cast<char *>(y) + channel * pitch * bytes(layer.floats)};
      for (int32_t unit = group; unit < end; ++unit) {
        if (unit < cut.tiles)
          positions(row, x, static_cast<int64_t>(unit) * TILE, TILE);
        else if (unit == cut.tiles && cut.rest)
          positions(row, x, static_cast<int64_t>(unit) * TILE, cut.rest);
        else
          leftover(row, x, cut.left);
      }
    }
  }
}

void convolve(const cb_block_int8 &layer, const uint8_t *x, uint8_t *workspace, const void *residual, void *y, int32_t batch,
              int32_t threads) {
  const Cut cut(static_cast<int64_t>(layer.out_height) * layer.out_width);
  const char *added = static_cast<const char *>(residual);
  char *written = static_cast<char *>(y);
  for_each_part(layer, x, workspace, static_cast<uint8_t>(layer.zero), cut.units(), false, batch, threads,
                [&](const uint8_t *source, int64_t out, int32_t row0, int32_t row1, int32_t unit0, int32_t unit1) {
                  run(layer, cut, source, added ? added + out * bytes(layer.residual_floats) : nullptr, written + out * bytes(layer.floats),
                      row0, row1, unit0, unit1);
                });
}

}  // namespace

// x: uint8 [batch, c_in, height, width]; residual: as y, uint8 or fp32, or null; y: uint8 or fp32 [batch, c_out, out_height, out_width].
KERNEL(void, block_int8)(const cb_step *step, int32_t threads) {
  convolve(*static_cast<const cb_block_int8 *>(step->layer), static_cast<const uint8_t *>(step->x), static_cast<uint8_t *>(step->workspace),
           step->residual, step->y, step->batch, threads);
}

// Bytes of workspace that one image needs; 0 where the input is read directly.
KERNEL(int64_t, block_int8_workspace)(const cb_block_int8 *layer) { return workspace_of(*layer); }

// Bytes of a weight.
KERNEL(int, block_int8_weight_bytes)() { return sizeof(weight); }

// The AVX-512 build works on bytes and multiplies with VNNI, which not every such processor does.
KERNEL(int, block_int8_runs)() {
#if FOURS
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni");
#else
  return 1;
#endif
}
