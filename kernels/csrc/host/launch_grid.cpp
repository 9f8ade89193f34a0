// One target of XLA's foreign function interface for every kernel of a GPU: host code alone, without CUDA's headers.
//
// attributes   text: name and hash of the compiled text (a cubin), as registered; kernel: its name; blocks, threads,
//              shared: the grid; scalars: whole numbers
// buffers      inputs, then outputs, as the kernel takes them (struct bb_call in port.h)
//
// The driver is looked for when the first kernel is launched. On CPUs the same target runs the simulator, for tests.
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "../port.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

struct Grid {
  unsigned blocks[3], threads, shared;
};

// The few functions of CUDA's driver that a launch takes; 0 is success.
struct Driver {
  int (*load)(void** module, const void* image);
  int (*find)(void** function, void* module, const char* name);
  int (*set)(void* function, int attribute, int value);
  int (*device)(int* device);
  int (*attribute)(int* value, int attribute, int device);
  int (*launch)(void* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned shared, void* stream,
                void** arguments, void** extra);
  int (*context_of)(void* stream, void** context);
  int (*push)(void* context);
  int (*pop)(void** context);
  const char* problem = nullptr;

  Driver() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) {
      problem = "no CUDA driver (libcuda.so.1)";
      return;
    }
    const auto get = [&](const char* name, auto& entry) {
      if (void* found = dlsym(library, name))
        std::memcpy(&entry, &found, sizeof found);
      else
        problem = "the CUDA driver lacks an entry that is needed";
    };
    get("cuModuleLoadData", load);
    get("cuModuleGetFunction", find);
    get("cuFuncSetAttribute", set);
    get("cuCtxGetDevice", device);
    get("cuDeviceGetAttribute", attribute);
    get("cuLaunchKernel", launch);
    get("cuStreamGetCtx", context_of);
    get("cuCtxPushCurrent_v2", push);
    get("cuCtxPopCurrent_v2", pop);
  }
};

std::mutex lock;
std::map<std::string, const void*>& texts() {
  static std::map<std::string, const void*> registered;
  return registered;
}
using Simulate = int (*)(const char*, const unsigned*, unsigned, unsigned, const bb_call*, unsigned);
Simulate simulator = nullptr;

ffi::Error failed(const char* what, int code) {
  return ffi::Error::Internal(std::string("blackbox: ") + what + " failed with CUDA error " + std::to_string(code));
}

struct Function {
  void* address = nullptr;
  unsigned most_shared = 0;  // bytes of shared memory that a block may have
};

// Loads a text into the current context and finds a kernel, which may then ask for all of a block's shared memory.
ffi::Error load(const Driver& driver, const void* image, const char* kernel, Function& made) {
  constexpr int MOST_SHARED_OF_BLOCK = 97, MOST_DYNAMIC_SHARED = 8;
  void* module = nullptr;
  int device = 0, most = 0;
  if (int code = driver.load(&module, image)) return failed("cuModuleLoadData", code);
  if (int code = driver.find(&made.address, module, kernel)) return failed("cuModuleGetFunction", code);
  if (int code = driver.device(&device)) return failed("cuCtxGetDevice", code);
  if (int code = driver.attribute(&most, MOST_SHARED_OF_BLOCK, device)) return failed("cuDeviceGetAttribute", code);
  if (int code = driver.set(made.address, MOST_DYNAMIC_SHARED, most)) return failed("cuFuncSetAttribute", code);
  made.most_shared = (unsigned)most;
  return ffi::Error::Success();
}

// The kernel in the stream's context, loaded once for each. No lock is held meanwhile, since loading may wait for a GPU
// whose work waits for that of another; two threads at once load it twice.
ffi::Error function_of(const Driver& driver, void* context, const std::string& text, const std::string& kernel,
                       Function& function) {
  static std::map<std::pair<void*, std::string>, Function> functions;
  const std::pair<void*, std::string> name{context, text + " " + kernel};
  const void* image = nullptr;
  {
    std::lock_guard<std::mutex> guard(lock);
    if (const auto known = functions.find(name); known != functions.end()) {
      function = known->second;
      return ffi::Error::Success();
    }
    const auto registered = texts().find(text);
    if (registered == texts().end())
      return ffi::Error(ffi::ErrorCode::kNotFound, "blackbox: no " + text + " in this process");
    image = registered->second;
  }
  ffi::Error error = load(driver, image, kernel.c_str(), function);
  if (error.success()) {
    std::lock_guard<std::mutex> guard(lock);
    functions[name] = function;
  }
  return error;
}

