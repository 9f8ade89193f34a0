// Products with members' noise of low rank (kernels/spec.py, "Low rank").
#include "bfloat16.cuh"
#include "functions.cuh"
#include "kinds.cuh"

enum {
  BB_DOT_SUMS = 64,  // as in kernels/spec.py
  BB_RANKS = 4,      // for which x is read once
  BB_LOADS = 16,     // of x that a thread has under way
  BB_FOURS = 2,      // of y, likewise, groups of four numbers
  BB_AHEAD = 65536,  // bytes that a block asks for before it makes noise; what all blocks ask for fits into the L2 cache
  BB_LINE = 64       // bytes that asking for one of them brings
};

enum bb_activation { BB_LINEAR, BB_RELU, BB_TANH };

// As in kernels/spec.py.
struct bb_source {
  bb_u32 key[2], number, step, offsets[2];
};

BB_FUNCTION bool bb_same_noise(const bb_source& one, const bb_source& other) {
  return one.key[0] == other.key[0] && one.key[1] == other.key[1] && one.number == other.number &&
         one.offsets[0] == other.offsets[0] && one.offsets[1] == other.offsets[1];
}

// Where a value of a tile lies: groups of four change places within 32, so that neither threads that write 4, 16 or 32
// values each nor threads that read one or four meet in a bank of shared memory.
BB_FUNCTION int bb_place(int index) { return index ^ (index >> 3 & 28); }

// A member's noise from an offset on, by all threads of a block, into a tile with room for 32 values more. Returns the
// number of its first value there: the tile begins where a thread's values do.
template <int KIND>
BB_FUNCTION int bb_draw_tile(const bb_source& source, bb_u64 blocks, bb_u64 offset, int count, float* tile) {
  constexpr int VALUES = bb_values_per_block(KIND), OWN = bb_values_per_thread(KIND);
  const int shift = (int)(offset % OWN);
  const bb_u64 first = offset - shift;
  for (int from = (int)threadIdx.x * OWN; from < shift + count; from += (int)blockDim.x * OWN) {
    const bb_u64 number = first + from;
    float made[OWN];
    bb_centered<KIND, OWN>(bb_block(source.number * blocks + number / VALUES, source.key), (int)(number % VALUES), made);
#pragma unroll
    for (int k = 0; k < OWN; k += 4)
      *(bb_group<float, 4>*)(tile + bb_place(from + k)) = {made[k], made[k + 1], made[k + 2], made[k + 3]};
  }
  return shift;
}

// What a block works on at once: `count` rows of one member or two, from row `from` of the first on.
struct bb_rows {
  long long member, from, rows;
  int count;
};

// Where a row begins in an array (members or 1, rows, width), with `step` from one member to the next.
BB_FUNCTION long long bb_row_at(const bb_rows& own, int q, long long step, long long width) {
  const long long row = own.from + q;
  return row < own.rows ? own.member * step + row * width : (own.member + 1) * step + (row - own.rows) * width;
}

// Asks for what the rows have in some columns, so that memory has work while noise is made.
BB_FUNCTION void bb_ask_for(const char* array, const bb_rows& own, long long step, long long width, long long bytes) {
  if (bytes * own.count > BB_AHEAD) return;
  for (int q = 0; q < own.count; ++q)
    for (long long at = threadIdx.x * BB_LINE; at < bytes; at += blockDim.x * BB_LINE)
      BB_PREFETCH(array + bb_row_at(own, q, step, width) + at);
}

// Numbers of a row, each BB_DOT_SUMS after the last.
BB_FUNCTION void bb_load(const void* array, bool is_short, long long at, float* out) {
  if (is_short) {
    bb_bf16 loaded[BB_LOADS];
#pragma unroll
    for (int k = 0; k < BB_LOADS; ++k) loaded[k] = ((const bb_bf16*)array)[at + k * BB_DOT_SUMS];
#pragma unroll
    for (int k = 0; k < BB_LOADS; ++k) out[k] = bb_widened(loaded[k]);
  } else {
#pragma unroll
    for (int k = 0; k < BB_LOADS; ++k) out[k] = ((const float*)array)[at + k * BB_DOT_SUMS];
  }
}

