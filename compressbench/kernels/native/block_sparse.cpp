// 1xN block-sparse convolution. Compiled once per instruction set: ISA names it, VECTOR_BYTES is its vector.
//
// The lanes of a vector are consecutive positions of the output image, not channels, so that every N and every vector
// width share this code. A register tile holds R output channels x T vectors: one stored block costs T loads, R broadcasts
// and R * T multiply-adds. R * T is chosen to fill the registers.
#include "vectors.h"

#include "blocks.h"

// A convolution with weights in 1xN blocks, planned for one input size. NCHW, fp32, batch normalisation folded.
//
// A kernel-sized neighbourhood is never gathered: the input is laid out in copies (one per row phase of the stride and
// per column of the kernel) in which the value that output position p needs for one column of the im2col matrix lies
// at offset + p. `offsets` holds that offset for every stored (N, 1) block. A 1x1 convolution of stride 1 reads its input directly.
struct cb_convolution {
  int32_t c_in, height, width;           // input image
  int32_t c_out, out_height, out_width;  // output image
  int32_t kernel, stride, padding;
  int32_t n;               // output channels of a block: 1, 2, 4, 8, 16, 32
  const int32_t *indptr;   // [c_out / n + 1] first block of every block row
  const int32_t *offsets;  // [blocks]
  const float *weights;    // [block row][pass of R channels][block][R], R = min(n, block_sparse_rows)
  const float *bias;       // [c_out]
  float low, high;         // the output is clipped to this range: fused ReLU, ReLU6, or nothing
  int32_t vectors;         // vectors of positions in a register tile
  int32_t group;           // register tiles per group: block rows run outside, the tiles of a group inside
  int32_t even_rows;       // 1: threads take equally many block rows, whatever they hold; 0: equal work
};

namespace {

constexpr int AHEAD = 4;  // blocks to prefetch: the input of a group lives in the second-level cache

// One pass over a block row: R output channels.
struct Pass {
  const float *weights;  // [blocks][R]
  const int32_t *offsets;
  int32_t blocks;
  const float *bias;  // [R]
  float low, high;
  int64_t pitch;  // from one output channel to the next
};

template <int R, int T>
void tile(const Pass &pass, const float *x, const float *residual, float *y) {
  vec sum[R][T];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sum[r][t] = pass.bias[r] - vec{};
  const float *w = pass.weights;
  for (int32_t b = 0; b < pass.blocks; ++b, w += R) {
    const float *in = x + pass.offsets[b];
    const float *next = x + pass.offsets[b + AHEAD < pass.blocks ? b + AHEAD : b];
    vec value[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      __builtin_prefetch(next + t * V);
      value[t] = load(in + t * V);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) sum[r][t] += w[r] * value[t];
  }
  const vec low = pass.low - vec{}, high = pass.high - vec{};
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      vec v = sum[r][t];
      if (residual) v += load(residual + r * pass.pitch + t * V);
      v = v < low ? low : v;
      v = v > high ? high : v;
      store(y + r * pass.pitch + t * V, v);
    }
}

// The positions that do not fill a vector (7 x 7 = 3 x 16 + 1): here the R channels are the lanes.
template <int R, int L>
void leftover(const Pass &pass, const float *x, const float *residual, float *y) {
  using channels = typename Lanes<R>::type;
  using unaligned_channels = typename Lanes<R>::unaligned;
  constexpr int CHAINS = (4 + L - 1) / L;  // independent sums per position: one alone would wait for its own last addition
  channels sum[CHAINS][L]{};
  for (int l = 0; l < L; ++l) sum[0][l] = *reinterpret_cast<const unaligned_channels *>(pass.bias);
  const auto add = [&](int32_t block, channels(&to)[L]) {
    const float *in = x + pass.offsets[block];
    const channels weight = *reinterpret_cast<const unaligned_channels *>(pass.weights + static_cast<int64_t>(block) * R);
    for (int l = 0; l < L; ++l) to[l] += in[l] * weight;
  };
  int32_t b = 0;
  for (; b + CHAINS <= pass.blocks; b += CHAINS)
#pragma GCC unroll 4
    for (int chain = 0; chain < CHAINS; ++chain) add(b + chain, sum[chain]);
  for (; b < pass.blocks; ++b) add(b, sum[0]);
  for (int chain = 1; chain < CHAINS; ++chain)
    for (int l = 0; l < L; ++l) sum[0][l] += sum[chain][l];
  for (int l = 0; l < L; ++l)
    for (int r = 0; r < R; ++r) {
      float v = sum[0][l][r];
      if (residual) v += residual[r * pass.pitch + l];
      v = v < pass.low ? pass.low : v;
      y[r * pass.pitch + l] = v > pass.high ? pass.high : v;
    }
}

using Step = void (*)(const Pass &, const float *, const float *, float *);

// The largest register tiles: 32 registers on AVX-512, else 16.
constexpr int ROWS = V == 16 ? 8 : 4;
constexpr int most_vectors(int rows) {
  return V == 16 ? (rows == 8 ? 3 : rows == 4 ? 6 : rows == 2 ? 10 : 16) : (rows == 4 ? 3 : rows == 2 ? 5 : 8);
}
constexpr int LEFTOVER = 4;  // positions that one call of `leftover` takes

struct Steps {
  Step tiles[17];                // by vectors
  Step leftovers[LEFTOVER + 1];  // by positions
};

template <int R, int T>
constexpr void fill_tiles(Steps &steps) {
  if constexpr (T > 0) {
    steps.tiles[T] = tile<R, T>;
    fill_tiles<R, T - 1>(steps);
  }
}

