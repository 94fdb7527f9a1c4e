// How a chunk changes hands. `ticket` is (product << 32 | chunks << 16 | next chunk): taking one is a compare and swap,
// which fails for whoever looks at a product that is over. A chunk's `state` is (product << 2 | what): a helper
// delivers only if it can turn kOpen into kDelivering, the decoding thread takes over only if it can turn kOpen into
// kTaken, so one of them writes the result. The product itself is read like under a sequence lock: copied, then used
// only if its chunk is still open.
#include "team.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include <sched.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace dynhat {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxChunks = 32;
constexpr int kChunksPerThread = 4;
constexpr int64_t kLeastWork = 32 * 1024;  // multiply-adds of a chunk: a few microseconds, many times a hand-over
constexpr auto kSpin = std::chrono::microseconds(200);     // a helper without work looks for some that long, then sleeps
constexpr auto kPatience = std::chrono::microseconds(20);  // what the decoding thread adds to its own time per chunk
constexpr int kWords = (sizeof(Product) + 7) / 8;

enum State : uint64_t { kOpen, kDelivering, kDone, kTaken };

void pause() {
#if defined(__SSE2__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct alignas(64) Chunk {
  std::atomic<uint64_t> state{0};
};

int64_t work_of(const Product& p) { return int64_t{p.matrix.num_out} * p.matrix.num_in * p.rows; }

// Panels of chunk `index` of `count`.
int first_panel(const Product& p, int index, int count) {
  return static_cast<int>(int64_t{num_panels(p.matrix.num_out)} * index / count);
}

void do_chunk(const Product& p, int index, int count) {
  const int first = first_panel(p, index, count);
  multiply_panels(p, first, first_panel(p, index + 1, count), p.y + first * kPanel, p.y_stride, p.then);
}

}  // namespace

class Pool {
 public:
  // A pool of the calling thread with at least this many helpers.
  static std::shared_ptr<Pool> of_this_thread(int num_helpers) {
    struct Handle {
      std::shared_ptr<Pool> pool = std::make_shared<Pool>();
      ~Handle() { pool->stop(); }
    };
    static thread_local Handle handle;
    for (; handle.pool->num_helpers_ < num_helpers; ++handle.pool->num_helpers_)
      std::thread([pool = handle.pool] { pool->help(); }).detach();
    return handle.pool;
  }

