/* The C interface of the kernels. Python checks every size and index (native.py) before it calls. */
#ifndef COMPRESSBENCH_KERNELS_H
#define COMPRESSBENCH_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A convolution with weights in 1xN blocks, planned for one input size. NCHW, fp32, batch normalisation folded.
 *
 * A kernel-sized neighbourhood is never gathered: the input is laid out in copies (one per row phase of the stride and
 * per column of the kernel) in which the value that output position p needs for one column of the im2col matrix lies
 * at offset + p. `offsets` holds that offset for every stored (N, 1) block. A 1x1 convolution of stride 1 reads its input directly. */
typedef struct {
  int32_t c_in, height, width;             /* input image */
  int32_t c_out, out_height, out_width;    /* output image */
  int32_t kernel, stride, padding;
  int32_t n;                               /* output channels of a block: 1, 2, 4, 8, 16, 32 */
  const int32_t *indptr;                   /* [c_out / n + 1] first block of every block row */
  const int32_t *offsets;                  /* [blocks] */
  const float *weights;                    /* [block row][pass of R channels][block][R], R = min(n, cb_rows(isa)) */
  const float *bias;                       /* [c_out] */
  float low, high;                         /* the output is clipped to this range: fused ReLU, ReLU6, or nothing */
  int32_t vectors;                         /* vectors of positions in a register tile */
  int32_t group;                           /* register tiles per group: block rows run outside, the tiles of a group inside */
  int32_t even_rows;                       /* 1: threads take equally many block rows, whatever they hold; 0: equal work */
} cb_convolution;

/* A convolution in which every channel has a 3x3 or 5x5 kernel of its own, with stride 1 or 2. NCHW, fp32. */
typedef struct {
  int32_t channels, height, width;
  int32_t out_height, out_width;
  int32_t kernel, stride, padding;
  const float *weights;                    /* [channels][kernel][kernel] */
  const float *bias;                       /* [channels] */
  float low, high;                         /* the output is clipped to this range */
} cb_depthwise;

/* A convolution of one-bit weights with the signs of its input (bit 1: positive), planned for one input size. NHWC.
 *
 * y = scale * (base + factor * count) + bias, where count is the number of ones in XOR (factor -2: bits mean -1 and +1) or in
 * AND (factor 2: weights mean 0 and +1) of the padded bit image with the weights. `base` holds what makes that exact, also at
 * the zero padding, whose bits are 0: it depends on the output channel and on which taps fall outside the image. */
typedef struct {
  int32_t c_in, height, width;
  int32_t c_out, out_height, out_width;
  int32_t kernel, stride, padding;
  const uint64_t *weights;                     /* [group of cb_binary_channels(isa)][tap][word of 64 c_in][channel of the group] */
  const int32_t *base;                         /* [row class][column class][c_out, up to a whole group] */
  const int32_t *row_class, *column_class;     /* [out_height], [out_width] */
  int32_t column_classes;
  int32_t factor;                              /* -2 or 2 */
  const float *scale, *bias;                   /* [c_out, up to a whole group] */
} cb_binary;

/* Instruction sets: 0 portable, 1 AVX2, 2 AVX-512 (for binary kernels with VPOPCNTDQ). The best that this processor runs: */
int cb_best_isa(void);
int cb_best_binary_isa(void);
/* Most output channels in a register tile, and floats in a vector. */
int cb_rows(int isa);
int cb_lanes(int isa);
/* Most vectors of positions in a register tile of `rows` output channels. */
int cb_max_vectors(int isa, int rows);
/* 12 * lanes multiply-adds per iteration, of which none waits for another of the same iteration; factor: between 0 and 1. */
float cb_spin(int isa, int64_t iterations, float factor);
/* Floats of workspace that one image needs; 0 where the input is read directly. */
int64_t cb_workspace(const cb_convolution *layer);
/* y = clip(conv(x) + bias + residual); residual may be null. x, y: [batch, channels, height, width], contiguous. */
void cb_convolve(int isa, const cb_convolution *layer, const float *x, float *workspace, const float *residual, float *y,
                 int32_t batch, int32_t threads);

/* Floats of workspace. */
int64_t cb_depthwise_workspace(const cb_depthwise *layer, int32_t threads);
/* y = clip(conv(x) + bias). x, y: [batch, channels, height, width], contiguous. */
void cb_convolve_depthwise(int isa, const cb_depthwise *layer, const float *x, float *workspace, float *y, int32_t batch,
                           int32_t threads);

/* The mean over the pixels of every channel. */
typedef struct {
  int32_t channels, pixels;
} cb_mean;

/* One layer of a network: kind 0 is a cb_convolution, 1 a cb_depthwise, 2 a cb_mean; the rest as in the calls above. */
typedef struct {
  int32_t kind, batch;
  const void *layer;
  const float *x;
  float *workspace;
  const float *residual;
  float *y;
} cb_step;
void cb_run(int isa, const cb_step *steps, int32_t count, int32_t threads);

/* Output channels that are computed together. */
int cb_binary_channels(int isa);
/* x: float [batch, height, width, c_in]; y: float [batch, out_height, out_width, c_out]; workspace: the packed image,
 * (height + 2 padding) * (width + 2 padding) * ceil(c_in / 64) words. */
void cb_convolve_binary(int isa, const cb_binary *layer, const float *x, uint64_t *workspace, float *y, int32_t batch,
                        int32_t threads);

#ifdef __cplusplus
}
#endif
#endif
