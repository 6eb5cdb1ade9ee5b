#include "../../../compressbench/kernels/native/expanded.cpp"

#include "check.h"

// In the place of the kernels: the first layer's channel c is x[0] + c at every position, the second adds one and repeats it.
struct cb_convolution {
  int n;
  int64_t positions;
};
struct cb_depthwise {
  int64_t in, out;
};

extern "C" void KERNEL_OF(block_sparse_part, ISA)(const cb_convolution *layer, const float *x, float *y, int32_t row0, int32_t row1) {
  for (int64_t c = static_cast<int64_t>(row0) * layer->n; c < static_cast<int64_t>(row1) * layer->n; ++c)
    for (int64_t p = 0; p < layer->positions; ++p) y[c * layer->positions + p] = x[0] + static_cast<float>(c);
}

extern "C" void KERNEL_OF(depthwise_part, ISA)(const cb_depthwise *layer, const float *x, float *y, int32_t first, int32_t last) {
  for (int64_t c = 0; c < last - first; ++c)
    for (int64_t p = 0; p < layer->out; ++p) y[c * layer->out + p] = x[c * layer->in + p % layer->in] + 1;
}

bool runs() { return true; }

bool agrees() {
  const int n = draw(1, 8), rows = draw(1, 9), batch = draw(1, 3), threads = draw(1, 3);
  const int64_t image = draw(1, 20), between = draw(1, 20), out = draw(1, 20);
  const cb_convolution first{n, between};
  const cb_depthwise second{between, out};
  const cb_expanded layer{&first, &second, n, rows, draw(1, rows), image, between, out};
  const std::vector<float> x = values(batch * image);
  std::vector<float> y(static_cast<size_t>(batch * rows * n * out)), workspace(static_cast<size_t>(KERNEL_OF(expanded_workspace, ISA)(&layer, threads)));
  const cb_step step{KERNEL_OF(expanded, ISA), &layer, x.data(), workspace.data(), nullptr, y.data(), batch};
  step.run(&step, threads);
  for (int64_t at = 0; at < static_cast<int64_t>(y.size()); ++at) {
    const int64_t channel = at / out % (rows * n), of = at / out / (rows * n);
    if (y[static_cast<size_t>(at)] != x[static_cast<size_t>(of * image)] + static_cast<float>(channel) + 1) return false;
  }
  return true;
}
