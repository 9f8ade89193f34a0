// Noise of sixteen blocks side by side: loops over lanes that a compiler vectorizes.
#pragma once
#include <type_traits>

#include "../kinds.cuh"

#define BB_ENTRY extern "C" __attribute__((visibility("default"))) void

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bytes of words are read through memory");

namespace {

constexpr int LANES = 16;

template <int KIND>
constexpr int VALUES = bb_values_per_block(KIND);
template <int KIND>
using Value = std::conditional_t<KIND == BB_INT8_SIGN, std::int8_t, float>;

// What LANES blocks are made of, and where their values go.
struct Lanes {
  bb_u32 low[LANES], high[LANES], k0[LANES], k1[LANES];
  void* target[LANES];
  int count[LANES];
};

struct Words {
  bb_u32 w[4][LANES];
};

inline Words philox(const Lanes& lanes) {
  Words out;
  for (int l = 0; l < LANES; ++l) {
    const bb_words words = bb_philox(lanes.low[l], lanes.high[l], lanes.k0[l], lanes.k1[l]);
    for (int q = 0; q < 4; ++q) out.w[q][l] = words.w[q];
  }
  return out;
}

// Values of LANES blocks; CENTERED are those that are whole numbers or symmetric, before they get unit variance.
template <int KIND, bool CENTERED>
inline void values(const Words& words, Value<KIND> (*out)[VALUES<KIND>]) {
  if constexpr (KIND == BB_NORMAL) {
    float pair[4][LANES];
    for (int half = 0; half < 4; half += 2)
      for (int l = 0; l < LANES; ++l) bb_normal(words.w[half][l], words.w[half + 1][l], pair[half][l], pair[half + 1][l]);
    for (int l = 0; l < LANES; ++l)
      for (int q = 0; q < 4; ++q) out[l][q] = pair[q][l];
  } else if constexpr (KIND == BB_UNIFORM) {
    for (int l = 0; l < LANES; ++l)
      for (int q = 0; q < 4; ++q) out[l][q] = CENTERED ? BB_ADD(bb_unit(words.w[q][l]), -0.5f) : bb_unit(words.w[q][l]);
  } else if constexpr (KIND == BB_SIGN) {
    for (int l = 0; l < LANES; ++l)
      for (int q = 0; q < 4; ++q)
        for (int bit = 0; bit < 32; ++bit) out[l][32 * q + bit] = bb_sign(words.w[q][l], bit);
  } else if constexpr (KIND == BB_INT8_SIGN) {
    for (int l = 0; l < LANES; ++l)
      for (int q = 0; q < 4; ++q)
        for (int bit = 0; bit < 32; ++bit) out[l][32 * q + bit] = (std::int8_t)(1 - 2 * (int)(words.w[q][l] >> bit & 1u));
  } else {
    bb_u32 counts[4][LANES];
    for (int q = 0; q < 4; ++q)
      for (int l = 0; l < LANES; ++l) counts[q][l] = bb_popcounts(words.w[q][l]);
    // Ordered by block in two steps of two halves each, which a compiler does with few shuffles.
    bb_u64 half[2][LANES], ordered[2 * LANES];
    for (int h = 0; h < 2; ++h)
      for (int l = 0; l < LANES; ++l) half[h][l] = (bb_u64)counts[2 * h][l] | (bb_u64)counts[2 * h + 1][l] << 32;
    for (int l = 0; l < LANES; ++l) ordered[2 * l] = half[0][l], ordered[2 * l + 1] = half[1][l];
    signed char bytes[16 * LANES];
    std::memcpy(bytes, ordered, sizeof bytes);
    float* flat = &out[0][0];
    for (int i = 0; i < 16 * LANES; ++i) {
      const float centered = (float)((int)bytes[i] - 4);
      flat[i] = CENTERED ? centered : BB_MUL(centered, 0.707106769f);
    }
  }
}

// Blocks of one stream that follow each other.
inline Words philox(bb_u64 first, bb_u32 k0, bb_u32 k1) {
  Words out;
  for (int l = 0; l < LANES; ++l) {
    const bb_words words = bb_philox((bb_u32)(first + l), (bb_u32)((first + l) >> 32), k0, k1);
    for (int q = 0; q < 4; ++q) out.w[q][l] = words.w[q];
  }
  return out;
}

}  // namespace
