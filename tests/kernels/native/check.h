// A kernel against plain loops, under AddressSanitizer and UndefinedBehaviorSanitizer (`make sanitize`). Every buffer is allocated
// at its exact size, so that one float too many is an error. A program includes the kernel's source, then this file, and defines
// `agrees`; it is compiled once per instruction set.
#ifndef COMPRESSBENCH_CHECK_H
#define COMPRESSBENCH_CHECK_H

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "isa.h"

// Whether the kernel agrees with plain loops on a random layer.
bool agrees();
// Whether this processor runs the build.
bool runs();

namespace {

std::mt19937 random_bits(0);
int draw(int low, int high) { return low + static_cast<int>(random_bits() % static_cast<unsigned>(high - low + 1)); }
float value() { return std::uniform_real_distribution<float>(-1, 1)(random_bits); }

std::vector<float> values(int64_t count) {
  std::vector<float> result(static_cast<size_t>(count));
  for (float &v : result) v = value();
  return result;
}

struct Geometry {
  int c_in = draw(1, 70), height = 0, width = 0, c_out, out_height, out_width, kernel = draw(0, 1) ? 3 : 1, stride = draw(1, 2), padding;

  explicit Geometry(int multiple) : c_out(multiple * draw(1, 3)), padding(draw(0, kernel - 1)) {
    const int smallest = kernel > 2 * padding ? kernel - 2 * padding : 1;
    height = draw(smallest, 14), width = draw(smallest, 14);
    out_height = (height + 2 * padding - kernel) / stride + 1;
    out_width = (width + 2 * padding - kernel) / stride + 1;
  }

  // Of tap (u, v) at output (i, j): the input pixel, or -1 in the padding.
  int64_t pixel(int i, int j, int u, int v) const {
    const int y = i * stride + u - padding, x = j * stride + v - padding;
    return y < 0 || y >= height || x < 0 || x >= width ? -1 : static_cast<int64_t>(y) * width + x;
  }
};

}  // namespace

extern "C" int KERNEL_OF(runs, ISA)(void);

int main(int, char **arguments) {
  if (!KERNEL_OF(runs, ISA)() || !runs()) return std::printf("%s: not on this processor\n", arguments[0]), 0;
  for (int round = 0; round < 300; ++round)
    if (!agrees()) return std::printf("%s, round %d: wrong\n", arguments[0], round), 1;
  std::printf("%s: 300 rounds, all right\n", arguments[0]);
}

#endif
