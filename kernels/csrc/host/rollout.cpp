// Episodes as a library for CPUs: sixteen side by side. A lane whose episode ends takes the next one, so that lanes stay
// busy although episodes are of different lengths. The entry has the signature of those in native.cpp.
#include "../rollout.cuh"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "lanes.h"

namespace {

struct Freed {
  void operator()(void* memory) const { std::free(memory); }
};
using Floats = std::unique_ptr<float[], Freed>;

// For a number of lanes, or for so many single floats.
Floats floats(std::size_t count) {
  const std::size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
  return Floats(static_cast<float*>(std::aligned_alloc(64, bytes ? bytes : 64)));
}

template <int KIND>
void draw(const bb_u32* key, bb_u32 member, std::int64_t size, float* out) {
  bb_u64 block = (bb_u64)member * ((size + VALUES<KIND> - 1) / VALUES<KIND>);
  for (std::int64_t at = 0; at < size; at += LANES * VALUES<KIND>, block += LANES) {
    float drawn[LANES][VALUES<KIND>];
    values<KIND, true>(philox(block, key[0], key[1]), drawn);
    std::memcpy(out + at, drawn, (size - at < LANES * VALUES<KIND> ? size - at : LANES * VALUES<KIND>) * sizeof(float));
  }
}

// Centered noise of one member of a stream.
void draw(std::int64_t kind, const bb_u32* key, bb_u32 member, std::int64_t size, float* out) {
  switch (kind) {
    case BB_NORMAL:
    case BB_NORMAL_FAST: return draw<BB_NORMAL>(key, member, size, out);
    case BB_UNIFORM: return draw<BB_UNIFORM>(key, member, size, out);
    case BB_SIGN: return draw<BB_SIGN>(key, member, size, out);
    case BB_BINOM8: return draw<BB_BINOM8>(key, member, size, out);
  }
}

struct Population {
  const bb_call& call;
  const std::int64_t count = bb_weights(call);
  Floats drawn = floats(std::max<std::int64_t>(count, bb_most_factors(call))), formed = floats(count);

  const bb_u32* keys() const { return (const bb_u32*)call.buffers[BB_KEYS]; }

  // The weights of a member, one after another.
  const float* weights(std::int64_t row) {
    const float* base = (const float*)call.buffers[BB_BASE] + row * call.scalars[BB_BASE_STEP];
    const std::int64_t terms = call.scalars[BB_TERMS];
    if (call.scalars[BB_RANK] == 0 && terms == 0) return base;
    std::memcpy(formed.get(), base, count * sizeof(float));
    const float* factors = (const float*)call.buffers[BB_FACTORS];
    const bb_u32* members = (const bb_u32*)call.buffers[BB_MEMBERS];
    if (call.scalars[BB_RANK] > 0) {
      low_rank(members[row], factors[2 * row], factors[2 * row + 1]);
    } else {
      for (std::int64_t k = row * terms; k < (row + 1) * terms; ++k) {
        draw(call.scalars[BB_KIND], keys(), members[k], count, drawn.get());
        for (std::int64_t j = 0; j < count; ++j)
          formed[j] = BB_ADD(formed[j], BB_ADD(0.0f, BB_MUL(factors[k], drawn[j])));  // a chunk of one term (spec.py)
      }
    }
    return formed.get();
  }

