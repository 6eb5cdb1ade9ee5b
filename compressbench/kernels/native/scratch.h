// Memory of a thread that one layer after the other uses, and that stays in its first-level cache.
#ifndef COMPRESSBENCH_SCRATCH_H
#define COMPRESSBENCH_SCRATCH_H

#include <stddef.h>
#include <stdlib.h>

namespace {

struct Scratch {
  void *memory = nullptr;
  size_t bytes = 0;
  ~Scratch() { free(memory); }
  void *at_least(size_t wanted) {
    if (wanted > bytes) {
      free(memory);
      bytes = (wanted + 4095) / 4096 * 4096;
      memory = aligned_alloc(64, bytes);
      if (!memory) abort();
    }
    return memory;
  }
};

thread_local Scratch scratch;

}  // namespace

#endif
