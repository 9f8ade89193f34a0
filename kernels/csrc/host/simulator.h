// A GPU's grid on one thread of a CPU: each thread of a block is a fiber, and blocks follow one another.
//
// Barriers are real meeting points, so that a missing one shows as a result that depends on the order in which threads
// run; for tests of that, any one of them can be left out. Shared memory is NaN until it is written, and exactly as large
// as was asked for, so that an address sanitizer sees what lies outside. Not simulated: weak memory order, shuffles among
// a warp's threads, tensor cores, asynchronous copies, time.
#pragma once
#include <ucontext.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

struct bb_index {
  unsigned x, y, z;
};

namespace bb_simulator {

using Kernel = void (*)(const bb_call&);
enum State { RUNS, AT_BARRIER, DONE };

struct Fiber {
  static constexpr std::size_t STACK = 128 << 10;
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[STACK]};
  State state;
  int line;  // of the barrier that it waits at
};

struct Machine {
  bb_index grid, block, block_index, thread_index;
  std::vector<Fiber> fibers;
  std::unique_ptr<unsigned char[]> shared;
  ucontext_t scheduler;
  void* scheduler_stack = nullptr;
  const void* scheduler_bottom = nullptr;
  std::size_t scheduler_size = 0;
  unsigned current;
  Kernel kernel;
  const bb_call* call;
  int without = 0;  // line of a barrier that is left out
};

inline Machine& machine() {
  static Machine one;
  return one;
}

inline std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> named;
  return named;
}

struct Registered {
  Registered(const char* name, Kernel kernel) { kernels()[name] = kernel; }
};

// From a fiber back to the scheduler.
inline void leave(State state) {
  Machine& m = machine();
  Fiber& fiber = m.fibers[m.current];
  fiber.state = state;
#if defined(__SANITIZE_ADDRESS__)
  void* own = nullptr;
  __sanitizer_start_switch_fiber(state == DONE ? nullptr : &own, m.scheduler_bottom, m.scheduler_size);
#endif
  swapcontext(&fiber.context, &m.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(own, nullptr, nullptr);
#endif
}

inline void begin() {
  Machine& m = machine();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &m.scheduler_bottom, &m.scheduler_size);
#endif
  m.kernel(*m.call);
  leave(DONE);
}

// From the scheduler into a fiber.
inline void resume(unsigned thread) {
  Machine& m = machine();
  m.current = thread;
  m.thread_index = {thread, 0, 0};
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&m.scheduler_stack, m.fibers[thread].stack.get(), Fiber::STACK);
#endif
  swapcontext(&m.scheduler, &m.fibers[thread].context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(m.scheduler_stack, nullptr, nullptr);
#endif
}

// Lets the threads of a block go on; false if they are not all at one barrier.
inline bool release() {
  Machine& m = machine();
  for (unsigned t = 0; t < m.block.x; ++t)
    if (m.fibers[t].state != AT_BARRIER || m.fibers[t].line != m.fibers[0].line) return false;
  for (unsigned t = 0; t < m.block.x; ++t) m.fibers[t].state = RUNS;
  return true;
}

// False if threads do not meet at the same barriers. Order 0 takes threads forward, 1 backward, others shuffled by that seed.
inline bool run_block(unsigned order) {
  Machine& m = machine();
  const unsigned threads = m.block.x;
  std::vector<unsigned> turn(threads);
  for (unsigned t = 0; t < threads; ++t) {
    turn[t] = order == 1 ? threads - 1 - t : t;
    Fiber& fiber = m.fibers[t];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = Fiber::STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, begin, 0);
    fiber.state = RUNS;
  }
  for (bb_u64 random = order;;) {
    if (order > 1)
      for (unsigned t = threads - 1; t > 0; --t) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(turn[t], turn[(random >> 33) % (t + 1)]);
      }
    for (unsigned t : turn)
      if (m.fibers[t].state == RUNS) resume(t);
    bool is_done = true;
    for (unsigned t = 0; t < threads; ++t) is_done &= m.fibers[t].state == DONE;
    if (is_done) return true;
    if (!release()) return false;
  }
}

// 0, or 1 for an unknown kernel, or 2 if threads of a block do not meet at the same barriers.
inline int launch(const char* name, const unsigned* blocks, unsigned threads, unsigned shared, const bb_call* call,
                  unsigned order) {
  const auto found = kernels().find(name);
  if (found == kernels().end()) return 1;
  Machine& m = machine();
  m.kernel = found->second;
  m.call = call;
  m.grid = {blocks[0], blocks[1], blocks[2]};
  m.block = {threads, 1, 1};
  if (m.fibers.size() < threads) m.fibers.resize(threads);
  for (unsigned z = 0; z < m.grid.z; ++z)
    for (unsigned y = 0; y < m.grid.y; ++y)
      for (unsigned x = 0; x < m.grid.x; ++x) {
        m.block_index = {x, y, z};
        m.shared.reset(new unsigned char[shared]);
        std::memset(m.shared.get(), 0xFF, shared);
        if (!run_block(order)) return 2;
      }
  return 0;
}

inline void barrier(int line) {
  Machine& m = machine();
  if (line == m.without) return;
  m.fibers[m.current].line = line;
  leave(AT_BARRIER);
}

}  // namespace bb_simulator

#define BB_KERNEL(name, ...)                                             \
  static void name(const bb_call& call);                                 \
  static const bb_simulator::Registered name##_registered(#name, name); \
  static void name(const bb_call& call)
#define BB_SHARED(type, name) type* name = reinterpret_cast<type*>(bb_simulator::machine().shared.get())
#define gridDim (bb_simulator::machine().grid)
#define blockDim (bb_simulator::machine().block)
#define blockIdx (bb_simulator::machine().block_index)
#define threadIdx (bb_simulator::machine().thread_index)
#define __syncthreads() bb_simulator::barrier(__LINE__)
