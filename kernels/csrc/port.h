// What the kernels' text needs of a compiler: nvcc and NVRTC for a GPU, any C++17 compiler for a CPU.
//
// Float operations that must give the same bits everywhere are written as BB_ADD, BB_MUL, BB_FMA, BB_SQRT and BB_DIV:
// each is rounded once, to nearest, and none is ever contracted with another. On a GPU they are intrinsics; a host
// compiler keeps to it with -ffp-contract=off.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)

typedef unsigned int bb_u32;
typedef unsigned long long bb_u64;
#define BB_FUNCTION __device__ __forceinline__
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
#define BB_ADD(a, b) ((a) + (b))
#define BB_MUL(a, b) ((a) * (b))
#define BB_FMA(a, b, c) std::fma((a), (b), (c))
#define BB_SQRT(a) std::sqrt(a)
#define BB_DIV(a, b) ((a) / (b))
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

#endif
