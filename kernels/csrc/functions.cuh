// Functions of float32 numbers, each operation rounded as it is written: the same bits from NumPy (kernels/exact.py),
// from a CPU and from a GPU. Coefficients, their source and the accuracy are in kernels/exact.py.
#pragma once
#include "port.h"

// The whole number next to x in magnitude below 2^22, half to even: in the last bits of the sum with 1.5 * 2^23.
#define BB_ROUNDING 12582912.0f
BB_FUNCTION float bb_round(float x) { return BB_ADD(BB_ADD(x, BB_ROUNDING), -BB_ROUNDING); }

// Sine and cosine of x in radians. What is left of x beyond k quarter turns is exact before the low part of pi / 2.
BB_FUNCTION void bb_sin_cos(float x, float& sine, float& cosine) {
  const float sum = BB_ADD(BB_MUL(x, 0.636619747f), BB_ROUNDING), turns = BB_ADD(sum, -BB_ROUNDING);
  const bb_u32 k = BB_BITS_OF_FLOAT(sum);
  const float r = BB_FMA(-turns, -4.37113883e-8f, BB_FMA(-turns, 1.57079637f, x)), z = BB_MUL(r, r);
  float s = BB_FMA(-1.9515295891e-4f, z, 8.3321608736e-3f);
  s = BB_FMA(s, z, -1.6666654611e-1f);
  s = BB_FMA(BB_MUL(s, z), r, r);
  float c = BB_FMA(2.443315711809948e-5f, z, -1.388731625493765e-3f);
  c = BB_FMA(c, z, 4.166664568298827e-2f);
  c = BB_FMA(BB_MUL(z, z), c, BB_FMA(z, -0.5f, 1.0f));
  const bb_u32 exchange = (BB_BITS_OF_FLOAT(s) ^ BB_BITS_OF_FLOAT(c)) & (0u - (k & 1u));
  // Negation flips the sign bit.
  sine = BB_FLOAT_OF_BITS((BB_BITS_OF_FLOAT(s) ^ exchange) ^ (k & 2u) << 30);
  cosine = BB_FLOAT_OF_BITS((BB_BITS_OF_FLOAT(c) ^ exchange) ^ ((k + 1u) & 2u) << 30);
}

// A quotient of polynomials on [-8, 8], beyond which tanh is as good as constant.
BB_FUNCTION float bb_tanh(float x) {
  float y = x > 8.0f ? 8.0f : x;
  y = y < -8.0f ? -8.0f : y;
  const float z = BB_MUL(y, y);
  float p = BB_FMA(1.5230391e-8f, z, 2.1894642e-5f);
  p = BB_FMA(p, z, 3.571597e-3f);
  p = BB_FMA(p, z, 1.3444497e-1f);
  p = BB_FMA(p, z, 1.0f);
  float q = BB_FMA(8.5224355e-7f, z, 3.4112902e-4f);
  q = BB_FMA(q, z, 2.6164439e-2f);
  q = BB_FMA(q, z, 4.6777824e-1f);
  q = BB_FMA(q, z, 1.0f);
  return BB_DIV(BB_MUL(y, p), q);
}

BB_FUNCTION float bb_clip(float x, float bound) {
  const float y = x > bound ? bound : x;
  return y < -bound ? -bound : y;
}
