// Rows of bytes.
#ifndef COMPRESSBENCH_BYTES_H
#define COMPRESSBENCH_BYTES_H

#include <stdint.h>

#ifdef __AVX2__
// GCC's own header: values that a full mask leaves undefined
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#endif

namespace {

// to[j] = from[stride j] for j < count.
inline void copy_every(int32_t stride, const uint8_t *from, uint8_t *to, int32_t count) {
  int32_t j = 0;
#ifdef __AVX512BW__
  if (stride == 2) {
    for (; j < count; j += 32) {
      const int32_t left = count - j < 32 ? count - j : 32;
      const __mmask64 inside = ~__mmask64{0} >> (65 - 2 * left);  // nothing is read beyond the last one
      const __m256i bytes = _mm512_cvtepi16_epi8(_mm512_maskz_loadu_epi8(inside, from + 2 * j));
      _mm256_mask_storeu_epi8(to + j, static_cast<__mmask32>(~uint32_t{0} >> (32 - left)), bytes);
    }
    return;
  }
#endif
  for (; j < count; ++j) to[j] = from[stride * j];
}

// Whole vectors of W bytes; the last one overlaps, so that short rows have no rest that is done byte by byte.
template <int W>
struct Bytes {
  typedef uint8_t type __attribute__((vector_size(W)));
  typedef uint8_t unaligned __attribute__((vector_size(W), aligned(1), may_alias));
  typedef float floats __attribute__((vector_size(4 * W)));
  typedef float unaligned_floats __attribute__((vector_size(4 * W), aligned(4), may_alias));
};

// to[j] = max(to[j], from[j]) for j < count.
template <int W>
inline void raise_by(const uint8_t *from, uint8_t *to, int32_t count) {
  for (int32_t j = 0; j < count; j += W) {
    const int32_t at = j + W < count ? j : count - W;
    const typename Bytes<W>::type a = *reinterpret_cast<const typename Bytes<W>::unaligned *>(from + at);
    const typename Bytes<W>::type b = *reinterpret_cast<const typename Bytes<W>::unaligned *>(to + at);
    *reinterpret_cast<typename Bytes<W>::unaligned *>(to + at) = a > b ? a : b;
  }
}

inline void raise(const uint8_t *from, uint8_t *to, int32_t count) {
  if (count >= VECTOR_BYTES) return raise_by<VECTOR_BYTES>(from, to, count);
  if (count >= 16) return raise_by<16>(from, to, count);
  for (int32_t j = 0; j < count; ++j) to[j] = from[j] > to[j] ? from[j] : to[j];
}

// to[j] = from[j] as fp32 for j < count.
template <int W>
inline void widen_by(const uint8_t *from, float *to, int32_t count) {
  for (int32_t j = 0; j < count; j += W) {
    const int32_t at = j + W < count ? j : count - W;
    const typename Bytes<W>::type codes = *reinterpret_cast<const typename Bytes<W>::unaligned *>(from + at);
    *reinterpret_cast<typename Bytes<W>::unaligned_floats *>(to + at) = __builtin_convertvector(codes, typename Bytes<W>::floats);
  }
}

inline void widen(const uint8_t *from, float *to, int32_t count) {
  if (count >= 16) return widen_by<16>(from, to, count);
  if (count >= 8) return widen_by<8>(from, to, count);
  if (count >= 4) return widen_by<4>(from, to, count);
  for (int32_t j = 0; j < count; ++j) to[j] = from[j];
}

}  // namespace

#endif
