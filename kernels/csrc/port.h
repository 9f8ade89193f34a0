// What the kernels' text needs of a compiler: nvcc and NVRTC for a GPU, any C++17 compiler for a CPU, where BB_SIMULATOR
// runs the grids of a GPU thread by thread (host/simulator.h).
//
// Float operations that must give the same bits everywhere are written as BB_ADD, BB_MUL, BB_FMA, BB_SQRT and BB_DIV:
// each is rounded once, to nearest, and none is ever contracted with another. On a GPU they are intrinsics; a host
// compiler keeps to it with -ffp-contract=off.
#pragma once

// What every kernel is called with: pointers to its inputs, then to its outputs, and whole numbers.
struct bb_call {
  void* buffers[12];
  long long scalars[20];
};

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)

typedef unsigned int bb_u32;
typedef unsigned long long bb_u64;
#define BB_FUNCTION __device__ __forceinline__
#define BB_METHOD static __device__ __forceinline__
// The name; threads of a block at most; blocks that a multiprocessor shall hold at once, which bounds registers.
#define BB_KERNEL(name, ...) \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const __grid_constant__ bb_call call)
#define BB_SHARED(type, name)                                 \
  extern __shared__ __align__(16) unsigned char bb_shared[]; \
  type* name = reinterpret_cast<type*>(bb_shared)
#define BB_ADD(a, b) __fadd_rn((a), (b))
#define BB_MUL(a, b) __fmul_rn((a), (b))
#define BB_FMA(a, b, c) __fmaf_rn((a), (b), (c))
#define BB_SQRT(a) __fsqrt_rn(a)
#define BB_DIV(a, b) __fdiv_rn((a), (b))
// The special function units: fast, approximate, and nowhere but on a GPU.
#define BB_LOG2_APPROX(a) bb_log2_approx(a)
#define BB_SQRT_APPROX(a) bb_sqrt_approx(a)
#define BB_SIN_APPROX(a) bb_sin_approx(a)
#define BB_COS_APPROX(a) bb_cos_approx(a)
// Two words, or four floats, at a multiple of their size, in one store: compilers do not always find it.
#define BB_STORE_2(address, a, b) asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(address), "r"(a), "r"(b) : "memory")
#define BB_STORE_4(address, a, b, c, d)                              \
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(address), "f"(a), "f"(b), "f"(c), "f"(d) : "memory")
// Asks for a line of memory in the second cache; nothing else depends on it.
#define BB_PREFETCH(address) asm volatile("prefetch.global.L2 [%0];" ::"l"(address))
#define BB_FLOAT_OF_BITS(u) __uint_as_float(u)
#define BB_BITS_OF_FLOAT(f) __float_as_uint(f)
BB_FUNCTION float bb_log2_approx(float a) {
  float value;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(a));
  return value;
}
BB_FUNCTION float bb_sqrt_approx(float a) {
  float value;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(a));
  return value;
}
BB_FUNCTION float bb_sin_approx(float a) {
  float value;
  asm("sin.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(a));
  return value;
}
BB_FUNCTION float bb_cos_approx(float a) {
  float value;
  asm("cos.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(a));
  return value;
}

#else

#include <cmath>
#include <cstdint>
#include <cstring>

typedef std::uint32_t bb_u32;
typedef std::uint64_t bb_u64;
#define BB_FUNCTION static inline
#define BB_METHOD static inline
#define BB_ADD(a, b) ((a) + (b))
#define BB_MUL(a, b) ((a) * (b))
#define BB_FMA(a, b, c) std::fma((a), (b), (c))
#define BB_SQRT(a) std::sqrt(a)
#define BB_DIV(a, b) ((a) / (b))
#define BB_STORE_2(address, a, b) bb_store<bb_u32>((address), {(a), (b)})
#define BB_STORE_4(address, a, b, c, d) bb_store<float>((address), {(a), (b), (c), (d)})
#define BB_PREFETCH(address) ((void)(address))
template <class T, int COUNT>
static inline void bb_store(void* address, const T (&values)[COUNT]) {
  struct alignas(sizeof values) Group {
    T values[COUNT];
  };
  for (int i = 0; i < COUNT; ++i) ((Group*)address)->values[i] = values[i];
}
static inline float BB_FLOAT_OF_BITS(bb_u32 bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
static inline bb_u32 BB_BITS_OF_FLOAT(float value) {
  bb_u32 bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

#if defined(BB_SIMULATOR)
#include "host/simulator.h"
#endif

#endif

BB_FUNCTION bool bb_is_aligned(const void* address, int bytes) { return (bb_u64)address % bytes == 0; }
