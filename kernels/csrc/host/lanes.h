// Noise of sixteen blocks side by side: loops over lanes that a compiler vectorizes.
#pragma once
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

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

#if defined(__AVX2__)
// Philox's words in the lower halves of 64 bits, of which the upper ones may hold anything: products of halves need no
// word moved, and what they leave above is cut off at the end. Compilers take a loop over 32 bits apart and put it
// together in every round.
#if defined(__AVX512F__)
typedef bb_u64 Wide __attribute__((vector_size(64)));
inline Wide product(Wide word, bb_u32 multiplier) {
  return (Wide)_mm512_mul_epu32((__m512i)word, _mm512_set1_epi64(multiplier));
}
#else
typedef bb_u64 Wide __attribute__((vector_size(32)));
inline Wide product(Wide word, bb_u32 multiplier) {
  return (Wide)_mm256_mul_epu32((__m256i)word, _mm256_set1_epi64x(multiplier));
}
#endif
// Of the lanes' words a chain has the even ones or the odd ones of a vector's worth.
constexpr int CHAINS = 2 * LANES * sizeof(bb_u32) / sizeof(Wide), WIDTH_OF_CHAIN = LANES / CHAINS;

// As bb_philox, with keys of each chain or of all.
template <int KEYS>
inline Words rounds(Wide (&c)[4][CHAINS], Wide (&key)[2][KEYS]) {
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < CHAINS; ++i) {
      const Wide p0 = product(c[0][i], 0xD2511F53u), p1 = product(c[2][i], 0xCD9E8D57u);
      c[0][i] = (p1 >> 32) ^ c[1][i] ^ key[0][i % KEYS];
      c[1][i] = p1;
      c[2][i] = (p0 >> 32) ^ c[3][i] ^ key[1][i % KEYS];
      c[3][i] = p0;
    }
    for (int i = 0; i < KEYS; ++i) key[0][i] += 0x9E3779B9u, key[1][i] += 0xBB67AE85u;
  }
  Words out;
  for (int q = 0; q < 4; ++q)
    for (int i = 0; i < CHAINS; i += 2) {
      const Wide both = (c[q][i] & 0xFFFFFFFFu) | c[q][i + 1] << 32;
      std::memcpy(out.w[q] + i * WIDTH_OF_CHAIN, &both, sizeof both);
    }
  return out;
}

inline void parted(const bb_u32 (&words)[LANES], Wide (&out)[CHAINS]) {
  std::memcpy(out, words, sizeof words);
  for (int i = CHAINS - 2; i >= 0; i -= 2) out[i + 1] = out[i / 2] >> 32, out[i] = out[i / 2];
}

inline Words philox(const Lanes& lanes) {
  Wide c[4][CHAINS], key[2][CHAINS];
  parted(lanes.low, c[0]);
  parted(lanes.high, c[1]);
  parted(lanes.k0, c[2]);
  parted(lanes.k1, c[3]);
  std::memcpy(key, c[2], sizeof key);
  return rounds(c, key);
}

// Blocks of one stream that follow each other.
inline Words philox(bb_u64 first, bb_u32 k0, bb_u32 k1) {
  Wide c[4][CHAINS], key[2][1] = {{Wide{} + k0}, {Wide{} + k1}};
  for (int i = 0; i < CHAINS; ++i) {
    for (int l = 0; l < WIDTH_OF_CHAIN; ++l) c[0][i][l] = first + (2 * (i / 2 * WIDTH_OF_CHAIN + l) + i % 2);
    c[1][i] = c[0][i] >> 32;
    c[2][i] = key[0][0];
    c[3][i] = key[1][0];
  }
  return rounds(c, key);
}
#else
inline Words philox(const Lanes& lanes) {
  Words out;
  for (int l = 0; l < LANES; ++l) {
    const bb_words words = bb_philox(lanes.low[l], lanes.high[l], lanes.k0[l], lanes.k1[l]);
    for (int q = 0; q < 4; ++q) out.w[q][l] = words.w[q];
  }
  return out;
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
#endif

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

}  // namespace