// Adds a tile of a row's dot products with some ranks of A into one of its sums; the row begins at number `at` of x.
template <int RANKS>
BB_FUNCTION void bb_add_products(const void* x, bool is_short, long long at, const float* tile, int first, int lane,
                                 int count, int rank, float* sums) {
  float total[RANKS];
#pragma unroll
  for (int r = 0; r < RANKS; ++r) total[r] = sums[r * BB_DOT_SUMS];
  int j = lane;
  for (; j + (BB_LOADS - 1) * BB_DOT_SUMS < count; j += BB_LOADS * BB_DOT_SUMS) {
    float loaded[BB_LOADS];
    bb_load(x, is_short, at + j, loaded);
#pragma unroll
    for (int k = 0; k < BB_LOADS; ++k)
#pragma unroll
      for (int r = 0; r < RANKS; ++r) {
        const float a = tile[bb_place(first + (j + k * BB_DOT_SUMS) * rank + r)];
        total[r] = BB_ADD(total[r], BB_MUL(loaded[k], a));
      }
  }
#pragma unroll 1
  for (; j < count; j += BB_DOT_SUMS) {
    const float value = is_short ? bb_widened(((const bb_bf16*)x)[at + j]) : ((const float*)x)[at + j];
#pragma unroll
    for (int r = 0; r < RANKS; ++r) total[r] = BB_ADD(total[r], BB_MUL(value, tile[bb_place(first + j * rank + r)]));
  }
#pragma unroll
  for (int r = 0; r < RANKS; ++r) sums[r * BB_DOT_SUMS] = total[r];
}

// The same for all sums of the rows, one a thread.
BB_FUNCTION void bb_add_tile(const void* x, bool is_short, const bb_rows& own, long long step, long long m,
                             long long start, int used, const float* tile, int first, int rank, float* sums) {
  for (int i = threadIdx.x; i < own.count * BB_DOT_SUMS; i += blockDim.x) {
    const int q = i / BB_DOT_SUMS, lane = i % BB_DOT_SUMS;
    const long long at = bb_row_at(own, q, step, m) + start;
    float* total = sums + q * rank * BB_DOT_SUMS + lane;
    int r = 0;
    for (; r + BB_RANKS <= rank; r += BB_RANKS)
      bb_add_products<BB_RANKS>(x, is_short, at, tile, first + r, lane, used, rank, total + r * BB_DOT_SUMS);
    for (; r < rank; ++r)
      bb_add_products<1>(x, is_short, at, tile, first + r, lane, used, rank, total + r * BB_DOT_SUMS);
  }
}

// Three halvings of eight sums, the second half added to the first.
BB_FUNCTION float bb_halved(const float* sums, int stride) {
  float s[8];
#pragma unroll
  for (int k = 0; k < 8; ++k) s[k] = sums[k * stride];
  const float even = BB_ADD(BB_ADD(s[0], s[4]), BB_ADD(s[2], s[6])), odd = BB_ADD(BB_ADD(s[1], s[5]), BB_ADD(s[3], s[7]));
  return BB_ADD(even, odd);
}

struct bb_end {
  const float* bias;  // of all members or of each, or null
  long long bias_step;
  int activation;
  bool is_short;  // whether the result is
};

BB_FUNCTION float bb_activated(float value, int activation) {
  if (activation == BB_TANH) return bb_tanh(value);
  return activation == BB_RELU && value < 0.0f ? 0.0f : value;
}

template <int COUNT>
BB_FUNCTION void bb_store_group(const bb_group<float, COUNT>& group, void* array, bool is_short, long long at) {
  const float* v = group.values;
  if constexpr (COUNT == 4) {
    if (is_short)
      BB_STORE_2((bb_bf16*)array + at, bb_rounded(v[0], v[1]), bb_rounded(v[2], v[3]));
    else
      BB_STORE_4((float*)array + at, v[0], v[1], v[2], v[3]);
  } else {
    if (is_short)
      ((bb_bf16*)array)[at] = bb_rounded(v[0]);
    else
      ((float*)array)[at] = v[0];
  }
}