template <int R>
constexpr Steps steps_of() {
  Steps steps{};
  fill_tiles<R, most_vectors(R)>(steps);
  steps.leftovers[1] = leftover<R, 1>;
  steps.leftovers[2] = leftover<R, 2>;
  steps.leftovers[3] = leftover<R, 3>;
  steps.leftovers[4] = leftover<R, 4>;
  return steps;
}

constexpr Steps STEPS1 = steps_of<1>(), STEPS2 = steps_of<2>(), STEPS4 = steps_of<4>(), STEPS8 = steps_of<ROWS>();

const Steps &steps(int rows) { return rows == 1 ? STEPS1 : rows == 2 ? STEPS2 : rows == 4 ? STEPS4 : STEPS8; }

// How the positions of an image are cut: vectors shared out evenly over register tiles, then what is left.
struct Cut {
  int32_t tiles, vectors, longer;  // `longer` tiles of vectors + 1, then the others of `vectors`
  int32_t overlap;                 // a last vector that repeats some positions, where that is cheaper than `left`
  int32_t left;

  Cut(int64_t positions, int most, int rows) {
    const int32_t whole = static_cast<int32_t>(positions / V);
    left = static_cast<int32_t>(positions % V);
    overlap = whole > 0 && left > rows / 2 + 1;
    if (overlap) left = 0;
    tiles = (whole + most - 1) / most;
    vectors = tiles ? whole / tiles : 0;
    longer = tiles ? whole % tiles : 0;
  }
  // Units of work: the register tiles, the overlapping vector, and the leftover positions, in this order.
  int32_t units() const { return tiles + overlap + (left > 0); }
};

// All passes of block rows [row0, row1) over units [unit0, unit1) of one image.
void run(const cb_convolution &layer, const Cut &cut, const float *x, const float *residual, float *y, int32_t row0,
         int32_t row1, int32_t unit0, int32_t unit1) {
  const int rows = layer.n < ROWS ? layer.n : ROWS;
  const Steps &step = steps(rows);
  const int64_t pitch = static_cast<int64_t>(layer.out_height) * layer.out_width;
  for (int32_t group = unit0; group < unit1; group += layer.group) {
    const int32_t end = group + layer.group < unit1 ? group + layer.group : unit1;
    for (int32_t row = row0; row < row1; ++row) {
      const int32_t first = layer.indptr[row], blocks = layer.indptr[row + 1] - first;
      for (int32_t channel = 0; channel < layer.n; channel += rows) {
        const int64_t out = static_cast<int64_t>(row) * layer.n + channel;
        const Pass pass{layer.weights + static_cast<int64_t>(first) * layer.n + static_cast<int64_t>(channel) * blocks,
                        layer.offsets + first, blocks, layer.bias + out, layer.low, layer.high, pitch};
        float *target = y + out * pitch;
        const float *other = residual ? residual + out * pitch : nullptr;
        for (int32_t unit = group; unit < end; ++unit) {
          if (unit < cut.tiles) {
            const int32_t before = unit < cut.longer ? unit : cut.longer;
            const int64_t p = (static_cast<int64_t>(unit) * cut.vectors + before) * V;
            step.tiles[cut.vectors + (unit < cut.longer)](pass, x + p, other ? other + p : nullptr, target + p);
          } else if (unit == cut.tiles && cut.overlap) {
            const int64_t p = pitch - V;
            step.tiles[1](pass, x + p, other ? other + p : nullptr, target + p);
          } else {
            for (int32_t left = cut.left; left > 0; left -= LEFTOVER) {
              const int64_t p = pitch - left;
              step.leftovers[left < LEFTOVER ? left : LEFTOVER](pass, x + p, other ? other + p : nullptr, target + p);
            }
          }
        }
      }
    }
  }
}

void convolve(const cb_convolution &layer, const float *x, float *workspace, const float *residual, float *y, int32_t batch,
              int32_t threads) {
  const Cut cut(static_cast<int64_t>(layer.out_height) * layer.out_width, layer.vectors, layer.n < ROWS ? layer.n : ROWS);
  for_each_part(layer, x, workspace, 0.0f, cut.units(), layer.even_rows != 0, batch, threads,
                [&](const float *source, int64_t out, int32_t row0, int32_t row1, int32_t unit0, int32_t unit1) {
                  run(layer, cut, source, residual ? residual + out : nullptr, y + out, row0, row1, unit0, unit1);
                });
}

}  // namespace

// y = clip(conv(x) + bias + residual); residual may be null. x, y: [batch, channels, height, width].
KERNEL(void, block_sparse)(const cb_step *step, int32_t threads) {
  convolve(*static_cast<const cb_convolution *>(step->layer), static_cast<const float *>(step->x), static_cast<float *>(step->workspace),
           static_cast<const float *>(step->residual), static_cast<float *>(step->y), step->batch, threads);
}

// Block rows [row0, row1) of one image, whose input is read directly, into y [all channels, positions].
KERNEL(void, block_sparse_part)(const cb_convolution *layer, const float *x, float *y, int32_t row0, int32_t row1) {
  const Cut cut(static_cast<int64_t>(layer->out_height) * layer->out_width, layer->vectors, layer->n < ROWS ? layer->n : ROWS);
  run(*layer, cut, x, nullptr, y, row0, row1, 0, cut.units());
}

// Floats of workspace that one image needs; 0 where the input is read directly.
KERNEL(int64_t, block_sparse_workspace)(const cb_convolution *layer) { return workspace_of(*layer); }

// Most output channels in a register tile, most vectors of positions in a tile of `rows` channels, and floats in a vector.
KERNEL(int, block_sparse_rows)() { return ROWS; }
KERNEL(int, block_sparse_vectors)(int rows) { return most_vectors(rows); }
KERNEL(int, block_sparse_lanes)() { return V; }
