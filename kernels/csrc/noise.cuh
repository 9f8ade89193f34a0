// Noise specification 1 (kernels/spec.py): Philox4x32-10 words and what each kind of noise makes of them.
//
// Every function here but bb_normal_fast is exact: the same bits from NumPy (kernels/ref), from a CPU and a GPU.
#pragma once
#include "port.h"

struct bb_words {
  bb_u32 w[4];
};

// Philox4x32-10 (Salmon et al. 2011) of the counter (c0, c1, c2, c3) under the key (k0, k1).
BB_FUNCTION bb_words bb_philox_of(bb_u32 c0, bb_u32 c1, bb_u32 c2, bb_u32 c3, bb_u32 k0, bb_u32 k1) {
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

// The same of the counter (low, high, k0, k1).
BB_FUNCTION bb_words bb_philox(bb_u32 low, bb_u32 high, bb_u32 k0, bb_u32 k1) {
  return bb_philox_of(low, high, k0, k1, k0, k1);
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

// The numbers of bb_normal to within 1e-5, by the special function units; where there are none, bb_normal itself.
//
// PTX allows an error of 2^-22 in the binary logarithm (absolute from 1/2 to 1, relative below), 2^-23 in the root
// (relative), 2^-20.5 in sine and cosine (absolute). With d = 1 - u, which is exact, and the radius r, at most 5.77:
//   d < 2^-8    the logarithm could be wrong altogether; 2 d + d^2 lacks at most d^2 / 3 of the square: 2.3e-7
//   u > 1/2     the square is wrong by 2 ln 2 2^-22 and r >= 0.088: 1.9e-6, falling with 1 / r
//   u <= 1/2    the square is wrong by 2^-22 of it: 2^-23 r
//   angle       by float32's 2 pi and the rounding of the product: 2.1e-7 r
// So the largest r is the worst: 5.77 (2^-23 + 2^-23 + 2^-20.5 + 2.1e-7 + 2^-23 for roundings) = 7.2e-6, and bb_normal is
// itself wrong by up to 0.7e-6.
BB_FUNCTION void bb_normal_fast(bb_u32 a, bb_u32 b, float& first, float& second) {
#ifdef BB_LOG2_APPROX
  const float u = bb_unit(a), d = BB_ADD(1.0f, -u);
  const float square = d < 0.00390625f ? BB_FMA(d, d, BB_ADD(d, d)) : BB_MUL(BB_LOG2_APPROX(u), -1.38629436f);
  const float radius = BB_SQRT_APPROX(square);
  // Half a turn and more is taken as negative: the word read as a signed number.
  const float angle = BB_MUL((float)(int)((b >> 9 << 9) | 0x100u), 1.46291811e-9f);
  first = BB_MUL(radius, BB_COS_APPROX(angle));
  second = BB_MUL(radius, BB_SIN_APPROX(angle));
#else
  bb_normal(a, b, first, second);
#endif
}

// Counts of ones, 0 to 8, in the four bytes of a word.
BB_FUNCTION bb_u32 bb_popcounts(bb_u32 v) {
  v = v - ((v >> 1) & 0x55555555u);
  v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
  return (v + (v >> 4)) & 0x0F0F0F0Fu;
}

// A fair sign of one bit of a word: 1 for 0, -1 for 1.
BB_FUNCTION float bb_sign(bb_u32 word, int bit) { return BB_FLOAT_OF_BITS(0x3F800000u | ((word >> bit) & 1u) << 31); }