// Adds the products with a tile of B to y, then the bias; COUNT numbers at a time. `scaled` is (rows, rank, BB_DOT_SUMS),
// of which one number counts. Each number of y is read, by the thread that writes in its place, before that.
template <int COUNT>
BB_FUNCTION void bb_write_tile(const float* y, void* out, const bb_end& end, const bb_rows& own, long long step,
                               long long n, long long start, int used, const float* tile, int first, int rank,
                               const float* scaled) {
  // Threads take groups of all rows in turn; a block's worth further on are so many rows and groups.
  const int width = used / COUNT, rows_on = (int)blockDim.x / width, groups_on = (int)blockDim.x % width;
  int q = (int)threadIdx.x / width, i = (int)threadIdx.x % width;
  while (q < own.count) {
    bb_group<float, COUNT> loaded[BB_FOURS];
    int next_q = q, next = i;
#pragma unroll
    for (int k = 0; k < BB_FOURS; ++k) {
      if (next_q < own.count)
        loaded[k] = *(const bb_group<float, COUNT>*)(y + bb_row_at(own, next_q, step, n) + start + next * COUNT);
      next += groups_on;
      next_q += rows_on + (next >= width);
      next -= next >= width ? width : 0;
    }
#pragma unroll
    for (int k = 0; k < BB_FOURS; ++k) {
      if (q < own.count) {
        const long long column = start + i * COUNT;
        bb_group<float, COUNT>& total = loaded[k];
        const float* narrow = scaled + q * rank * BB_DOT_SUMS;
        const int at = first + i * COUNT * rank;
        if (rank == 1 && at % COUNT == 0) {
          const bb_group<float, COUNT> b = *(const bb_group<float, COUNT>*)(tile + bb_place(at));
#pragma unroll
          for (int c = 0; c < COUNT; ++c)
            total.values[c] = BB_ADD(total.values[c], BB_MUL(narrow[0], b.values[c]));
        } else {
          for (int r = 0; r < rank; ++r)
#pragma unroll
            for (int c = 0; c < COUNT; ++c)
              total.values[c] =
                  BB_ADD(total.values[c], BB_MUL(narrow[r * BB_DOT_SUMS], tile[bb_place(at + c * rank + r)]));
        }
        if (end.bias) {
          const long long member = own.member + (own.from + q >= own.rows);
          const auto bias = *(const bb_group<float, COUNT>*)(end.bias + member * end.bias_step + column);
#pragma unroll
          for (int c = 0; c < COUNT; ++c) total.values[c] = BB_ADD(total.values[c], bias.values[c]);
        }
#pragma unroll
        for (int c = 0; c < COUNT; ++c) total.values[c] = bb_activated(total.values[c], end.activation);
        bb_store_group(total, out, end.is_short, bb_row_at(own, q, own.rows * n, n) + column);
      }
      i += groups_on;
      q += rows_on + (i >= width);
      i -= i >= width ? width : 0;
    }
  }
}

// activation(y + sum_r (step (x . A_r)) B_r + bias) for the rows of members, rounded to nearest.
//
// buffers   x (members or 1, rows, m) f32 or bf16, y (members or 1, rows, n) f32, sources (members, 6) u32, bias
//           (members or 1, n) f32 if there is one; out (members, rows, n) f32 or bf16, which may be y if that is f32
// scalars   members, rows of each, m, n, rank, size of a member's noise, numbers from one member to the next in x and in
//           y (0 if they share them), entries of a tile of either factor (a multiple of 64), rows at once; whether x and
//           out are bf16, whether there is a bias, numbers from one member to the next in it, activation
// A block owns two members, whose noise it makes once if their sources say so, and takes their rows some at a time: a
// tile of A in shared memory for the dot products of all of them, then a tile of B. Blocks along y share the rows.
template <int KIND>
BB_FUNCTION void bb_mix_lowrank(const bb_call& call) {
  const long long* scalars = call.scalars;
  const char* x = (const char*)call.buffers[0];
  const float* y = (const float*)call.buffers[1];
  const bb_source* sources = (const bb_source*)call.buffers[2];
  void* out = call.buffers[scalars[12] ? 4 : 3];
  const long long members = scalars[0], rows = scalars[1], m = scalars[2], n = scalars[3], x_step = scalars[6];
  const long long y_step = scalars[7], entries = scalars[8], x_bytes = scalars[10] ? 2 : 4;
  const int rank = (int)scalars[4], at_once = (int)scalars[9];
  const bb_u64 blocks = ((bb_u64)scalars[5] + bb_values_per_block(KIND) - 1) / bb_values_per_block(KIND);
  const bb_end end = {scalars[12] ? (const float*)call.buffers[3] : nullptr, scalars[13], (int)scalars[14],
                      scalars[11] != 0};
  const bool by_fours = n % 4 == 0 && bb_is_aligned(y, 16) && bb_is_aligned(end.bias, 16) && bb_is_aligned(out, 16);
  BB_SHARED(float, tile);                    // (entries, rank), and 32 more
  float* sums = tile + entries * rank + 32;  // (at_once, rank, BB_DOT_SUMS)
  for (long long pair = blockIdx.x; 2 * pair < members; pair += gridDim.x) {
    const long long last = 2 * pair + 2 < members ? 2 * pair + 2 : members;
    for (long long member = 2 * pair, next; member < last; member = next) {
      const bb_source source = sources[member];
      next = member + 1 < last && bb_same_noise(source, sources[member + 1]) ? last : member + 1;
      const long long all = (next - member) * rows;
      for (long long from = (long long)blockIdx.y * at_once; from < all; from += (long long)gridDim.y * at_once) {
        const bb_rows own = {member, from, rows, (int)(all - from < at_once ? all - from : at_once)};
        bb_ask_for(x, own, x_step * x_bytes, m * x_bytes, m * x_bytes);
        for (int i = threadIdx.x; i < own.count * rank * BB_DOT_SUMS; i += blockDim.x) sums[i] = 0.0f;
        if (m == 0) __syncthreads();  // else the first tile's
        for (long long start = 0; start < m; start += entries) {
          const int used = (int)(m - start < entries ? m - start : entries);
          const bb_u64 offset = source.offsets[0] + (bb_u64)(start * rank);
          const int first = bb_draw_tile<KIND>(source, blocks, offset, used * rank, tile);
          __syncthreads();
          bb_add_tile(x, scalars[10], own, x_step, m, start, used, tile, first, rank, sums);
          __syncthreads();  // the tile is read no more
        }
        bb_ask_for((const char*)y, own, y_step * 4, n * 4, n * 4);
        for (int i = threadIdx.x; i < own.count * rank * 8; i += blockDim.x) {
          float* total = sums + i / 8 * BB_DOT_SUMS + i % 8;
          *total = bb_halved(total, 8);
        }
        for (long long start = 0; start < n; start += entries) {
          const int used = (int)(n - start < entries ? n - start : entries);
          const bb_u64 offset = source.offsets[1] + (bb_u64)(start * rank);
          const int first = bb_draw_tile<KIND>(source, blocks, offset, used * rank, tile);
          __syncthreads();
          if (start == 0) {
            for (int i = threadIdx.x; i < own.count * rank; i += blockDim.x) {
              const bb_source& of_row = sources[member + (from + i / rank >= rows)];
              sums[i * BB_DOT_SUMS] = BB_MUL(BB_FLOAT_OF_BITS(of_row.step), bb_halved(sums + i * BB_DOT_SUMS, 1));
            }
            __syncthreads();
          }
          if (by_fours)
            bb_write_tile<4>(y, out, end, own, y_step, n, start, used, tile, first, rank, sums);
          else
            bb_write_tile<1>(y, out, end, own, y_step, n, start, used, tile, first, rank, sums);
          __syncthreads();  // neither the tile nor, at the end, sums are read any more
        }
      }
    }
  }
}

