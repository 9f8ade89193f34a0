// The kernels' grids on a CPU, for tests alone (simulator.h).
#define BB_SIMULATOR
#include "../lowrank.cu"
#include "../noise.cu"
#include "../rollout.cu"
#include "../seedsum.cu"

extern "C" __attribute__((visibility("default"))) int bb_simulate(const char* kernel, const unsigned* blocks,
                                                                  unsigned threads, unsigned shared, const bb_call* call,
                                                                  unsigned order) {
  return bb_simulator::launch(kernel, blocks, threads, shared, call, order);
}

// Leaves out the barrier at a line of whichever text is run, as a mistake that the tests must find; 0: none.
extern "C" __attribute__((visibility("default"))) void bb_without_barrier(int line) {
  bb_simulator::machine().without = line;
}
