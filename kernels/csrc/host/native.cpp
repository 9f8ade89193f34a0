// The kernels as a library for CPUs, from the text that a GPU compiles: loops over lanes that a compiler vectorizes.
//
// Every entry has the same signature, so that NumPy (ctypes) and XLA (launch.cpp) call them alike:
//   buffers   pointers to the inputs, then to the outputs
//   scalars   whole numbers; the first is the number of rows
//   begin, end   the rows to work on: rows are independent, callers may split them over threads
#include <algorithm>

#include "lanes.h"

namespace {

template <int KIND>
inline bb_u64 blocks_of(std::int64_t size) {
  return (size + VALUES<KIND> - 1) / VALUES<KIND>;
}

// Blocks of rows: as many as there are lanes at once where they follow each other, else collected until lanes are used.
template <int KIND, bool CENTERED>
struct Rows {
  Lanes lanes{};
  int used = 0;

  // Rows that follow each other in one stream, from this block on.
  void add(const bb_u32* key, bb_u64 block, std::int64_t rows, std::int64_t size, Value<KIND>* target) {
    const std::int64_t each = blocks_of<KIND>(size);
    const int of_last = (int)(size - (each - 1) * VALUES<KIND>);  // values in the last block of a row
    std::int64_t left = rows * each, to_last = each;
    const auto next = [&] {
      const bool is_last = --to_last == 0;
      if (is_last) to_last = each;
      return is_last ? of_last : VALUES<KIND>;
    };
    for (; left >= LANES; left -= LANES, block += LANES) {
      Value<KIND> out[LANES][VALUES<KIND>];
      values<KIND, CENTERED>(philox(block, key[0], key[1]), out);
      if (of_last == VALUES<KIND>) {
        std::memcpy(target, out, sizeof out);
        target += LANES * VALUES<KIND>;  // and no block is cut
      } else {
        for (int l = 0; l < LANES; ++l) target = copied(out[l], next(), target);
      }
    }
    for (; left > 0; --left, ++block) {
      lanes.low[used] = (bb_u32)block;
      lanes.high[used] = (bb_u32)(block >> 32);
      lanes.k0[used] = key[0];
      lanes.k1[used] = key[1];
      lanes.target[used] = target;
      target += lanes.count[used] = next();
      if (++used == LANES) end();
    }
  }

  void end() {
    if (used == 0) return;
    Value<KIND> out[LANES][VALUES<KIND>];
    values<KIND, CENTERED>(philox(lanes), out);
    for (int l = 0; l < used; ++l) copied(out[l], lanes.count[l], (Value<KIND>*)lanes.target[l]);
    used = 0;
  }

  static Value<KIND>* copied(const Value<KIND> (&block)[VALUES<KIND>], int count, Value<KIND>* target) {
    if (count == VALUES<KIND>)
      std::memcpy(target, block, sizeof block);  // of a size that the compiler knows
    else
      std::memcpy(target, block, count * sizeof(Value<KIND>));
    return target + count;
  }
};

template <int KIND, bool CENTERED>
void noise(void* const* buffers, const std::int64_t* scalars, std::int64_t begin, std::int64_t end) {
  const bb_u32 *keys = (const bb_u32*)buffers[0], *members = (const bb_u32*)buffers[1];
  const std::int64_t streams = scalars[3], *sizes = scalars + 4;
  Rows<KIND, CENTERED> rows;
  for (std::int64_t row = begin; row < end; ++row)
    for (std::int64_t stream = 0; stream < streams; ++stream)
      rows.add(keys + 2 * stream, members[row] * blocks_of<KIND>(sizes[stream]), 1, sizes[stream],
               (Value<KIND>*)buffers[2 + stream] + row * sizes[stream]);
  rows.end();
}

// The key derived from a key and two numbers.
inline void fold(const bb_u32* key, bb_u32 a, bb_u32 b, bb_u32* derived) {
  const bb_words words = bb_philox_of(a, b, ~key[0], ~key[1], key[0], key[1]);
  derived[0] = words.w[0];
  derived[1] = words.w[1];
}

template <int KIND>
void noise_of_runs(void* const* buffers, const std::int64_t* scalars, std::int64_t begin, std::int64_t end) {
  const bb_u32 *keys = (const bb_u32*)buffers[0], *generations = (const bb_u32*)buffers[1];
  const bb_u32* first = (const bb_u32*)buffers[2];
  const std::int64_t members = scalars[2], size = scalars[3];
  bb_u32 stream[2] = {};
  Rows<KIND, false> rows;
  for (std::int64_t row = begin, next; row < end; row = next) {
    const std::int64_t run = row / members, member = row % members;
    if (row == begin || member == 0) fold(keys + 2 * run, generations[run], (bb_u32)scalars[4], stream);
    const bb_u32 number = first[run] + (bb_u32)member;
    next = std::min({end, (run + 1) * members, row + ((std::int64_t)1 << 32) - number});  // numbers begin anew at 2^32
    rows.add(stream, number * blocks_of<KIND>(size), next - row, size, (float*)buffers[3] + row * size);
  }
  rows.end();
}

// One member's noise in LANES blocks, added into the sums with a weight.
template <int KIND>
inline void add(const Words& words, float weight, float (*sum)[VALUES<KIND>]) {
  float drawn[LANES][VALUES<KIND>];
  values<KIND, true>(words, drawn);
  for (int l = 0; l < LANES; ++l)
    for (int i = 0; i < VALUES<KIND>; ++i) sum[l][i] = BB_ADD(sum[l][i], BB_MUL(weight, drawn[l][i]));
}

// A tile of LANES blocks of one sum.
template <int KIND>
void seedsum_tile(const bb_u32* key, const float* base, const float* weights, const bb_u32* members, float* out,
                  std::int64_t terms, std::int64_t chunk, std::int64_t size, std::int64_t tile) {
  constexpr int WIDTH = LANES * VALUES<KIND>;
  const std::int64_t blocks = blocks_of<KIND>(size), from = tile * WIDTH;
  const std::int64_t used = size - from < WIDTH ? size - from : WIDTH;
  float total[LANES][VALUES<KIND>] = {};
  std::memcpy(total, base + from, used * sizeof(float));
  for (std::int64_t first = 0; first < terms; first += chunk) {
    const std::int64_t last = first + chunk < terms ? first + chunk : terms;
    float sum[LANES][VALUES<KIND>] = {};
    for (std::int64_t k = first; k < last; ++k)
      add<KIND>(philox((bb_u64)members[k] * blocks + tile * LANES, key[0], key[1]), weights[k], sum);
    for (int l = 0; l < LANES; ++l)
      for (int i = 0; i < VALUES<KIND>; ++i) total[l][i] = BB_ADD(total[l][i], sum[l][i]);
  }
  std::memcpy(out + from, total, used * sizeof(float));
}

template <int KIND>
void seedsum(void* const* buffers, const std::int64_t* scalars, std::int64_t begin, std::int64_t end) {
  const bb_u32 *keys = (const bb_u32*)buffers[0], *members = (const bb_u32*)buffers[2];
  const float* weights = (const float*)buffers[1];
  const std::int64_t streams = scalars[2], sums = scalars[3], terms = scalars[4], chunk = scalars[5];
  std::int64_t row = 0;
  for (std::int64_t stream = 0; stream < streams && row < end; ++stream) {
    const std::int64_t size = scalars[6 + 2 * stream], base_step = scalars[7 + 2 * stream];
    const std::int64_t tiles = (size + LANES * VALUES<KIND> - 1) / (LANES * VALUES<KIND>);
    const float* base = (const float*)buffers[3 + stream];
    float* out = (float*)buffers[3 + streams + stream];
    const std::int64_t from = begin > row ? begin - row : 0, to = end - row < sums * tiles ? end - row : sums * tiles;
    for (std::int64_t at = from; at < to; ++at) {
      const std::int64_t q = at / tiles;
      seedsum_tile<KIND>(keys + 2 * stream, base + q * base_step, weights + q * terms, members + q * terms,
                         out + q * size, terms, chunk, size, at % tiles);
    }
    row += sums * tiles;
  }
}

}  // namespace

