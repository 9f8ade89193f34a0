// Classic control: dynamics of four environments in the order of operations of kernels/environments.py, which has their
// sources. A step takes the state on and gives the reward; it returns whether that ends the episode.
#pragma once
#include "functions.cuh"

// An angle within -pi and pi: two parts of 2 pi, the first so short that its product with the turns is exact.
BB_FUNCTION float bb_wrapped(float angle) {
  const float turns = bb_round(BB_MUL(angle, 0.15915494309189535f));
  return BB_ADD(BB_ADD(angle, -BB_MUL(turns, 6.28125f)), -BB_MUL(turns, 0.0019353071795864769f));
}

struct bb_cartpole {
  static constexpr int STATE = 4, OBSERVATION = 4, OUTPUTS = 2;
  static constexpr float FORCE = 0.0f;  // 0: the largest output names a discrete action

  BB_METHOD void observe(const float* state, float* out) {
    out[0] = BB_DIV(state[0], 2.4f);
    out[1] = BB_DIV(state[1], 3.0f);
    out[2] = BB_DIV(state[2], 0.21f);
    out[3] = BB_DIV(state[3], 3.0f);
  }

  BB_METHOD bool step(float* state, float action, float& reward) {
    const float velocity = state[1], spin = state[3];
    float sine, cosine;
    bb_sin_cos(state[2], sine, cosine);
    const float force = BB_MUL(10.0f, BB_ADD(BB_MUL(2.0f, action), -1.0f));
    const float push = BB_DIV(BB_ADD(force, BB_MUL(BB_MUL(BB_MUL(0.05f, spin), spin), sine)), 1.1f);
    const float pole = BB_DIV(BB_MUL(BB_MUL(0.1f, cosine), cosine), 1.1f);
    const float turn = BB_DIV(BB_ADD(BB_MUL(9.8f, sine), -BB_MUL(cosine, push)),
                              BB_MUL(0.5f, BB_ADD(1.3333333333333333f, -pole)));
    const float pull = BB_ADD(push, -BB_DIV(BB_MUL(BB_MUL(0.05f, turn), cosine), 1.1f));
    state[0] = BB_ADD(state[0], BB_MUL(0.02f, velocity));
    state[1] = BB_ADD(velocity, BB_MUL(0.02f, pull));
    state[2] = BB_ADD(state[2], BB_MUL(0.02f, spin));
    state[3] = BB_ADD(spin, BB_MUL(0.02f, turn));
    reward = 1.0f;
    return (state[0] > 2.4f) | (state[0] < -2.4f) | (state[2] > 0.20943951023931953f) | (state[2] < -0.20943951023931953f);
  }
};

struct bb_pendulum {
  static constexpr int STATE = 2, OBSERVATION = 3, OUTPUTS = 1;
  static constexpr float FORCE = 2.0f;

  BB_METHOD void observe(const float* state, float* out) {
    bb_sin_cos(state[0], out[1], out[0]);
    out[2] = BB_DIV(state[1], 8.0f);
  }

  BB_METHOD bool step(float* state, float action, float& reward) {
    const float angle = state[0], speed = state[1], torque = bb_clip(action, 2.0f), error = bb_wrapped(angle);
    float sine, cosine;
    bb_sin_cos(angle, sine, cosine);
    const float moving = BB_ADD(BB_MUL(error, error), BB_MUL(BB_MUL(0.1f, speed), speed));
    reward = -BB_ADD(moving, BB_MUL(BB_MUL(0.001f, torque), torque));
    const float turn = BB_ADD(BB_MUL(15.0f, sine), BB_MUL(3.0f, torque));
    state[1] = bb_clip(BB_ADD(speed, BB_MUL(turn, 0.05f)), 8.0f);
    state[0] = BB_ADD(angle, BB_MUL(0.05f, state[1]));
    return false;
  }
};

struct bb_acrobot {
  static constexpr int STATE = 4, OBSERVATION = 6, OUTPUTS = 3;
  static constexpr float FORCE = 0.0f;

  BB_METHOD void observe(const float* state, float* out) {
    bb_sin_cos(state[0], out[1], out[0]);
    bb_sin_cos(state[1], out[3], out[2]);
    out[4] = BB_DIV(state[2], 12.566370614359172f);
    out[5] = BB_DIV(state[3], 28.274333882308138f);
  }

