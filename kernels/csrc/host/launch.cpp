// One target of XLA's foreign function interface for every kernel: looks the kernel up by name and runs it over rows.
//
// attributes   kernel: name and source hash, as registered; scalars: whole numbers, the first is the number of rows;
//              least: rows that are worth a thread
// buffers      inputs, then outputs, as the kernel takes them (native.cpp)
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Entry = void (*)(void* const*, const std::int64_t*, std::int64_t, std::int64_t);

std::mutex registry_lock;
std::unordered_map<std::string, Entry>& registry() {
  static std::unordered_map<std::string, Entry> entries;
  return entries;
}

// Subnormal numbers as IEEE 754 has them while it lives: XLA has its threads flush them to zero.
struct Subnormals {
#if defined(__SSE2__)
  unsigned before = _mm_getcsr();
  Subnormals() { _mm_setcsr(before & ~0x8040u); }
  ~Subnormals() { _mm_setcsr(before); }
#elif defined(__aarch64__)
  std::uint64_t before;
  Subnormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before));
    asm volatile("msr fpcr, %0" : : "r"(before & ~(std::uint64_t(1) << 24)));
  }
  ~Subnormals() { asm volatile("msr fpcr, %0" : : "r"(before)); }
#endif
};

// The rows of one call, shared by the threads that work on it. A thread takes the next piece until none is left; who
// comes late finds nothing to do. So the caller never waits for a thread that has not begun.
struct Work {
  Entry entry;
  std::vector<void*> buffers;
  std::vector<std::int64_t> scalars;
  std::int64_t rows, piece;
  std::atomic<std::int64_t> next{0};
  std::int64_t done = 0;
  std::mutex lock;
  std::condition_variable finished;

  void run() {
    const Subnormals kept;
    for (std::int64_t begin; (begin = next.fetch_add(piece)) < rows;) {
      const std::int64_t end = begin + piece < rows ? begin + piece : rows;
      entry(buffers.data(), scalars.data(), begin, end);
      std::lock_guard<std::mutex> guard(lock);
      if ((done += end - begin) == rows) finished.notify_all();
    }
  }

  void wait() {
    std::unique_lock<std::mutex> guard(lock);
    finished.wait(guard, [this] { return done == rows; });
  }
};

ffi::Error launch(ffi::ThreadPool pool, ffi::RemainingArgs inputs, ffi::RemainingRets outputs, std::string_view kernel,
                  ffi::Span<const std::int64_t> scalars, std::int64_t least) {
  auto work = std::make_shared<Work>();
  {
    std::lock_guard<std::mutex> guard(registry_lock);
    const auto found = registry().find(std::string(kernel));
    if (found == registry().end())
      return ffi::Error(ffi::ErrorCode::kNotFound, "blackbox: no kernel " + std::string(kernel) + " in this process");
    work->entry = found->second;
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    auto buffer = inputs.get<ffi::AnyBuffer>(i);
    if (buffer.has_error()) return buffer.error();
    work->buffers.push_back(buffer->untyped_data());
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    auto buffer = outputs.get<ffi::AnyBuffer>(i);
    if (buffer.has_error()) return buffer.error();
    work->buffers.push_back((*buffer)->untyped_data());
  }
  work->scalars.assign(scalars.begin(), scalars.end());
  work->rows = work->scalars.at(0);
  if (work->rows == 0) return ffi::Error::Success();
  const std::int64_t threads = pool.num_threads() > 1 ? pool.num_threads() : 1;
  work->piece = std::max((work->rows + 4 * threads - 1) / (4 * threads), least);
  for (std::int64_t i = 1; i < threads && i * work->piece < work->rows; ++i) pool.Schedule([work] { work->run(); });
  work->run();
  work->wait();
  return ffi::Error::Success();
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void bb_register(const char* kernel, void* entry) {
  std::lock_guard<std::mutex> guard(registry_lock);
  registry()[kernel] = reinterpret_cast<Entry>(entry);
}

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* bb_launch(XLA_FFI_CallFrame* call_frame);

XLA_FFI_DEFINE_HANDLER_SYMBOL(bb_launch, launch,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::string_view>("kernel")
                                  .Attr<ffi::Span<const std::int64_t>>("scalars")
                                  .Attr<std::int64_t>("least"));
