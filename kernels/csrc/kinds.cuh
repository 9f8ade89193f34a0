// Values of one block of noise, a few at a time: what a GPU's threads make in registers.
#pragma once
#include "noise.cuh"

enum bb_kind { BB_NORMAL, BB_UNIFORM, BB_SIGN, BB_BINOM8, BB_NORMAL_FAST, BB_INT8_SIGN };  // as in kernels/native.py

BB_FUNCTION constexpr int bb_values_per_block(int kind) {
  return kind == BB_SIGN || kind == BB_INT8_SIGN ? 128 : kind == BB_BINOM8 ? 16 : 4;
}

// How many values of a block a thread of a sum makes: enough to use what Philox gives, few enough for registers.
BB_FUNCTION constexpr int bb_values_per_thread(int kind) { return kind == BB_SIGN ? 32 : bb_values_per_block(kind); }

BB_FUNCTION bb_words bb_block(bb_u64 block, const bb_u32* key) {
  return bb_philox((bb_u32)block, (bb_u32)(block >> 32), key[0], key[1]);
}

// COUNT centered values of a block, from number `from` on, a multiple of COUNT: 4, or what a thread of a sum makes.
template <int KIND, int COUNT>
BB_FUNCTION void bb_centered(const bb_words& words, int from, float* out) {
  if constexpr (KIND == BB_NORMAL) {
    bb_normal(words.w[0], words.w[1], out[0], out[1]);
    bb_normal(words.w[2], words.w[3], out[2], out[3]);
  } else if constexpr (KIND == BB_NORMAL_FAST) {
    bb_normal_fast(words.w[0], words.w[1], out[0], out[1]);
    bb_normal_fast(words.w[2], words.w[3], out[2], out[3]);
  } else if constexpr (KIND == BB_UNIFORM) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = BB_ADD(bb_unit(words.w[i]), -0.5f);
  } else if constexpr (KIND == BB_SIGN) {
    const int which = from >> 5;  // chosen without an index, which would put the words into memory
    const bb_u32 low = which & 1 ? words.w[1] : words.w[0], high = which & 1 ? words.w[3] : words.w[2];
    const bb_u32 word = which & 2 ? high : low;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) out[i] = bb_sign(word, (from & 31) + i);
  } else {
    constexpr int WORDS = COUNT / 4;
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
      const int which = WORDS == 4 ? w : from >> 2;
      const bb_u32 low = which & 1 ? words.w[1] : words.w[0], high = which & 1 ? words.w[3] : words.w[2];
      const bb_u32 counts = bb_popcounts(which & 2 ? high : low);
#pragma unroll
      for (int byte = 0; byte < 4; ++byte) out[4 * w + byte] = (float)((int)(counts >> (8 * byte) & 15u) - 4);
    }
  }
}
