// A piece of work shared by threads. Knows nothing of what the work is.
#pragma once

namespace dynhat {

class Team {
 public:
  explicit Team(int num_threads) : num_threads_(num_threads) {}

  // Calls work(first, last) until all `count` items are done.
  template <typename Work>
  void share(int count, const Work& work) {
    work(0, count);
  }

 private:
  int num_threads_;
};

}  // namespace dynhat