  void low_rank(bb_u32 member, float dense_step, float low_rank_step) {
    const int rank = (int)call.scalars[BB_RANK];
    const bb_u32* key = keys();
    float* at = formed.get();
    for (int layer = 0; layer < call.scalars[BB_LAYERS]; ++layer) {
      const int inputs = bb_width(call, layer), outputs = bb_width(call, layer + 1);
      if (bb_is_low_rank(call, inputs, outputs)) {
        draw(call.scalars[BB_KIND], key, member, (std::int64_t)(inputs + outputs) * rank, drawn.get());
        const float *a = drawn.get(), *b = a + inputs * rank;
        for (int i = 0; i < inputs; ++i)
          for (int o = 0; o < outputs; ++o)
            for (int r = 0; r < rank; ++r)
              at[i * outputs + o] = BB_FMA(BB_MUL(low_rank_step, a[i * rank + r]), b[o * rank + r], at[i * outputs + o]);
      } else {
        dense(key, member, dense_step, inputs * outputs, at);
      }
      at += inputs * outputs;
      dense(key + 2, member, dense_step, outputs, at);
      at += outputs;
      key += 4;
    }
  }

  void dense(const bb_u32* key, bb_u32 member, float step, int size, float* at) {
    draw(call.scalars[BB_KIND], key, member, size, drawn.get());
    for (int j = 0; j < size; ++j) at[j] = BB_FMA(step, drawn[j], at[j]);
  }
};

// COUNT outputs of a layer in all lanes: the bias, then the inputs in order.
template <int COUNT>
inline void outputs_of(const float* weights, const float* x, int inputs, int outputs, int first, float* y) {
  float sum[COUNT][LANES];
  for (int c = 0; c < COUNT; ++c)
    for (int l = 0; l < LANES; ++l) sum[c][l] = weights[(inputs * outputs + first + c) * LANES + l];
  for (int j = 0; j < inputs; ++j)
    for (int c = 0; c < COUNT; ++c)
      for (int l = 0; l < LANES; ++l)
        sum[c][l] = BB_FMA(x[j * LANES + l], weights[(j * outputs + first + c) * LANES + l], sum[c][l]);
  for (int c = 0; c < COUNT; ++c)
    for (int l = 0; l < LANES; ++l) y[(first + c) * LANES + l] = sum[c][l];
}

// Episodes in lanes. A lane owns a member and plays its episodes in order; one that finds no member left plays episodes
// of another lane's member.
template <class Environment>
struct Play {
  static constexpr std::int64_t NONE = -1;
  const bb_call& call;
  const std::int64_t episodes = call.scalars[BB_EPISODES];
  const int steps = (int)call.scalars[BB_STEPS], layers = (int)call.scalars[BB_LAYERS];
  Population population{call};
  std::int64_t next_row, last_row;
  Floats weights = floats(population.count * LANES), activations[2];
  std::int64_t row[LANES], episode[LANES], next_episode[LANES];
  alignas(64) float state[Environment::STATE][LANES] = {}, total[LANES] = {};
  alignas(64) std::int32_t time[LANES] = {}, is_over[LANES] = {};

  Play(const bb_call& call, std::int64_t begin, std::int64_t end) : call(call), next_row(begin), last_row(end) {
    int widest = 0;
    for (int layer = 0; layer <= layers; ++layer) widest = std::max(widest, bb_width(call, layer));
    for (Floats& part : activations) part = floats(widest * LANES);
    std::memset(weights.get(), 0, population.count * LANES * sizeof(float));
  }

  void run() {
    int busy = 0;
    for (int l = 0; l < LANES; ++l) row[l] = NONE, next_episode[l] = episodes;
    for (int l = 0; l < LANES; ++l) busy += begin(l);
    while (busy) {
      if (!advance()) continue;
      for (int l = 0; l < LANES; ++l)
        if (is_over[l] && row[l] != NONE) {
          ((float*)call.buffers[BB_RETURNS])[row[l] * episodes + episode[l]] = total[l];
          ((std::int32_t*)call.buffers[BB_LENGTHS])[row[l] * episodes + episode[l]] = time[l];
          busy -= !begin(l);
        }
    }
  }

