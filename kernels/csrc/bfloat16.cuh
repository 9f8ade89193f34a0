// Numbers of 16 bits, the upper half of a float32, and loads and stores of four numbers at once.
#pragma once
#include "port.h"

struct bb_bf16 {
  unsigned short bits;
};

BB_FUNCTION float bb_widened(bb_bf16 value) { return BB_FLOAT_OF_BITS((bb_u32)value.bits << 16); }

// To nearest, half to even; what is no number has one pattern for each sign.
BB_FUNCTION bb_bf16 bb_rounded(float value) {
  const bb_u32 bits = BB_BITS_OF_FLOAT(value);
  const bb_u32 nearest = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16, no_number = (bits >> 16 & 0x8000u) | 0x7FC0u;
  return {(unsigned short)((bits & 0x7FFFFFFFu) > 0x7F800000u ? no_number : nearest)};
}

// Two, the first in the lower half.
BB_FUNCTION bb_u32 bb_rounded(float low, float high) {
  return bb_rounded(low).bits | (bb_u32)bb_rounded(high).bits << 16;
}

// COUNT numbers that lie at a multiple of their size.
template <class T, int COUNT>
struct alignas(sizeof(T) * COUNT) bb_group {
  T values[COUNT];
};