BB_KERNEL(bb_lowrank_mix_normal, 256, 4) { bb_mix_lowrank<BB_NORMAL>(call); }
BB_KERNEL(bb_lowrank_mix_uniform, 256, 4) { bb_mix_lowrank<BB_UNIFORM>(call); }
BB_KERNEL(bb_lowrank_mix_sign, 256, 4) { bb_mix_lowrank<BB_SIGN>(call); }
BB_KERNEL(bb_lowrank_mix_binom8, 256, 4) { bb_mix_lowrank<BB_BINOM8>(call); }
BB_KERNEL(bb_lowrank_mix_normal_fast, 256, 4) { bb_mix_lowrank<BB_NORMAL_FAST>(call); }

// One factor of each source, A with the step or B without.
//
// buffers   sources (rows, 6) u32; out (rows, count) f32
// scalars   rows, count, size of a member's noise, which factor
// Blocks along y own sources, and all blocks along x share the values of one, four a thread as in noise.cu.
template <int KIND>
BB_FUNCTION void bb_write_factor(const bb_call& call) {
  const bb_source* sources = (const bb_source*)call.buffers[0];
  float* out = (float*)call.buffers[1];
  const bb_u64 count = (bb_u64)call.scalars[1];
  const long long rows = call.scalars[0], which = call.scalars[3];
  constexpr int VALUES = bb_values_per_block(KIND);
  const bb_u64 blocks = ((bb_u64)call.scalars[2] + VALUES - 1) / VALUES;
  for (long long row = blockIdx.y; row < rows; row += gridDim.y) {
    const bb_source source = sources[row];
    const float scale = which ? 1.0f : BB_FLOAT_OF_BITS(source.step);
    const bb_u64 offset = which ? source.offsets[1] : source.offsets[0];
    const bb_u64 stride = (bb_u64)gridDim.x * blockDim.x * 4;
    bb_u64 from = offset / 4 * 4 + ((bb_u64)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    for (; from < offset + count; from += stride) {
      float values[4];
      const bb_words words = bb_block(source.number * blocks + from / VALUES, source.key);
      bb_centered<KIND, 4>(words, (int)(from % VALUES), values);
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (from + k >= offset && from + k < offset + count)
          out[row * count + (from + k - offset)] = BB_MUL(scale, values[k]);
    }
  }
}

BB_KERNEL(bb_lowrank_factor_normal, 256) { bb_write_factor<BB_NORMAL>(call); }
BB_KERNEL(bb_lowrank_factor_uniform, 256) { bb_write_factor<BB_UNIFORM>(call); }
BB_KERNEL(bb_lowrank_factor_sign, 256) { bb_write_factor<BB_SIGN>(call); }
BB_KERNEL(bb_lowrank_factor_binom8, 256) { bb_write_factor<BB_BINOM8>(call); }
BB_KERNEL(bb_lowrank_factor_normal_fast, 256) { bb_write_factor<BB_NORMAL_FAST>(call); }