  // The next episode into a lane; false if there is none.
  bool begin(int lane) {
    int owner = lane;
    if (next_episode[lane] == episodes && next_row < last_row) {
      const float* formed = population.weights(row[lane] = next_row++);
      for (std::int64_t j = 0; j < population.count; ++j) weights[j * LANES + lane] = formed[j];
      next_episode[lane] = 0;
    } else if (next_episode[lane] == episodes) {
      for (int l = 0; l < LANES; ++l)
        if (next_episode[l] < next_episode[owner]) owner = l;
      if (owner == lane) {
        row[lane] = NONE;
        return false;
      }
      if (row[lane] != row[owner])
        for (std::int64_t j = 0; j < population.count; ++j) weights[j * LANES + lane] = weights[j * LANES + owner];
      row[lane] = row[owner];
    }
    episode[lane] = next_episode[owner]++;
    const float* start = (const float*)call.buffers[BB_STARTS] + episode[lane] * Environment::STATE;
    for (int i = 0; i < Environment::STATE; ++i) state[i][lane] = start[i];
    total[lane] = 0.0f;
    time[lane] = 0;
    return true;
  }

  // A step of all lanes; whether an episode is over in any.
  bool advance() {
    float* outputs = network();
    std::int32_t any = 0;
    for (int l = 0; l < LANES; ++l) {
      float own[Environment::STATE], made[Environment::OUTPUTS], reward;
      for (int i = 0; i < Environment::STATE; ++i) own[i] = state[i][l];
      for (int i = 0; i < Environment::OUTPUTS; ++i) made[i] = outputs[i * LANES + l];
      const bool ended = Environment::step(own, bb_action<Environment>(made), reward);
      for (int i = 0; i < Environment::STATE; ++i) state[i][l] = own[i];
      total[l] = BB_ADD(total[l], reward);
      time[l] += 1;
      is_over[l] = (int)ended | (int)(time[l] >= steps);
      any |= is_over[l];
    }
    return any != 0;
  }

  float* network() {
    float *x = activations[0].get(), *y = activations[1].get();
    for (int l = 0; l < LANES; ++l) {
      float own[Environment::STATE], seen[Environment::OBSERVATION];
      for (int i = 0; i < Environment::STATE; ++i) own[i] = state[i][l];
      Environment::observe(own, seen);
      for (int i = 0; i < Environment::OBSERVATION; ++i) x[i * LANES + l] = seen[i];
    }
    const float* matrix = weights.get();
    for (int layer = 0; layer < layers; ++layer) {
      const int inputs = bb_width(call, layer), outputs = bb_width(call, layer + 1);
      int o = 0;
      for (; o + 4 <= outputs; o += 4) outputs_of<4>(matrix, x, inputs, outputs, o, y);
      for (; o < outputs; ++o) outputs_of<1>(matrix, x, inputs, outputs, o, y);
      if (layer + 1 < layers)
        for (int i = 0; i < outputs * LANES; ++i) y[i] = bb_tanh(y[i]);
      matrix += (inputs + 1) * outputs * LANES;
      std::swap(x, y);
    }
    return x;
  }
};

template <class Environment>
void play(const bb_call& call, std::int64_t begin, std::int64_t end) {
  Play<Environment>(call, begin, end).run();
}

}  // namespace

BB_ENTRY bb_rollout(void* const* buffers, const std::int64_t* scalars, std::int64_t begin, std::int64_t end) {
  bb_call call{};
  std::memcpy(call.buffers, buffers, (BB_LENGTHS + 1) * sizeof(void*));
  for (int i = 0; i < BB_SIZES + scalars[BB_LAYERS] + 1; ++i) call.scalars[i] = scalars[i];
  if (call.scalars[BB_EPISODES] == 0) return;
  switch (call.scalars[BB_ENVIRONMENT]) {
    case BB_CARTPOLE: return play<bb_cartpole>(call, begin, end);
    case BB_PENDULUM: return play<bb_pendulum>(call, begin, end);
    case BB_MOUNTAIN_CAR: return play<bb_mountain_car>(call, begin, end);
    case BB_ACROBOT: return play<bb_acrobot>(call, begin, end);
  }
}
