// A pointwise convolution and the depthwise one that alone reads its output, a few block rows at a time: what lies between them stays
// in the cache of the thread that needs it. Compiled once per instruction set.
#include "isa.h"

struct cb_convolution;
struct cb_depthwise;

struct cb_expanded {
  const cb_convolution *first;
  const cb_depthwise *second;
  int32_t n, rows;              // output channels of a block, block rows
  int32_t turn;                 // block rows at a time
  int64_t image, between, out;  // floats of an input image, of a channel between the layers, of one of the output
};

extern "C" {
// block_sparse.cpp: block rows [row0, row1) of one image, into y [all channels, positions].
void KERNEL_OF(block_sparse_part, ISA)(const cb_convolution *layer, const float *x, float *y, int32_t row0, int32_t row1);
// depthwise.cpp: channels [first, last) of one image, which x and y hold alone.
void KERNEL_OF(depthwise_part, ISA)(const cb_depthwise *layer, const float *x, float *y, int32_t first, int32_t last);
}

// Floats of workspace.
KERNEL(int64_t, expanded_workspace)(const cb_expanded *layer, int32_t threads) {
  return static_cast<int64_t>(threads) * layer->turn * layer->n * layer->between;
}

// x: [batch, image]; y: [batch, rows * n, out].
KERNEL(void, expanded)(const cb_step *step, int32_t threads) {
  const cb_expanded &layer = *static_cast<const cb_expanded *>(step->layer);
  const int64_t turns = (layer.rows + layer.turn - 1) / layer.turn, all = turns * step->batch;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const int32_t part = thread(), parts = threads_running();
    float *between = static_cast<float *>(step->workspace) + part * KERNEL_OF(expanded_workspace, ISA)(&layer, 1);
    for (int64_t turn = all * part / parts; turn < all * (part + 1) / parts; ++turn) {
      const int64_t image = turn / turns;
      const int32_t row0 = static_cast<int32_t>(turn % turns) * layer.turn, end = row0 + layer.turn, row1 = end < layer.rows ? end : layer.rows;
      const float *x = static_cast<const float *>(step->x) + image * layer.image;
      float *y = static_cast<float *>(step->y) + (image * layer.rows + row0) * layer.n * layer.out;
      KERNEL_OF(block_sparse_part, ISA)(layer.first, x, between - static_cast<int64_t>(row0) * layer.n * layer.between, row0, row1);
      KERNEL_OF(depthwise_part, ISA)(layer.second, between, y, row0 * layer.n, row1 * layer.n);
    }
  }
}