// Weighted sums of members' centered noise of several streams (kernels/spec.py, "Sums").
// in: keys (streams, 2) u32, weights (sums, terms) f32, members (sums, terms) u32, base (1 or sums, size) f32 for each
// stream; out: (sums, size) f32 for each stream; a row is a tile of LANES blocks of one of the sums
// scalars: rows, kind, streams, sums, terms, terms of a chunk; for each stream its size, and how many floats lie from one
// row of base to the next (0 if there is one)
BB_ENTRY bb_seedsum(void* const* buffers, const std::int64_t* scalars, std::int64_t begin, std::int64_t end) {
  switch (scalars[1]) {
    case BB_NORMAL:
    case BB_NORMAL_FAST:  // of a CPU it is the same
      return seedsum<BB_NORMAL>(buffers, scalars, begin, end);
    case BB_UNIFORM: return seedsum<BB_UNIFORM>(buffers, scalars, begin, end);
    case BB_SIGN: return seedsum<BB_SIGN>(buffers, scalars, begin, end);
    case BB_BINOM8: return seedsum<BB_BINOM8>(buffers, scalars, begin, end);
  }
}

// Noise of members of several streams.
// in: keys (streams, 2) u32, members (rows,) u32; out: (rows, size) f32 for each stream, or i8 if the kind is BB_INT8_SIGN
// scalars: rows, kind, centered, streams, the size of each stream
BB_ENTRY bb_noise(void* const* buffers, const std::int64_t* scalars, std::int64_t begin, std::int64_t end) {
  const bool centered = scalars[2] != 0;
  switch (scalars[1]) {
    case BB_NORMAL:
    case BB_NORMAL_FAST: return noise<BB_NORMAL, false>(buffers, scalars, begin, end);
    case BB_UNIFORM: return (centered ? noise<BB_UNIFORM, true> : noise<BB_UNIFORM, false>)(buffers, scalars, begin, end);
    case BB_SIGN: return noise<BB_SIGN, false>(buffers, scalars, begin, end);
    case BB_BINOM8: return (centered ? noise<BB_BINOM8, true> : noise<BB_BINOM8, false>)(buffers, scalars, begin, end);
    case BB_INT8_SIGN: return noise<BB_INT8_SIGN, false>(buffers, scalars, begin, end);
  }
}

// Noise of a generation of many runs: of members that follow one another in the stream of key, generation and leaf.
// in: keys (runs, 2) u32, generations (runs,) u32, first members (runs,) u32; out: (runs * members, size) f32
// scalars: rows, kind, members of a run, size, leaf
BB_ENTRY bb_noise_of_runs(void* const* buffers, const std::int64_t* scalars, std::int64_t begin, std::int64_t end) {
  switch (scalars[1]) {
    case BB_NORMAL:
    case BB_NORMAL_FAST: return noise_of_runs<BB_NORMAL>(buffers, scalars, begin, end);
    case BB_UNIFORM: return noise_of_runs<BB_UNIFORM>(buffers, scalars, begin, end);
    case BB_SIGN: return noise_of_runs<BB_SIGN>(buffers, scalars, begin, end);
    case BB_BINOM8: return noise_of_runs<BB_BINOM8>(buffers, scalars, begin, end);
  }
}
