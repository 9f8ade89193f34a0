// Products with members' noise of low rank (kernels/spec.py, "Low rank").
#include "kinds.cuh"

enum { BB_DOT_SUMS = 64, BB_RANKS = 4 };  // sums as in kernels/spec.py; ranks for which x is read once

// As in kernels/spec.py.
struct bb_source {
  bb_u32 key[2], number, step, offsets[2];
};

BB_FUNCTION bool bb_same_noise(const bb_source& one, const bb_source& other) {
  return one.key[0] == other.key[0] && one.key[1] == other.key[1] && one.number == other.number &&
         one.offsets[0] == other.offsets[0] && one.offsets[1] == other.offsets[1];
}

// Values of a member's row from an offset on, by all threads of a block; each makes OWN of one block of noise.
template <int KIND, int OWN>
BB_FUNCTION void bb_draw(const bb_source& source, bb_u64 blocks, bb_u64 offset, long long count, float scale,
                         float* out) {
  constexpr int VALUES = bb_values_per_block(KIND);
  const bb_u64 first = offset / OWN * OWN;
  for (bb_u64 from = first + (bb_u64)threadIdx.x * OWN; from < offset + count; from += (bb_u64)blockDim.x * OWN) {
    float values[OWN];
    bb_centered<KIND, OWN>(bb_block(source.number * blocks + from / VALUES, source.key), (int)(from % VALUES), values);
#pragma unroll
    for (int k = 0; k < OWN; ++k)
      if (from + k >= offset && from + k < offset + count) out[from + k - offset] = BB_MUL(scale, values[k]);
  }
}

// Adds a tile of a row's dot products with some ranks of A into one of its sums.
template <int RANKS>
BB_FUNCTION void bb_add_products(const float* x, const float* a, int lane, int count, int rank, float* sums) {
  float total[RANKS];
#pragma unroll
  for (int r = 0; r < RANKS; ++r) total[r] = sums[r * BB_DOT_SUMS];
#pragma unroll 4
  for (int j = lane; j < count; j += BB_DOT_SUMS) {
    const float value = x[j];
#pragma unroll
    for (int r = 0; r < RANKS; ++r) total[r] = BB_ADD(total[r], BB_MUL(value, a[j * rank + r]));
  }
#pragma unroll
  for (int r = 0; r < RANKS; ++r) sums[r * BB_DOT_SUMS] = total[r];
}

// y + sum_r (step (x . A_r)) B_r for the rows of members.
//
// buffers   x (members or 1, rows, m) f32, y (members or 1, rows, n) f32, sources (members, 6) u32;
//           out (members, rows, n) f32, which may be y
// scalars   members, rows of each, m, n, rank, size of a member's noise, floats from one member to the next in x and in
//           y (0 if they share them), entries of a tile of either factor (a multiple of 64), rows at once
// A block owns two members, whose noise it makes once if their sources say so, and takes their rows some at a time: a
// tile of A in shared memory for the dot products of all of them, then a tile of B. Blocks along y share the rows.
template <int KIND>
BB_FUNCTION void bb_mix_lowrank(const bb_call& call) {
  const float *x = (const float*)call.buffers[0], *y = (const float*)call.buffers[1];
  const bb_source* sources = (const bb_source*)call.buffers[2];
  float* out = (float*)call.buffers[3];
  const long long members = call.scalars[0], rows = call.scalars[1], m = call.scalars[2], n = call.scalars[3];
  const long long x_step = call.scalars[6], y_step = call.scalars[7], entries = call.scalars[8];
  const int rank = (int)call.scalars[4], at_once = (int)call.scalars[9];
  const bb_u64 blocks = ((bb_u64)call.scalars[5] + bb_values_per_block(KIND) - 1) / bb_values_per_block(KIND);
  constexpr int OWN = bb_values_per_thread(KIND);
  BB_SHARED(float, tile);               // (entries, rank)
  float* sums = tile + entries * rank;  // (at_once, rank, BB_DOT_SUMS)
  for (long long pair = blockIdx.x; 2 * pair < members; pair += gridDim.x) {
    const long long last = 2 * pair + 2 < members ? 2 * pair + 2 : members;
    for (long long member = 2 * pair, next; member < last; member = next) {
      const bb_source source = sources[member];
      next = member + 1 < last && bb_same_noise(source, sources[member + 1]) ? last : member + 1;
      const long long end = (next - member) * rows;
      for (long long from = (long long)blockIdx.y * at_once; from < end; from += (long long)gridDim.y * at_once) {
        const int count = (int)(end - from < at_once ? end - from : at_once), lanes = count * BB_DOT_SUMS;
        for (int i = threadIdx.x; i < lanes * rank; i += blockDim.x) sums[i] = 0.0f;
        for (long long start = 0; start < m; start += entries) {
          const int used = (int)(m - start < entries ? m - start : entries);
          __syncthreads();  // the tile is read no more, and sums are zero
          bb_draw<KIND, OWN>(source, blocks, source.offsets[0] + (bb_u64)(start * rank), (long long)used * rank, 1.0f, tile);
          __syncthreads();
          for (int i = threadIdx.x; i < lanes; i += blockDim.x) {
            const int lane = i % BB_DOT_SUMS;
            const long long row = from + i / BB_DOT_SUMS;
            const float* own = x + (member + row / rows) * x_step + row % rows * m + start;
            float* total = sums + i / BB_DOT_SUMS * rank * BB_DOT_SUMS + lane;
            int r = 0;
            for (; r + BB_RANKS <= rank; r += BB_RANKS)
              bb_add_products<BB_RANKS>(own, tile + r, lane, used, rank, total + r * BB_DOT_SUMS);
            for (; r < rank; ++r) bb_add_products<1>(own, tile + r, lane, used, rank, total + r * BB_DOT_SUMS);
          }
        }
        for (int half = BB_DOT_SUMS / 2; half > 0; half /= 2) {
          __syncthreads();
          for (int i = threadIdx.x; i < count * rank * half; i += blockDim.x) {
            float* total = sums + i / half * BB_DOT_SUMS + i % half;
            total[0] = BB_ADD(total[0], total[half]);
          }
        }
        for (long long start = 0; start < n; start += entries) {
          const int used = (int)(n - start < entries ? n - start : entries);
          __syncthreads();
          bb_draw<KIND, OWN>(source, blocks, source.offsets[1] + (bb_u64)(start * rank), (long long)used * rank, 1.0f, tile);
          __syncthreads();
          for (int q = 0; q < count; ++q) {
            const long long own = member + (from + q) / rows, row = (from + q) % rows;
            const float step = BB_FLOAT_OF_BITS(sources[own].step);
            const float* before = y + own * y_step + row * n + start;
            float* after = out + (own * rows + row) * n + start;
            for (int i = threadIdx.x; i < used; i += blockDim.x) {
              float total = before[i];
              for (int r = 0; r < rank; ++r)
                total = BB_ADD(total, BB_MUL(BB_MUL(step, sums[(q * rank + r) * BB_DOT_SUMS]), tile[i * rank + r]));
              after[i] = total;
            }
          }
        }
        __syncthreads();  // the next rows begin with sums of zero
      }
    }
  }
}

