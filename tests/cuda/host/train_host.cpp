// csrc/cuda/train_*.h on a host, launch by launch and CTA by CTA; called from Python with ctypes.

#include <memory>

#include "lane.h"
#include "train_run_backward.h"

using namespace xmae_fast::cuda;

namespace {

std::string message;
int launches = 0;

// Half or Bf16 as a run has it: every kernel is instantiated, and compiled, once for both.
struct Chosen {
  static inline bool half = false;
  static uint32_t one(float value) { return half ? Half::one(value) : Bf16::one(value); }
  static uint32_t two(float low, float high) { return half ? Half::two(low, high) : Bf16::two(low, high); }
  static float value(uint32_t bits) { return half ? Half::value(bits) : Bf16::value(bits); }
};

struct HostRun {
  Options options;
  bool backwards;  // CTAs in descending order

  template <typename L, typename Arguments>
  void launch(int blocks, const Arguments& arguments) {
    constexpr int kThreads = 256;
    using Lane = HostLane<Chosen, kThreads>;
    using Kernel = typename L::template Kernel<Lane>;
    static_assert(std::is_same_v<Arguments, typename Kernel::Arguments>);
    ++launches;
    for (int i = 0; i < blocks && message.empty(); ++i) {
      const int block = backwards ? blocks - 1 - i : i;
      Cta cta(kThreads, Kernel::kBytes, options);
      const auto exchange = std::make_unique<Exchange[][2]>(kThreads / 32);
      message = cta.run([&](int thread) {
        Lane lane(cta, exchange.get(), thread, block, blocks, nullptr);
        Kernel::run(lane, arguments);
      });
      if (!message.empty()) message = std::string(__PRETTY_FUNCTION__) + ", CTA " + std::to_string(block) + ": " + message;
    }
  }
};

}  // namespace

extern "C" {

// sizes: B and L of each stem. An empty message: all is well. With `gradients` the backward, otherwise the forward.
const char* train_host(
    int stems, const int* sizes, int batch, int half, const void* x, int x_is_float, const float* flat, int64_t flat_stride,
    uint16_t* kept, float* norms, float* moments, uint16_t* features, const uint16_t* const* grads, float* gradients,
    int order, int late, int backwards) {
  Chosen::half = half != 0;
  message.clear();
  launches = 0;
  TrainBuffers buffers{};
  buffers.stems = stems;
  for (int s = 0; s < stems; ++s) {
    buffers.B[s] = sizes[2 * s];
    buffers.L[s] = sizes[2 * s + 1];
    buffers.grads[s] = gradients ? grads[s] : nullptr;
  }
  buffers.batch = batch != 0;
  buffers.wave = {x, x_is_float != 0};
  buffers.flat = flat;
  buffers.flat_stride = flat_stride;
  buffers.kept = kept;
  buffers.norms = norms;
  buffers.moments = moments;
  buffers.features = features;
  buffers.gradients = gradients;
  const TrainSizes plan(buffers);
  const int64_t bytes = gradients ? plan.backward_work() : TrainSizes::forward_work();
  std::vector<Words4> work(bytes / 16 + 1, Words4{{0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}});  // NaN
  buffers.work = reinterpret_cast<char*>(work.data());
  HostRun run{Options{order, late != 0, 0, false, -1}, backwards != 0};
  gradients ? TrainBackward<HostRun>(run, buffers).all() : TrainForward<HostRun>(run, buffers).all();
  return message.c_str();
}

int64_t kept_numbers(int stems, const int* sizes) {
  TrainBuffers buffers{};
  buffers.stems = stems;
  for (int s = 0; s < stems; ++s) {
    buffers.B[s] = sizes[2 * s];
    buffers.L[s] = sizes[2 * s + 1];
  }
  return TrainSizes(buffers).kept_numbers();
}
int packed_numbers() { return kPackedBytes / 2; }
int launch_count() { return launches; }
}
