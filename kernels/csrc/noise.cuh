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

// The logarithm of x in (0, 1]; coefficients and their source are in kernels/spec.py.
BB_FUNCTION float bb_log(float x) {
  const bb_u32 bits = BB_BITS_OF_FLOAT(x);
  float m = BB_FLOAT_OF_BITS((bits & 0x7FFFFFu) | 0x3F800000u);  // [1, 2)
  const int large = m > 1.41421354f;
  m = large ? BB_MUL(m, 0.5f) : m;
  const float e = (float)((int)(bits >> 23) - 127 + large);
  const float t = BB_ADD(m, -1.0f), z = BB_MUL(t, t);
  float p = 7.0376836292e-2f;
  p = BB_FMA(p, t, -1.1514610310e-1f);
  p = BB_FMA(p, t, 1.1676998740e-1f);
  p = BB_FMA(p, t, -1.2420140846e-1f);
  p = BB_FMA(p, t, 1.4249322787e-1f);
  p = BB_FMA(p, t, -1.6668057665e-1f);
  p = BB_FMA(p, t, 2.0000714765e-1f);
  p = BB_FMA(p, t, -2.4999993993e-1f);
  p = BB_FMA(p, t, 3.3333331174e-1f);
  float y = BB_MUL(BB_MUL(p, t), z);
  y = BB_FMA(e, -2.12194440e-4f, y);
  y = BB_FMA(z, -0.5f, y);
  return BB_FMA(e, 0.693359375f, BB_ADD(t, y));
}

// Sine and cosine of 2 pi u; the quadrant is split off before pi enters, so zeros stay accurate.
BB_FUNCTION void bb_sin_cos_2pi(float u, float& sine, float& cosine) {
  const float q = BB_MUL(u, 4.0f);
  const int k = (int)BB_ADD(q, 0.5f);
  const float r = BB_MUL(BB_ADD(q, -(float)k), 1.57079637f), z = BB_MUL(r, r);
  float s = 2.7557314297e-6f;
  s = BB_FMA(s, z, -1.9841270114e-4f);
  s = BB_FMA(s, z, 8.3333337680e-3f);
  s = BB_FMA(s, z, -1.6666667163e-1f);
  s = BB_FMA(BB_MUL(s, z), r, r);
  float c = 2.4801587642e-5f;
  c = BB_FMA(c, z, -1.3888889225e-3f);
  c = BB_FMA(c, z, 4.1666667908e-2f);
  c = BB_FMA(c, z, -0.5f);
  c = BB_FMA(c, z, 1.0f);
  const bb_u32 swapped = (bb_u32)-(k & 1), sine_bits = BB_BITS_OF_FLOAT(s), cosine_bits = BB_BITS_OF_FLOAT(c);
  const bb_u32 exchange = (sine_bits ^ cosine_bits) & swapped;
  // Negation flips the sign bit.
  sine = BB_FLOAT_OF_BITS((sine_bits ^ exchange) ^ ((bb_u32)(k & 2) << 30));
  cosine = BB_FLOAT_OF_BITS((cosine_bits ^ exchange) ^ ((bb_u32)((k + 1) & 2) << 30));
}

// Two standard normal numbers of two words (Box and Muller).
BB_FUNCTION void bb_normal(bb_u32 a, bb_u32 b, float& first, float& second) {
  const float radius = BB_SQRT(BB_MUL(-2.0f, bb_log(bb_unit(a))));
  float sine, cosine;
  bb_sin_cos_2pi(bb_unit(b), sine, cosine);
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