BB_KERNEL(bb_lowrank_mix_normal, 256) { bb_mix_lowrank<BB_NORMAL>(call); }
BB_KERNEL(bb_lowrank_mix_uniform, 256) { bb_mix_lowrank<BB_UNIFORM>(call); }
BB_KERNEL(bb_lowrank_mix_sign, 256) { bb_mix_lowrank<BB_SIGN>(call); }
BB_KERNEL(bb_lowrank_mix_binom8, 256) { bb_mix_lowrank<BB_BINOM8>(call); }
BB_KERNEL(bb_lowrank_mix_normal_fast, 256) { bb_mix_lowrank<BB_NORMAL_FAST>(call); }

// One factor of each source, A with the step or B without.
//
// buffers   sources (rows, 6) u32; out (rows, count) f32
// scalars   rows, count, size of a member's noise, which factor
// Blocks along y own sources, and all blocks along x share the values of one, four a thread as in noise.cu.
template <int KIND>
BB_FUNCTION void bb_write_factor(const bb_call& call) {
  const bb_source* sources = (const bb_source*)call.buffers[0];
  float* out = (float*)call.buffers[1];
  const long long rows = call.scalars[0], count = call.scalars[1], which = call.scalars[3];
  const bb_u64 blocks = ((bb_u64)call.scalars[2] + bb_values_per_block(KIND) - 1) / bb_values_per_block(KIND);
  const long long share = (long long)blockDim.x * 4;
  for (long long row = blockIdx.y; row < rows; row += gridDim.y) {
    const bb_source source = sources[row];
    const float scale = which ? 1.0f : BB_FLOAT_OF_BITS(source.step);
    const bb_u64 offset = which ? source.offsets[1] : source.offsets[0];
    for (long long start = blockIdx.x * share; start < count; start += gridDim.x * share) {
      const long long used = count - start < share ? count - start : share;
      bb_draw<KIND, 4>(source, blocks, offset + start, used, scale, out + row * count + start);
    }
  }
}

BB_KERNEL(bb_lowrank_factor_normal, 256) { bb_write_factor<BB_NORMAL>(call); }
BB_KERNEL(bb_lowrank_factor_uniform, 256) { bb_write_factor<BB_UNIFORM>(call); }
BB_KERNEL(bb_lowrank_factor_sign, 256) { bb_write_factor<BB_SIGN>(call); }
BB_KERNEL(bb_lowrank_factor_binom8, 256) { bb_write_factor<BB_BINOM8>(call); }
BB_KERNEL(bb_lowrank_factor_normal_fast, 256) { bb_write_factor<BB_NORMAL_FAST>(call); }