  // The state's derivative.
  BB_METHOD void slope(const float* state, float torque, float* out) {
    const float speed1 = state[2], speed2 = state[3];
    float sine, cosine, sine1, sine12, unused;
    bb_sin_cos(state[1], sine, cosine);
    bb_sin_cos(state[0], sine1, unused);
    bb_sin_cos(BB_ADD(state[0], state[1]), sine12, unused);
    const float d1 = BB_ADD(3.5f, cosine), d2 = BB_ADD(1.25f, BB_MUL(0.5f, cosine));
    const float gravity2 = BB_MUL(4.9f, sine12), ratio = BB_DIV(d2, d1);
    const float coupling = BB_MUL(BB_MUL(BB_MUL(0.5f, speed2), BB_ADD(speed2, BB_MUL(2.0f, speed1))), sine);
    const float gravity1 = BB_ADD(BB_ADD(BB_MUL(14.7f, sine1), gravity2), -coupling);
    const float centrifugal = BB_MUL(BB_MUL(BB_MUL(0.5f, speed1), speed1), sine);
    const float pull = BB_ADD(BB_ADD(BB_ADD(torque, BB_MUL(ratio, gravity1)), -centrifugal), -gravity2);
    const float turn2 = BB_DIV(pull, BB_ADD(1.25f, -BB_MUL(d2, ratio)));
    out[0] = speed1;
    out[1] = speed2;
    out[2] = BB_DIV(-BB_ADD(BB_MUL(d2, turn2), gravity1), d1);
    out[3] = turn2;
  }

  BB_METHOD bool step(float* state, float action, float& reward) {
    const float torque = BB_ADD(action, -1.0f);
    float k[4], total[4], at[4];
    slope(state, torque, k);
#pragma unroll
    for (int i = 0; i < 4; ++i) total[i] = k[i], at[i] = BB_ADD(state[i], BB_MUL(0.1f, k[i]));
    slope(at, torque, k);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      total[i] = BB_ADD(total[i], BB_MUL(2.0f, k[i])), at[i] = BB_ADD(state[i], BB_MUL(0.1f, k[i]));
    slope(at, torque, k);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      total[i] = BB_ADD(total[i], BB_MUL(2.0f, k[i])), at[i] = BB_ADD(state[i], BB_MUL(0.2f, k[i]));
    slope(at, torque, k);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      at[i] = BB_ADD(state[i], BB_MUL(0.03333333333333333f, BB_ADD(total[i], k[i])));
    state[0] = bb_wrapped(at[0]);
    state[1] = bb_wrapped(at[1]);
    state[2] = bb_clip(at[2], 12.566370614359172f);
    state[3] = bb_clip(at[3], 28.274333882308138f);
    float unused, cosine1, cosine12;
    bb_sin_cos(state[0], unused, cosine1);
    bb_sin_cos(BB_ADD(state[0], state[1]), unused, cosine12);
    const bool is_over = BB_ADD(-cosine1, -cosine12) > 1.0f;
    reward = is_over ? 0.0f : -1.0f;
    return is_over;
  }
};

struct bb_mountain_car {
  static constexpr int STATE = 2, OBSERVATION = 2, OUTPUTS = 1;
  static constexpr float FORCE = 1.0f;

  BB_METHOD void observe(const float* state, float* out) {
    out[0] = BB_DIV(state[0], 1.2f);
    out[1] = BB_DIV(state[1], 0.07f);
  }

  BB_METHOD bool step(float* state, float action, float& reward) {
    float unused, cosine;
    bb_sin_cos(BB_MUL(3.0f, state[0]), unused, cosine);
    const float push = BB_ADD(BB_MUL(bb_clip(action, 1.0f), 0.0015f), -BB_MUL(0.0025f, cosine));
    const float velocity = bb_clip(BB_ADD(state[1], push), 0.07f);
    float position = BB_ADD(state[0], velocity);
    position = position > 0.6f ? 0.6f : position;
    position = position < -1.2f ? -1.2f : position;
    state[0] = position;
    state[1] = (position <= -1.2f) & (velocity < 0.0f) ? 0.0f : velocity;  // the left wall
    const bool is_over = (position >= 0.45f) & (state[1] >= 0.0f);
    const float spent = -BB_MUL(0.1f, BB_MUL(action, action));
    reward = is_over ? BB_ADD(100.0f, spent) : spent;
    return is_over;
  }
};