  void share(const Product& product, int num_chunks) {
    const uint64_t id = ++product_id_;
    uint64_t words[kWords] = {};
    std::memcpy(words, &product, sizeof product);
    for (int i = 0; i < num_chunks; ++i) chunks_[i].state.store(id << 2 | kOpen, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
    for (int i = 0; i < kWords; ++i) words_[i].store(words[i], std::memory_order_relaxed);
    ticket_.store(id << 32 | uint64_t(num_chunks) << 16);
    if (num_sleeping_.load() > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
    }
    bool is_mine[kMaxChunks] = {};
    auto slowest = Clock::duration::zero();
    for (auto began = Clock::now();;) {
      const uint64_t ticket = ticket_.fetch_add(1);
      const int index = static_cast<int>(ticket & 0xffff);
      if (index >= num_chunks) break;
      is_mine[index] = true;
      do_chunk(product, index, num_chunks);
      const auto now = Clock::now();
      slowest = std::max(slowest, now - began);
      began = now;
    }
    ticket_.store(id << 32);  // no chunks: nobody takes any
    const auto until = Clock::now() + 2 * slowest + kPatience;
    for (int i = 0; i < num_chunks; ++i)
      if (!is_mine[i]) await(product, id, i, num_chunks, until);
  }

  // Until no helper is at work.
  void rest() {
    while (num_working_.load() > 0) sched_yield();
  }

  void stop() {
    std::lock_guard<std::mutex> lock(mutex_);
    is_stopping_ = true;
    wake_.notify_all();
  }

 private:
  // The result of a helper's chunk, or, if it takes too long, our own.
  void await(const Product& product, uint64_t id, int index, int num_chunks, Clock::time_point until) {
    for (int turn = 1;; ++turn) {
      uint64_t state = chunks_[index].state.load(std::memory_order_acquire);
      if (state == (id << 2 | kDone)) return;
      if (state == (id << 2 | kOpen) && turn % 16 == 0 && Clock::now() > until &&
          chunks_[index].state.compare_exchange_strong(state, id << 2 | kTaken)) {
        return do_chunk(product, index, num_chunks);
      }
      pause();
    }
  }

  void help() {
    std::vector<float> result;
    auto idle_since = Clock::now();
    for (int turn = 1; !is_stopping_.load(std::memory_order_relaxed); ++turn) {
      const uint64_t ticket = ticket_.load();
      if ((ticket & 0xffff) < (ticket >> 16 & 0xffff)) {
        num_working_.fetch_add(1);
        help_with(ticket, result);
        num_working_.fetch_sub(1);
        idle_since = Clock::now();
      } else if (turn % 64 == 0) {
        if (Clock::now() - idle_since > kSpin) {
          sleep();
          idle_since = Clock::now();
        } else {
          sched_yield();  // whoever waits for this CPU may be the one we wait for
        }
      } else {
        pause();
      }
    }
  }

  void help_with(uint64_t ticket, std::vector<float>& result) {
    uint64_t expected = ticket;
    if (!ticket_.compare_exchange_strong(expected, ticket + 1)) return;
    const uint64_t id = ticket >> 32;
    const int index = static_cast<int>(ticket & 0xffff), num_chunks = static_cast<int>(ticket >> 16 & 0xffff);
    std::atomic<uint64_t>& state = chunks_[index].state;
    uint64_t words[kWords];
    for (int i = 0; i < kWords; ++i) words[i] = words_[i].load(std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (state.load(std::memory_order_relaxed) != (id << 2 | kOpen)) return;
    Product product;
    std::memcpy(&product, words, sizeof product);
    const int first = first_panel(product, index, num_chunks), last = first_panel(product, index + 1, num_chunks);
    const int width = (last - first) * kPanel;
    if (result.size() < size_t(width) * product.rows) result.resize(size_t(width) * product.rows);
    multiply_panels(product, first, last, result.data(), width,
                    product.then == Then::kAdd ? Then::kStore : product.then);
    uint64_t open = id << 2 | kOpen;
    if (!state.compare_exchange_strong(open, id << 2 | kDelivering)) return;  // not wanted any more
    const int count = std::min(width, product.matrix.num_out - first * kPanel);
    for (int r = 0; r < product.rows; ++r) {
      const float* from = &result[size_t(r) * width];
      float* to = product.y + ptrdiff_t(r) * product.y_stride + first * kPanel;
      if (product.then == Then::kAdd) {
        for (int i = 0; i < count; ++i) to[i] += from[i];
      } else {
        std::copy_n(from, count, to);
      }
    }
    state.store(id << 2 | kDone, std::memory_order_release);
  }

  void sleep() {
    std::unique_lock<std::mutex> lock(mutex_);
    num_sleeping_.fetch_add(1);
    const uint64_t seen = ticket_.load();
    // Whoever changes the ticket after this point sees that we sleep.
    wake_.wait(lock, [&] { return is_stopping_ || ticket_.load() >> 32 != seen >> 32 || has_chunks(seen); });
    num_sleeping_.fetch_sub(1);
  }

  static bool has_chunks(uint64_t ticket) { return (ticket & 0xffff) < (ticket >> 16 & 0xffff); }

  int num_helpers_ = 0;
  uint64_t product_id_ = 0;
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<uint64_t> words_[kWords] = {};
  alignas(64) std::atomic<int> num_working_{0};
  std::atomic<int> num_sleeping_{0};
  Chunk chunks_[kMaxChunks];
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<bool> is_stopping_{false};
};

Team::Team(int num_threads)
    : num_threads_(std::min(num_threads, kMaxChunks / kChunksPerThread)),
      pool_(num_threads > 1 ? Pool::of_this_thread(num_threads_ - 1) : nullptr) {}

void Team::multiply(const Product& product) {
  if (product.matrix.is_int8) quantise(product);
  const int64_t most = std::min<int64_t>(work_of(product) / kLeastWork, num_panels(product.matrix.num_out));
  const int num_chunks = static_cast<int>(std::min<int64_t>(most, num_threads_ * kChunksPerThread));
  if (pool_ == nullptr || num_chunks < 2) return do_chunk(product, 0, 1);
  pool_->share(product, num_chunks);
}

void Team::rest() {
  if (pool_ != nullptr) pool_->rest();
}

}  // namespace dynhat
