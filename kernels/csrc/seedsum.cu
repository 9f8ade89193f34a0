// Weighted sums of members' centered noise of one stream (kernels/spec.py, "Sums").
//
// buffers   keys (streams, 2) u32, weights (sums, terms) f32, members (sums, terms) u32, base (1 or sums, size) f32;
//           out (sums, size) f32, or with one block row for each chunk (sums, chunks, size) f32: the chunks' sums
// scalars   stream, size, sums, terms, terms of a chunk, floats from one row of base to the next (0 if there is one),
//           whether chunks are split among block rows
// A thread owns values of one sum, which stay in its registers over all terms. Few and short sums are split by chunks,
// whose sums bb_seedsum_total adds in order: the bits are the same.
#include "kinds.cuh"

template <int KIND>
BB_FUNCTION void bb_sum_noise(const bb_call& call) {
  const bb_u32 *key = (const bb_u32*)call.buffers[0] + 2 * call.scalars[0], *members = (const bb_u32*)call.buffers[2];
  const float *weights = (const float*)call.buffers[1], *base = (const float*)call.buffers[3];
  float* out = (float*)call.buffers[4];
  const long long size = call.scalars[1], sums = call.scalars[2], terms = call.scalars[3], chunk = call.scalars[4];
  const bool split = call.scalars[6] != 0, by_fours = size % 4 == 0 && bb_is_aligned(out, 16);
  constexpr int VALUES = bb_values_per_block(KIND), OWN = bb_values_per_thread(KIND);
  [[maybe_unused]] constexpr int TERMS = OWN == 4 ? 2 : 1;  // at once, to fill the pipelines
  const bb_u64 blocks = ((bb_u64)size + VALUES - 1) / VALUES;
  const bb_u32 parts = split ? (bb_u32)((terms + chunk - 1) / chunk) : 1u;
  for (bb_u32 row = blockIdx.y; row < (bb_u32)sums * parts; row += gridDim.y) {
    const long long q = row / parts, begin = row % parts * chunk;
    const long long end = split && begin + chunk < terms ? begin + chunk : terms;
    const long long step = (long long)gridDim.x * blockDim.x * OWN;
    for (long long from = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * OWN; from < size; from += step) {
      float total[OWN];
#pragma unroll
      for (int k = 0; k < OWN; ++k) total[k] = !split && from + k < size ? base[q * call.scalars[5] + from + k] : 0.0f;
      for (long long first = begin; first < end; first += chunk) {
        const long long last = first + chunk < end ? first + chunk : end;
        float sum[OWN];
#pragma unroll
        for (int k = 0; k < OWN; ++k) sum[k] = 0.0f;
#pragma unroll TERMS
        for (long long term = first; term < last; ++term) {
          const float weight = weights[q * terms + term];
          float values[OWN];
          const bb_words words = bb_block((bb_u64)members[q * terms + term] * blocks + (bb_u64)from / VALUES, key);
          bb_centered<KIND, OWN>(words, (int)(from & (VALUES - 1)), values);
#pragma unroll
          for (int k = 0; k < OWN; ++k) sum[k] = BB_ADD(sum[k], BB_MUL(weight, values[k]));
        }
#pragma unroll
        for (int k = 0; k < OWN; ++k) total[k] = split ? sum[k] : BB_ADD(total[k], sum[k]);
      }
      float* target = out + (long long)row * size + from;
#pragma unroll
      for (int k = 0; k < OWN; k += 4) {
        if (by_fours && from + k < size) {
          BB_STORE_4(target + k, total[k], total[k + 1], total[k + 2], total[k + 3]);
          continue;
        }
#pragma unroll
        for (int c = k; c < k + 4; ++c)
          if (from + c < size) target[c] = total[c];
      }
    }
  }
}

BB_KERNEL(bb_seedsum_normal, 256, 2) { bb_sum_noise<BB_NORMAL>(call); }
BB_KERNEL(bb_seedsum_uniform, 256, 2) { bb_sum_noise<BB_UNIFORM>(call); }
BB_KERNEL(bb_seedsum_sign, 256, 2) { bb_sum_noise<BB_SIGN>(call); }
BB_KERNEL(bb_seedsum_binom8, 256, 2) { bb_sum_noise<BB_BINOM8>(call); }
BB_KERNEL(bb_seedsum_normal_fast, 256, 2) { bb_sum_noise<BB_NORMAL_FAST>(call); }

// The chunks' sums added to the base in order.
// buffers   base (1 or sums, size) f32, parts (sums, chunks, size) f32; out (sums, size) f32
// scalars   size, sums, chunks, floats from one row of base to the next (0 if there is one)
BB_KERNEL(bb_seedsum_total, 256) {
  const float *base = (const float*)call.buffers[0], *parts = (const float*)call.buffers[1];
  float* out = (float*)call.buffers[2];
  const long long size = call.scalars[0], sums = call.scalars[1], chunks = call.scalars[2];
  const long long begin = (long long)blockIdx.x * blockDim.x + threadIdx.x, step = (long long)gridDim.x * blockDim.x;
  for (long long q = blockIdx.y; q < sums; q += gridDim.y)
    for (long long at = begin; at < size; at += step) {
      float total = base[q * call.scalars[3] + at];
      for (long long c = 0; c < chunks; ++c) total = BB_ADD(total, parts[(q * chunks + c) * size + at]);
      out[q * size + at] = total;
    }
}
