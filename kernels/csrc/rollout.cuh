// Whole episodes of classic control, played by a population of networks: what the grid of a GPU (rollout.cu) and the
// lanes of a CPU (host/rollout.cpp) share. kernels/rollout.py says what is computed.
//
// buffers   keys (1, or one for each leaf, 2) u32, base (1 or rows, weights) f32, factors (rows, terms) f32, members
//           (rows, terms) u32, starts (episodes, state) f32; out returns (rows, episodes) f32, lengths (rows, episodes) i32
// scalars   as named below; a row is a member of the population, independent of all others
// With a rank, factors are two numbers a row, what noise of leaves of independent entries and of low rank is multiplied
// with, and members is one number a row.
#pragma once
#include "environments.cuh"
#include "kinds.cuh"

enum bb_rollout_buffer { BB_KEYS, BB_BASE, BB_FACTORS, BB_MEMBERS, BB_STARTS, BB_RETURNS, BB_LENGTHS };
enum bb_rollout_scalar {
  BB_ROWS,
  BB_ENVIRONMENT,  // as numbered below
  BB_EPISODES,
  BB_STEPS,
  BB_KIND,
  BB_BASE_STEP,  // floats from one row of base to the next, 0 if there is one
  BB_TERMS,
  BB_RANK,   // 0 for sums of terms
  BB_SMALL,  // a matrix with a shorter side has noise of independent entries
  BB_LAYERS,
  BB_SIZES,  // widths, one more than there are layers: nine layers at most
};
enum bb_environment { BB_CARTPOLE, BB_PENDULUM, BB_MOUNTAIN_CAR, BB_ACROBOT };

BB_FUNCTION int bb_width(const bb_call& call, int layer) { return (int)call.scalars[BB_SIZES + layer]; }

BB_FUNCTION bool bb_is_low_rank(const bb_call& call, int inputs, int outputs) {
  return call.scalars[BB_RANK] > 0 && (inputs < outputs ? inputs : outputs) >= call.scalars[BB_SMALL];
}

// Weights of a network: for each layer the matrix (inputs, outputs) row by row, then the biases.
BB_FUNCTION int bb_weights(const bb_call& call) {
  int count = 0;
  for (int layer = 0; layer < call.scalars[BB_LAYERS]; ++layer)
    count += (bb_width(call, layer) + 1) * bb_width(call, layer + 1);
  return count;
}

// Numbers in both factors of the largest matrix of low rank.
BB_FUNCTION int bb_most_factors(const bb_call& call) {
  int most = 0;
  for (int layer = 0; layer < call.scalars[BB_LAYERS]; ++layer) {
    const int inputs = bb_width(call, layer), outputs = bb_width(call, layer + 1);
    const int count = bb_is_low_rank(call, inputs, outputs) ? (inputs + outputs) * (int)call.scalars[BB_RANK] : 0;
    most = count > most ? count : most;
  }
  return most;
}

// What a network's outputs stand for: the first of the largest, or a share of the force.
template <class Environment>
BB_FUNCTION float bb_action(const float* outputs) {
  if constexpr (Environment::FORCE > 0.0f) {
    return BB_MUL(Environment::FORCE, bb_tanh(outputs[0]));
  } else {
    float best = outputs[0], action = 0.0f;
#pragma unroll
    for (int k = 1; k < Environment::OUTPUTS; ++k) {
      action = outputs[k] > best ? (float)k : action;
      best = outputs[k] > best ? outputs[k] : best;
    }
    return action;
  }
}
