// Noise of members of one stream, written out.
//
// buffers   key (2,) u32, members (rows,) u32; out (rows, size) f32, or i8
// scalars   rows, size, whether centered
// A thread makes four values that follow one another, Philox for each four: that costs less than scattered writing.
#include "kinds.cuh"

template <int KIND, class VALUE = float>
BB_FUNCTION void bb_write_noise(const bb_call& call) {
  const bb_u32 *key = (const bb_u32*)call.buffers[0], *members = (const bb_u32*)call.buffers[1];
  VALUE* out = (VALUE*)call.buffers[2];
  const long long rows = call.scalars[0], size = call.scalars[1];
  const bool centered = call.scalars[2] != 0;
  constexpr int VALUES = bb_values_per_block(KIND);
  const bb_u64 blocks = ((bb_u64)size + VALUES - 1) / VALUES;
  const bool by_fours = sizeof(VALUE) == 4 && size % 4 == 0 && bb_is_aligned(out, 16);
  const long long begin = (long long)blockIdx.x * blockDim.x + threadIdx.x, step = (long long)gridDim.x * blockDim.x;
  for (long long row = blockIdx.y; row < rows; row += gridDim.y)
    for (long long at = 4 * begin; at < size; at += 4 * step) {
      const bb_words words = bb_block((bb_u64)members[row] * blocks + (bb_u64)at / VALUES, key);
      float values[4];
      bb_centered<KIND, 4>(words, (int)(at & (VALUES - 1)), values);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (KIND == BB_UNIFORM && !centered) values[k] = bb_unit(words.w[k]);
        if (KIND == BB_BINOM8 && !centered) values[k] = BB_MUL(values[k], 0.707106769f);
      }
      VALUE* target = out + row * size + at;
      if (by_fours) {
        BB_STORE_4((void*)target, values[0], values[1], values[2], values[3]);
        continue;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (at + k < size) target[k] = (VALUE)values[k];
    }
}

BB_KERNEL(bb_noise_normal, 256) { bb_write_noise<BB_NORMAL>(call); }
BB_KERNEL(bb_noise_uniform, 256) { bb_write_noise<BB_UNIFORM>(call); }
BB_KERNEL(bb_noise_sign, 256) { bb_write_noise<BB_SIGN>(call); }
BB_KERNEL(bb_noise_binom8, 256) { bb_write_noise<BB_BINOM8>(call); }
BB_KERNEL(bb_noise_normal_fast, 256) { bb_write_noise<BB_NORMAL_FAST>(call); }
BB_KERNEL(bb_noise_int8_sign, 256) { bb_write_noise<BB_SIGN, signed char>(call); }
