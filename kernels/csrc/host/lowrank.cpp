// Products with members' noise of low rank (kernels/spec.py, "Low rank") as a library for CPUs; entries as in native.cpp.
#include <vector>

#include "lanes.h"

namespace {

constexpr int SUMS = 64;  // in which a dot product is taken, as in kernels/spec.py
typedef float Vector __attribute__((vector_size(64)));
constexpr int WIDTH = sizeof(Vector) / sizeof(float), VECTORS = SUMS / WIDTH;

// As in kernels/spec.py.
struct Source {
  bb_u32 key[2], number, step, offsets[2];
  bool same_noise(const Source& other) const {
    return key[0] == other.key[0] && key[1] == other.key[1] && number == other.number &&
           offsets[0] == other.offsets[0] && offsets[1] == other.offsets[1];
  }
};

// Floats that `drawn` needs for so many values.
template <int KIND>
std::size_t room(std::int64_t count) {
  return (std::size_t)((count + VALUES<KIND> - 1) / VALUES<KIND> + 1 + LANES) * VALUES<KIND>;
}

// Where in `scratch` the values of a member's row lie that begin at an offset.
template <int KIND>
inline const float* drawn(const Source& source, bb_u64 blocks, std::int64_t offset, std::int64_t count,
                          float* scratch) {
  constexpr int V = VALUES<KIND>;
  const std::int64_t shift = offset % V, used = (shift + count + V - 1) / V;
  const bb_u64 first = source.number * blocks + (bb_u64)(offset / V);
  for (std::int64_t block = 0; block < used; block += LANES)
    values<KIND, true>(philox(first + block, source.key[0], source.key[1]), (float (*)[V])(scratch + block * V));
  return scratch + shift;
}

// Both factors, each (axis, rank).
template <int KIND>
inline void factors(const Source& source, bb_u64 blocks, const std::int64_t* sizes, float* scratch, const float** out) {
  const std::int64_t a = source.offsets[0], b = source.offsets[1];
  if (b == a + sizes[0]) {
    out[0] = drawn<KIND>(source, blocks, a, sizes[0] + sizes[1], scratch);
    out[1] = out[0] + sizes[0];
  } else {
    out[0] = drawn<KIND>(source, blocks, a, sizes[0], scratch);
    out[1] = drawn<KIND>(source, blocks, b, sizes[1], scratch + room<KIND>(sizes[0]));
  }
}

// (axis, rank) as (rank, axis).
template <int RANK>
inline void ordered(const float* factor, std::int64_t axis, float* __restrict__ out) {
  for (std::int64_t i = 0; i < axis; ++i)
    for (int r = 0; r < RANK; ++r) out[r * axis + i] = factor[i * RANK + r];
}

inline const float* by_rank(const float* factor, std::int64_t axis, std::int64_t rank, float* __restrict__ out) {
  if (rank == 1) return factor;
  if (rank == 2) {
    ordered<2>(factor, axis, out);
  } else if (rank == 4) {
    ordered<4>(factor, axis, out);
  } else {
    for (std::int64_t r = 0; r < rank; ++r)
      for (std::int64_t i = 0; i < axis; ++i) out[r * axis + i] = factor[i * rank + r];
  }
  return out;
}

inline Vector loaded(const float* from) {
  Vector value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline float dot(const float* x, const float* a, std::int64_t count) {
  Vector sums[VECTORS] = {};
  std::int64_t j = 0;
  for (; j + SUMS <= count; j += SUMS)
    for (int k = 0; k < VECTORS; ++k)
      sums[k] = BB_ADD(sums[k], BB_MUL(loaded(x + j + WIDTH * k), loaded(a + j + WIDTH * k)));
  if (j < count) {  // sums are never -0, so that zeros change no bit of them
    float rest[2][SUMS] = {};
    std::memcpy(rest[0], x + j, (count - j) * sizeof(float));
    std::memcpy(rest[1], a + j, (count - j) * sizeof(float));
    for (int k = 0; k < VECTORS; ++k)
      sums[k] = BB_ADD(sums[k], BB_MUL(loaded(rest[0] + WIDTH * k), loaded(rest[1] + WIDTH * k)));
  }
  for (int half = VECTORS / 2; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) sums[k] = BB_ADD(sums[k], sums[k + half]);
  float last[WIDTH];
  std::memcpy(last, sums, sizeof last);
  for (int half = WIDTH / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) last[l] = BB_ADD(last[l], last[l + half]);
  return last[0];
}

// y + sum_r scaled_r b_r; out may be y.
inline void added(const float* y, const float* scaled, const float* b, std::int64_t count, std::int64_t rank,
                  float* out) {
  std::int64_t i = 0;
  for (; i + SUMS <= count; i += SUMS) {
    Vector total[VECTORS];
    for (int k = 0; k < VECTORS; ++k) total[k] = loaded(y + i + WIDTH * k);
    for (std::int64_t r = 0; r < rank; ++r)
      for (int k = 0; k < VECTORS; ++k)
        total[k] = BB_ADD(total[k], BB_MUL(scaled[r], loaded(b + r * count + i + WIDTH * k)));
    std::memcpy(out + i, total, sizeof total);
  }
  for (; i < count; ++i) {
    float total = y[i];
    for (std::int64_t r = 0; r < rank; ++r) total = BB_ADD(total, BB_MUL(scaled[r], b[r * count + i]));
    out[i] = total;
  }
}

template <int KIND>
void mix(void* const* buffers, const std::int64_t* scalars, std::int64_t begin, std::int64_t end) {
  const float *x = (const float*)buffers[0], *y = (const float*)buffers[1];
  const Source* sources = (const Source*)buffers[2];
  float* out = (float*)buffers[3];
  const std::int64_t members = scalars[2], rows = scalars[3], m = scalars[4], n = scalars[5], rank = scalars[6];
  const bb_u64 blocks = ((bb_u64)scalars[7] + VALUES<KIND> - 1) / VALUES<KIND>;
  const std::int64_t sizes[] = {m * rank, n * rank};
  std::vector<float> scratch(room<KIND>(sizes[0]) + room<KIND>(sizes[1])), scaled(rank);
  std::vector<float> planes(rank > 1 ? sizes[0] + sizes[1] : 0);
  const float *a = nullptr, *b = nullptr;
  for (std::int64_t pair = begin; pair < end; ++pair)
    for (std::int64_t member = 2 * pair; member < members && member < 2 * pair + 2; ++member) {
      const Source& source = sources[member];
      if (member == 2 * pair || !source.same_noise(sources[member - 1])) {
        const float* made[2];
        factors<KIND>(source, blocks, sizes, scratch.data(), made);
        a = by_rank(made[0], m, rank, planes.data());
        b = by_rank(made[1], n, rank, planes.data() + sizes[0]);
      }
      const float step = BB_FLOAT_OF_BITS(source.step);
      for (std::int64_t row = 0; row < rows; ++row) {
        const float* own = x + member * scalars[8] + row * m;
        for (std::int64_t r = 0; r < rank; ++r) scaled[r] = BB_MUL(step, dot(own, a + r * m, m));
        added(y + member * scalars[9] + row * n, scaled.data(), b, n, rank, out + (member * rows + row) * n);
      }
    }
}

template <int KIND>
void write_factors(void* const* buffers, const std::int64_t* scalars, std::int64_t begin, std::int64_t end) {
  const Source* sources = (const Source*)buffers[0];
  float *first = (float*)buffers[1], *second = (float*)buffers[2];
  const bb_u64 blocks = ((bb_u64)scalars[4] + VALUES<KIND> - 1) / VALUES<KIND>;
  const std::int64_t* sizes = scalars + 2;
  std::vector<float> scratch(room<KIND>(sizes[0]) + room<KIND>(sizes[1]));
  for (std::int64_t row = begin; row < end; ++row) {
    const float* made[2];
    factors<KIND>(sources[row], blocks, sizes, scratch.data(), made);
    const float step = BB_FLOAT_OF_BITS(sources[row].step);
    for (std::int64_t i = 0; i < sizes[0]; ++i) first[row * sizes[0] + i] = BB_MUL(step, made[0][i]);
    std::memcpy(second + row * sizes[1], made[1], sizes[1] * sizeof(float));
  }
}

}  // namespace

// out = y + sum_r (step (x . A_r)) B_r for the rows of members, of which numbers 2k and 2k + 1 share noise made once if
// their sources say so.
// in: x (members or 1, rows, m) f32, y (members or 1, rows, n) f32, sources (members, 6) u32;
// out: (members, rows, n) f32, which may be y
// scalars: pairs of members, kind, members, rows of each, m, n, rank, size of a member's noise, floats from one member
// to the next in x and in y (0 if they share them)
BB_ENTRY bb_lowrank_mix(void* const* buffers, const std::int64_t* scalars, std::int64_t begin, std::int64_t end) {
  switch (scalars[1]) {
    case BB_NORMAL:
    case BB_NORMAL_FAST: return mix<BB_NORMAL>(buffers, scalars, begin, end);
    case BB_UNIFORM: return mix<BB_UNIFORM>(buffers, scalars, begin, end);
    case BB_SIGN: return mix<BB_SIGN>(buffers, scalars, begin, end);
    case BB_BINOM8: return mix<BB_BINOM8>(buffers, scalars, begin, end);
  }
}

// step A and B of each source.
// in: sources (rows, 6) u32; out: (rows, size of A) f32, (rows, size of B) f32
// scalars: rows, kind, size of A, size of B, size of a member's noise
BB_ENTRY bb_lowrank_factors(void* const* buffers, const std::int64_t* scalars, std::int64_t begin, std::int64_t end) {
  switch (scalars[1]) {
    case BB_NORMAL:
    case BB_NORMAL_FAST: return write_factors<BB_NORMAL>(buffers, scalars, begin, end);
    case BB_UNIFORM: return write_factors<BB_UNIFORM>(buffers, scalars, begin, end);
    case BB_SIGN: return write_factors<BB_SIGN>(buffers, scalars, begin, end);
    case BB_BINOM8: return write_factors<BB_BINOM8>(buffers, scalars, begin, end);
  }
}
