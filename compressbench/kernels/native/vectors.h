// Vectors of floats, and copies of short rows. VECTOR_BYTES is the width of a register.
#ifndef COMPRESSBENCH_VECTORS_H
#define COMPRESSBENCH_VECTORS_H

#include <stdint.h>

namespace {

constexpr int V = VECTOR_BYTES / 4;

using vec = float __attribute__((vector_size(VECTOR_BYTES)));
using unaligned_vec = float __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

inline vec load(const float *p) { return *reinterpret_cast<const unaligned_vec *>(p); }
inline void store(float *p, vec v) { *reinterpret_cast<unaligned_vec *>(p) = v; }

// A vector of W floats, whatever the width of the registers.
template <int W>
struct Lanes {
  typedef float type __attribute__((vector_size(4 * W)));
  typedef float unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));
  typedef int32_t indices __attribute__((vector_size(4 * W)));
};

// out[j] = in[STRIDE j] for j < count, STRIDE 1 or 2, count >= W, by vectors of W; the last one overlaps, and nothing is read
// beyond the last value. Rows are short: calls of memcpy would take longer than what they copy.
template <int STRIDE, int W>
inline void copy_by(const float *in, float *out, int32_t count) {
  using values = typename Lanes<W>::type;
  using unaligned = typename Lanes<W>::unaligned;
  typename Lanes<W>::indices pick;
  for (int i = 0; i < W; ++i) pick[i] = i < (W + 1) / 2 ? 2 * i : 2 * i + 1;  // `second` begins one value early
  for (int32_t j = 0; j < count; j += W) {
    const int32_t at = j + W < count ? j : count - W;
    const values first = *reinterpret_cast<const unaligned *>(in + STRIDE * at);
    if (STRIDE == 1) {
      *reinterpret_cast<unaligned *>(out + at) = first;
    } else {
      const values second = *reinterpret_cast<const unaligned *>(in + 2 * at + W - 1);
      *reinterpret_cast<unaligned *>(out + at) = __builtin_shuffle(first, second, pick);
    }
  }
}

template <int STRIDE>
inline void copy(const float *in, float *out, int32_t count) {
  if (count >= V)
    copy_by<STRIDE, V>(in, out, count);
  else if (V > 8 && count >= 8)
    copy_by<STRIDE, 8>(in, out, count);
  else if (count >= 4)
    copy_by<STRIDE, 4>(in, out, count);
  else
    for (int32_t j = 0; j < count; ++j) out[j] = in[STRIDE * j];
}

inline void copy_every(int32_t stride, const float *in, float *out, int32_t count) {
  if (stride == 1)
    copy<1>(in, out, count);
  else if (stride == 2)
    copy<2>(in, out, count);
  else
    for (int32_t j = 0; j < count; ++j) out[j] = in[stride * j];
}

}  // namespace

#endif
