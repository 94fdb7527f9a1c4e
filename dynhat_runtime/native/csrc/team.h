// Threads that share one matrix product after the other. Knows nothing of what is multiplied: product.h does.
//
// A product is cut into chunks. The thread that decodes takes chunks like everybody else, and waits for nobody long:
// a chunk that a helper has taken but not delivered, because it has lost its CPU, is done again and the helper's result
// thrown away. So helpers compute into memory of their own and hand over at the end, if still wanted.
#pragma once

#include <memory>

#include "product.h"

namespace dynhat {

class Pool;

class Team {
 public:
  // Threads beyond the first come from a pool that the calling thread keeps.
  explicit Team(int num_threads);
  ~Team() { rest(); }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Does the whole product.
  void multiply(const Product& product);

  // Waits until no helper looks at anything any more; whoever frees memory they may be reading calls this first.
  void rest();

 private:
  const int num_threads_;
  std::shared_ptr<Pool> pool_;
};

}  // namespace dynhat
