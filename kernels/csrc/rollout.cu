// Episodes of classic control, one environment a kernel; buffers and scalars are in rollout.cuh.
//
// A block forms the weights of a member in shared memory and plays its episodes, those of its place along the grid's
// second axis. A thread owns outputs of each hidden layer, and every thread keeps the state: all of them compute the last
// layer and the step alike, so that a layer's barrier is the only one and nothing is sent from thread to thread.
//
// shared    floats: weights, two rows of as many as the widest hidden layer has, the factors of a matrix of low rank
#include "rollout.cuh"

// Centered noise of a member, four values a thread, to `use`, with their number.
template <int KIND, class Use>
BB_FUNCTION void bb_each_value(const bb_u32* key, bb_u32 member, int size, const Use& use) {
  constexpr int VALUES = bb_values_per_block(KIND);
  const bb_u64 first = (bb_u64)member * (((bb_u64)size + VALUES - 1) / VALUES);
  for (int at = 4 * (int)threadIdx.x; at < size; at += 4 * (int)blockDim.x) {
    float values[4];
    bb_centered<KIND, 4>(bb_block(first + (bb_u64)(at / VALUES), key), at & (VALUES - 1), values);
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (at + k < size) use(at + k, values[k]);
  }
}

template <class Use>
BB_FUNCTION void bb_each(long long kind, const bb_u32* key, bb_u32 member, int size, const Use& use) {
  // The fast one is within its tolerance of it, and a member's weights are formed but once.
  if (kind == BB_NORMAL || kind == BB_NORMAL_FAST) bb_each_value<BB_NORMAL>(key, member, size, use);
  if (kind == BB_UNIFORM) bb_each_value<BB_UNIFORM>(key, member, size, use);
  if (kind == BB_SIGN) bb_each_value<BB_SIGN>(key, member, size, use);
  if (kind == BB_BINOM8) bb_each_value<BB_BINOM8>(key, member, size, use);
}

// Sums of terms: a thread adds all of them to the weights it owns.
BB_FUNCTION void bb_form_sums(const bb_call& call, long long row, float* weights, int count) {
  const long long terms = call.scalars[BB_TERMS];
  const float* factors = (const float*)call.buffers[BB_FACTORS];
  const bb_u32* members = (const bb_u32*)call.buffers[BB_MEMBERS];
  const float* base = (const float*)call.buffers[BB_BASE] + row * call.scalars[BB_BASE_STEP];
  for (int at = 4 * (int)threadIdx.x; at < count; at += 4 * (int)blockDim.x)
    for (int j = at; j < at + 4 && j < count; ++j) weights[j] = base[j];
  for (long long k = row * terms; k < (row + 1) * terms; ++k) {
    const float factor = factors[k];
    bb_each(call.scalars[BB_KIND], (const bb_u32*)call.buffers[BB_KEYS], members[k], count, [&](int j, float value) {
      weights[j] = BB_ADD(weights[j], BB_ADD(0.0f, BB_MUL(factor, value)));  // a chunk of one term (spec.py)
    });
  }
}

BB_FUNCTION void bb_form_low_rank(const bb_call& call, long long row, float* weights, float* drawn) {
  const bb_u32* key = (const bb_u32*)call.buffers[BB_KEYS];
  const bb_u32 member = ((const bb_u32*)call.buffers[BB_MEMBERS])[row];
  const float* base = (const float*)call.buffers[BB_BASE] + row * call.scalars[BB_BASE_STEP];
  const float dense = ((const float*)call.buffers[BB_FACTORS])[2 * row];
  const float step = ((const float*)call.buffers[BB_FACTORS])[2 * row + 1];
  const int rank = (int)call.scalars[BB_RANK];
  int offset = 0;
  // Leaves: the matrix and the biases of each layer.
  for (int leaf = 0; leaf < 2 * call.scalars[BB_LAYERS]; ++leaf, key += 2) {
    const int inputs = leaf & 1 ? 1 : bb_width(call, leaf / 2), outputs = bb_width(call, leaf / 2 + 1);
    const bool is_low_rank = !(leaf & 1) && bb_is_low_rank(call, inputs, outputs);
    const int size = is_low_rank ? (inputs + outputs) * rank : inputs * outputs;
    bb_each(call.scalars[BB_KIND], key, member, size, [&](int j, float value) {
      if (is_low_rank)
        drawn[j] = value;
      else
        weights[offset + j] = BB_FMA(dense, value, base[offset + j]);
    });
    if (is_low_rank) {
      __syncthreads();
      for (int j = (int)threadIdx.x; j < inputs * outputs; j += (int)blockDim.x) {
        const float *a = drawn + j / outputs * rank, *b = drawn + (inputs + j % outputs) * rank;
        float weight = base[offset + j];
        for (int r = 0; r < rank; ++r) weight = BB_FMA(BB_MUL(step, a[r]), b[r], weight);
        weights[offset + j] = weight;
      }
      __syncthreads();  // before the next factors are drawn
    }
    offset += inputs * outputs;
  }
}

