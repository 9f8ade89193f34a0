// Noise specification 1 (kernels/spec.py): Philox4x32-10 words and what each kind of noise makes of them.
//
// Every function here is exact: the same bits from NumPy (kernels/ref.py), from a CPU and from a GPU.
#pragma once
#include "port.h"

struct bb_words {
  bb_u32 w[4];
};

// Philox4x32-10 (Salmon et al. 2011) of the counter (low, high, k0, k1) under the key (k0, k1).
BB_FUNCTION bb_words bb_philox(bb_u32 low, bb_u32 high, bb_u32 k0, bb_u32 k1) {
  bb_u32 c0 = low, c1 = high, c2 = k0, c3 = k1;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const bb_u64 p0 = (bb_u64)0xD2511F53u * c0, p1 = (bb_u64)0xCD9E8D57u * c2;
    c0 = (bb_u32)(p1 >> 32) ^ c1 ^ k0;
    c1 = (bb_u32)p1;
    c2 = (bb_u32)(p0 >> 32) ^ c3 ^ k1;
    c3 = (bb_u32)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Odd multiples of 2^-24 in (0, 1).
BB_FUNCTION float bb_unit(bb_u32 word) { return BB_MUL((float)(int)((word >> 9 << 1) | 1u), 5.9604644775390625e-8f); }

// -2 log(u) of u in (0, 1); the coefficients here and below are those of kernels/spec.py.
BB_FUNCTION float bb_minus_two_log(float u) {
  const bb_u32 bits = BB_BITS_OF_FLOAT(u);
  const bb_u32 exponent = (bits - 0x3F2AAAABu) & 0xFF800000u;  // where it lies in the bits
  const float m = BB_FLOAT_OF_BITS(bits - exponent);           // [2/3, 4/3)
  const float s = BB_FMA(m, -2.0f, 2.0f);
  float p = 5.8544887e-4f;
  p = BB_FMA(p, s, 1.1983648e-3f);
  p = BB_FMA(p, s, 2.1505123e-3f);
  p = BB_FMA(p, s, 5.1345e-3f);
  p = BB_FMA(p, s, 1.2518124e-2f);
  p = BB_FMA(p, s, 3.125812e-2f);
  p = BB_FMA(p, s, 8.333193e-2f);
  p = BB_FMA(p, s, 2.4999987e-1f);
  return BB_FMA((float)(int)exponent, -1.6525917e-7f, BB_FMA(p, BB_MUL(s, s), s));
}

// Sine and cosine of 2 pi times the uniform number of a word: quarter turns are split off, exactly.
BB_FUNCTION void bb_sin_cos_2pi(bb_u32 word, float& sine, float& cosine) {
  const bb_u32 quarters = word + 0x20000000u;  // two bits for the nearest
  const float x = BB_MUL((float)(int)((word >> 9 << 11) | 0x400u), 2.3283064365386963e-10f), z = BB_MUL(x, x);
  float s = -4.6025137e-3f;
  s = BB_FMA(s, z, 7.968034e-2f);
  s = BB_FMA(s, z, -6.459635e-1f);
  s = BB_FMA(s, z, -4.879786e-8f);
  s = BB_FMA(x, 1.5707964f, BB_MUL(s, x));
  float c = 8.944864e-4f;
  c = BB_FMA(c, z, -2.085559e-2f);
  c = BB_FMA(c, z, 2.5366855e-1f);
  c = BB_FMA(c, z, -1.2337005f);
  c = BB_FMA(c, z, 1.0f);
  const bb_u32 sine_bits = BB_BITS_OF_FLOAT(s), cosine_bits = BB_BITS_OF_FLOAT(c);
  const bb_u32 exchange = (sine_bits ^ cosine_bits) & (0u - (quarters >> 30 & 1u));
  // Negation flips the sign bit.
  sine = BB_FLOAT_OF_BITS((sine_bits ^ exchange) ^ (quarters & 0x80000000u));
  cosine = BB_FLOAT_OF_BITS((cosine_bits ^ exchange) ^ ((quarters + 0x40000000u) & 0x80000000u));
}

// Two standard normal numbers of two words (Box and Muller).
BB_FUNCTION void bb_normal(bb_u32 a, bb_u32 b, float& first, float& second) {
  const float radius = BB_SQRT(bb_minus_two_log(bb_unit(a)));
  float sine, cosine;
  bb_sin_cos_2pi(b, sine, cosine);
  first = BB_MUL(radius, cosine);
  second = BB_MUL(radius, sine);
}

// Counts of ones, 0 to 8, in the four bytes of a word.
BB_FUNCTION bb_u32 bb_popcounts(bb_u32 v) {
  v = v - ((v >> 1) & 0x55555555u);
  v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
  return (v + (v >> 4)) & 0x0F0F0F0Fu;
}

// A fair sign of one bit of a word: 1 for 0, -1 for 1.
BB_FUNCTION float bb_sign(bb_u32 word, int bit) { return BB_FLOAT_OF_BITS(0x3F800000u | ((word >> bit) & 1u) << 31); }