ffi::Error on_gpu(void* stream, const std::string& text, const std::string& kernel, const Grid& grid, bb_call& call) {
  static const Driver driver;
  if (driver.problem) return ffi::Error::Internal(std::string("blackbox: ") + driver.problem);
  void *context = nullptr, *popped = nullptr;
  Function function;
  if (int code = driver.context_of(stream, &context)) return failed("cuStreamGetCtx", code);
  if (int code = driver.push(context)) return failed("cuCtxPushCurrent", code);
  ffi::Error error = function_of(driver, context, text, kernel, function);
  if (error.success() && grid.shared > function.most_shared)
    error = ffi::Error::InvalidArgument("blackbox: a block of " + kernel + " needs " + std::to_string(grid.shared) +
                                        " bytes of shared memory, and this GPU has " +
                                        std::to_string(function.most_shared));
  if (error.success()) {
    void* arguments[] = {&call};
    if (int code = driver.launch(function.address, grid.blocks[0], grid.blocks[1], grid.blocks[2], grid.threads, 1, 1,
                                 grid.shared, stream, arguments, nullptr))
      error = failed("cuLaunchKernel", code);
  }
  driver.pop(&popped);
  return error;
}

ffi::Error on_simulator(const std::string& kernel, const Grid& grid, bb_call& call) {
  std::lock_guard<std::mutex> guard(lock);  // it has one machine
  if (!simulator) return ffi::Error::Internal("blackbox: no simulator in this process");
  const int code = simulator(kernel.c_str(), grid.blocks, grid.threads, grid.shared, &call, 0);
  return code ? ffi::Error::Internal("blackbox: the simulator returned " + std::to_string(code)) : ffi::Error::Success();
}

template <class Run>
ffi::Error launch(ffi::RemainingArgs inputs, ffi::RemainingRets outputs, ffi::Span<const std::int64_t> blocks,
                  std::int64_t threads, std::int64_t shared, ffi::Span<const std::int64_t> scalars, Run run) {
  bb_call call{};
  constexpr std::size_t BUFFERS = sizeof call.buffers / sizeof *call.buffers;
  constexpr std::size_t SCALARS = sizeof call.scalars / sizeof *call.scalars;
  if (inputs.size() + outputs.size() > BUFFERS || scalars.size() > SCALARS || blocks.size() != 2)
    return ffi::Error::InvalidArgument("blackbox: too many arguments of a kernel");
  std::size_t used = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    auto buffer = inputs.get<ffi::AnyBuffer>(i);
    if (buffer.has_error()) return buffer.error();
    call.buffers[used++] = buffer->untyped_data();
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    auto buffer = outputs.get<ffi::AnyBuffer>(i);
    if (buffer.has_error()) return buffer.error();
    call.buffers[used++] = (*buffer)->untyped_data();
  }
  std::copy(scalars.begin(), scalars.end(), call.scalars);
  const Grid grid{{(unsigned)blocks[0], (unsigned)blocks[1], 1u}, (unsigned)threads, (unsigned)shared};
  return run(grid, call);
}

ffi::Error launch_on_gpu(void* stream, ffi::RemainingArgs inputs, ffi::RemainingRets outputs, std::string_view text,
                         std::string_view kernel, ffi::Span<const std::int64_t> blocks, std::int64_t threads,
                         std::int64_t shared, ffi::Span<const std::int64_t> scalars) {
  return launch(inputs, outputs, blocks, threads, shared, scalars, [&](const Grid& grid, bb_call& call) {
    return on_gpu(stream, std::string(text), std::string(kernel), grid, call);
  });
}

ffi::Error launch_on_simulator(ffi::RemainingArgs inputs, ffi::RemainingRets outputs, std::string_view,
                               std::string_view kernel, ffi::Span<const std::int64_t> blocks, std::int64_t threads,
                               std::int64_t shared, ffi::Span<const std::int64_t> scalars) {
  return launch(inputs, outputs, blocks, threads, shared, scalars,
                [&](const Grid& grid, bb_call& call) { return on_simulator(std::string(kernel), grid, call); });
}

}  // namespace

#define BB_ENTRY extern "C" __attribute__((visibility("default")))

// The image stays the caller's, for as long as the process lives.
BB_ENTRY void bb_register_text(const char* text, const void* image) {
  std::lock_guard<std::mutex> guard(lock);
  texts()[text] = image;
}

BB_ENTRY void bb_register_simulator(void* entry) {
  std::lock_guard<std::mutex> guard(lock);
  simulator = reinterpret_cast<Simulate>(entry);
}

BB_ENTRY XLA_FFI_Error* bb_launch_grid(XLA_FFI_CallFrame* call_frame);
BB_ENTRY XLA_FFI_Error* bb_launch_simulated(XLA_FFI_CallFrame* call_frame);

#define BB_ATTRIBUTES                         \
  .RemainingArgs()                            \
      .RemainingRets()                        \
      .Attr<std::string_view>("text")         \
      .Attr<std::string_view>("kernel")       \
      .Attr<ffi::Span<const std::int64_t>>("blocks") \
      .Attr<std::int64_t>("threads")          \
      .Attr<std::int64_t>("shared")           \
      .Attr<ffi::Span<const std::int64_t>>("scalars")

XLA_FFI_DEFINE_HANDLER_SYMBOL(bb_launch_grid, launch_on_gpu,
                              ffi::Ffi::Bind().Ctx<ffi::PlatformStream<void*>>() BB_ATTRIBUTES);
XLA_FFI_DEFINE_HANDLER_SYMBOL(bb_launch_simulated, launch_on_simulator, ffi::Ffi::Bind() BB_ATTRIBUTES);