// One output of a layer: the bias, then the inputs in order.
BB_FUNCTION float bb_output(const float* matrix, const float* x, int inputs, int outputs, int o) {
  float sum = matrix[inputs * outputs + o];
#pragma unroll 4
  for (int j = 0; j < inputs; ++j) sum = BB_FMA(x[j], matrix[j * outputs + o], sum);
  return sum;
}

template <class Environment>
BB_FUNCTION void bb_play(const bb_call& call) {
  constexpr int STATE = Environment::STATE, SEEN = Environment::OBSERVATION, OUTPUTS = Environment::OUTPUTS;
  BB_SHARED(float, weights);
  const int layers = (int)call.scalars[BB_LAYERS], count = bb_weights(call), steps = (int)call.scalars[BB_STEPS];
  int widest = 0;
  for (int layer = 1; layer < layers; ++layer) widest = bb_width(call, layer) > widest ? bb_width(call, layer) : widest;
  float *hidden = weights + count, *drawn = hidden + 2 * widest;
  const long long rows = call.scalars[BB_ROWS], episodes = call.scalars[BB_EPISODES];
  bool odd = false;  // which of the two rows of hidden values is written next
  for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
    __syncthreads();  // before the last member's weights are replaced
    if (call.scalars[BB_RANK] > 0)
      bb_form_low_rank(call, row, weights, drawn);
    else
      bb_form_sums(call, row, weights, count);
    __syncthreads();
    for (long long episode = blockIdx.y; episode < episodes; episode += gridDim.y) {
      const float* start = (const float*)call.buffers[BB_STARTS] + episode * STATE;
      float state[STATE], total = 0.0f;
#pragma unroll
      for (int i = 0; i < STATE; ++i) state[i] = start[i];
      int time = 0;
      for (bool is_over = false; !is_over && time < steps; ++time) {
        float seen[SEEN], outputs[OUTPUTS], reward;
        Environment::observe(state, seen);
        const float *matrix = weights, *x = hidden;
        for (int layer = 0; layer + 1 < layers; ++layer) {
          const int inputs = bb_width(call, layer), width = bb_width(call, layer + 1);
          float* y = hidden + (odd ? widest : 0);
          for (int o = (int)threadIdx.x; o < width; o += (int)blockDim.x) {
            float sum;
            if (layer) {
              sum = bb_output(matrix, x, inputs, width, o);
            } else {
              sum = matrix[SEEN * width + o];
#pragma unroll
              for (int j = 0; j < SEEN; ++j) sum = BB_FMA(seen[j], matrix[j * width + o], sum);
            }
            y[o] = bb_tanh(sum);
          }
          __syncthreads();
          matrix += (inputs + 1) * width;
          odd = !odd;
          x = y;
        }
        const int inputs = bb_width(call, layers - 1);
#pragma unroll
        for (int o = 0; o < OUTPUTS; ++o) {
          if (layers > 1) {
            outputs[o] = bb_output(matrix, x, inputs, OUTPUTS, o);
          } else {
            outputs[o] = matrix[SEEN * OUTPUTS + o];
#pragma unroll
            for (int j = 0; j < SEEN; ++j) outputs[o] = BB_FMA(seen[j], matrix[j * OUTPUTS + o], outputs[o]);
          }
        }
        is_over = Environment::step(state, bb_action<Environment>(outputs), reward);
        total = BB_ADD(total, reward);
      }
      if (threadIdx.x == 0) {
        ((float*)call.buffers[BB_RETURNS])[row * episodes + episode] = total;
        ((int*)call.buffers[BB_LENGTHS])[row * episodes + episode] = time;
      }
    }
  }
}

BB_KERNEL(bb_rollout_cartpole, 256) { bb_play<bb_cartpole>(call); }
BB_KERNEL(bb_rollout_pendulum, 256) { bb_play<bb_pendulum>(call); }
BB_KERNEL(bb_rollout_mountain_car, 256) { bb_play<bb_mountain_car>(call); }
BB_KERNEL(bb_rollout_acrobot, 256) { bb_play<bb_acrobot>(call); }
