// What the convolutions with 1xN blocks share, whatever they add up: where their input lies, and how threads divide the work.
//
// `Layer` is a struct with the fields c_in, height, width, c_out, out_height, out_width, kernel, stride, padding, n and indptr of
// `cb_convolution`, T the type of its input. Include it behind the header that copies every `stride`-th T (`copy_every`).
#ifndef COMPRESSBENCH_BLOCKS_H
#define COMPRESSBENCH_BLOCKS_H

#include <stddef.h>

#include "isa.h"

namespace {

// From one channel of the copies to the next.
template <typename Layer>
int64_t channel_pitch(const Layer &layer) {
  const int32_t phases = layer.stride < layer.kernel ? layer.stride : layer.kernel;
  int64_t rows = 0;
  for (int32_t phase = 0; phase < phases; ++phase) rows += layer.out_height + (layer.kernel - 1 - phase) / layer.stride;
  return rows * layer.kernel * layer.out_width;
}

// Elements of the copies of one image; 0 where the input is read directly.
template <typename Layer>
int64_t workspace_of(const Layer &layer) {
  const bool direct = layer.kernel == 1 && layer.stride == 1 && layer.padding == 0;
  return direct ? 0 : channel_pitch(layer) * layer.c_in;
}

template <typename T>
inline void fill(T *to, int64_t count, T value) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// The copy of a whole plane, rows of padding above and below, moved by `shift` columns: one long run, then the edges.
template <typename Layer, typename T>
void shift_plane(const Layer &layer, const T *in, T *out, int32_t shift, T padding) {
  const int64_t width = layer.width, size = layer.height * width, above = layer.padding * width;
  const int64_t total = (layer.out_height + layer.kernel - 1) * width;
  const int32_t left = shift < 0 ? -shift : 0, right = shift > 0 ? shift : 0;
  T *plane = out + above;
  fill(out, above, padding);
  __builtin_memcpy(plane + left, in + right, sizeof(T) * static_cast<size_t>(size - left - right));
  fill(plane + size, total - above - size, padding);
  for (int32_t y = 0; y < layer.height; ++y, plane += width) {
    fill(plane, left, padding);
    fill(plane + width - right, right, padding);
  }
}

// Channels [first, last) of the copies that `cb_convolution` describes.
template <typename Layer, typename T>
void lay_out(const Layer &layer, const T *image, T *copies, int32_t first, int32_t last, T padding) {
  const int32_t phases = layer.stride < layer.kernel ? layer.stride : layer.kernel;
  const int64_t pitch = channel_pitch(layer);
  for (int32_t c = first; c < last; ++c) {
    const T *in = image + static_cast<int64_t>(c) * layer.height * layer.width;
    T *out = copies + c * pitch;
    for (int32_t phase = 0; phase < phases; ++phase) {
      const int32_t rows = layer.out_height + (layer.kernel - 1 - phase) / layer.stride;
      for (int32_t column = 0; column < layer.kernel; ++column) {
        const int32_t shift = column - layer.padding;
        if (layer.stride == 1 && layer.out_width == layer.width && layer.width > layer.padding) {
          shift_plane(layer, in, out, shift, padding);
          out += static_cast<int64_t>(rows) * layer.width;
          continue;
        }
        // output columns whose input column stride * j + shift lies inside the image
        const int32_t before = shift < 0 ? (-shift + layer.stride - 1) / layer.stride : 0;
        const int32_t from = before < layer.out_width ? before : layer.out_width;
        const int32_t inside = (layer.width - shift + layer.stride - 1) / layer.stride;
        const int32_t to = inside < from ? from : inside > layer.out_width ? layer.out_width : inside;
        for (int32_t row = 0; row < rows; ++row, out += layer.out_width) {
          const int32_t y = layer.stride * row + phase - layer.padding;
          if (y < 0 || y >= layer.height) {
            fill(out, layer.out_width, padding);
            continue;
          }
          const T *source = in + static_cast<int64_t>(y) * layer.width + shift;
          fill(out, from, padding);
          copy_every(layer.stride, source + layer.stride * from, out + from, to - from);
          fill(out + to, layer.out_width - to, padding);
        }
      }
    }
  }
}

// Block rows [begin, end) of one of `parts` parts: equally many rows, or about equally much that is stored.
template <typename Layer>
void share_rows(const Layer &layer, bool even, int32_t part, int32_t parts, int32_t *begin, int32_t *end) {
  const int32_t rows = layer.c_out / layer.n;
  if (even) {
    *begin = rows * part / parts;
    *end = rows * (part + 1) / parts;
    return;
  }
  const int64_t total = layer.indptr[rows] + rows;  // an empty row is written, too
  int32_t row = 0;
  while (row < rows && (layer.indptr[row] + row) * static_cast<int64_t>(parts) < total * part) ++row;
  *begin = row;
  while (row < rows && (layer.indptr[row] + row) * static_cast<int64_t>(parts) < total * (part + 1)) ++row;
  *end = part + 1 == parts ? rows : row;
}

// run(input or its copies, elements before the image's output, row0, row1, unit0, unit1) for every image and thread. units: of positions.
template <typename Layer, typename T, typename Run>
void for_each_part(const Layer &layer, const T *x, T *workspace, T padding, int32_t units, bool even_rows, int32_t batch, int32_t threads,
                   Run run) {
  const int64_t positions = static_cast<int64_t>(layer.out_height) * layer.out_width;
  const bool copied = workspace_of(layer) > 0;
  // Enough units: threads share the positions and are balanced whatever the rows hold. Few units: they share the rows.
  const bool by_position = units >= 4 * threads && !even_rows;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const int32_t part = thread(), parts = threads_running();
    for (int32_t image = 0; image < batch; ++image) {
      const T *source = x + image * static_cast<int64_t>(layer.c_in) * layer.height * layer.width;
      if (copied) {
        lay_out(layer, source, workspace, layer.c_in * part / parts, layer.c_in * (part + 1) / parts, padding);
        source = workspace;
#pragma omp barrier
      }
      int32_t row0 = 0, row1 = layer.c_out / layer.n, unit0 = 0, unit1 = units;
      if (by_position) {
        unit0 = static_cast<int32_t>(static_cast<int64_t>(units) * part / parts);
        unit1 = static_cast<int32_t>(static_cast<int64_t>(units) * (part + 1) / parts);
      } else {
        share_rows(layer, even_rows, part, parts, &row0, &row1);
      }
      run(source, image * layer.c_out * positions, row0, row1, unit0, unit1);
      if (copied && image + 1 < batch) {  // the next one overwrites the copies
#pragma omp barrier
      }
    }
  }
}

}  // namespace

#endif
