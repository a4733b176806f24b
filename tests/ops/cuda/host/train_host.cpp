// csrc/cuda/conv_stem/train_*.h on a host, launch by launch and CTA by CTA; called from Python with ctypes.

#include <memory>

#include "cuda/conv_stem/train_run_backward.h"
#include "lane.h"

using namespace xmae_fast::cuda;

namespace {

std::string message;
struct Launched {
  std::string kernel;
  int shared_bytes, together, blocks;
};
std::vector<Launched> launches;                  // of the last run
struct Accesses {
  int launch, kind, size;
  BankCount count;
};
std::vector<Accesses> accesses;                  // to shared memory, of the last run

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
    const std::string name = __PRETTY_FUNCTION__;
    launches.push_back({name.substr(name.find("L = ")), Kernel::kBytes, L::kTogether, blocks});
    std::map<std::pair<int, int>, BankCount> banks;
    for (int i = 0; i < blocks && message.empty(); ++i) {
      const int block = backwards ? blocks - 1 - i : i;
      Cta cta(kThreads, Kernel::kBytes, options);
      const auto exchange = std::make_unique<Exchange[][2]>(kThreads / 32);
      message = cta.run([&](int thread) {
        Lane lane(cta, exchange.get(), thread, block, blocks, nullptr);
        Kernel::run(lane, arguments);
      });
      if (!message.empty()) message = launches.back().kernel + ", CTA " + std::to_string(block) + ": " + message;
      for (const auto& [key, count] : cta.banks) {
        BankCount& sum = banks[{std::get<1>(key), std::get<2>(key)}];
        sum.instructions += count.instructions;
        sum.wavefronts += count.wavefronts;
        sum.ideal += count.ideal;
      }
    }
    const int launch = static_cast<int>(launches.size()) - 1;
    for (const auto& [key, count] : banks) accesses.push_back({launch, key.first, key.second, count});
  }
};

}  // namespace

extern "C" {

// sizes: B and L of each stem. An empty message: all is well. With `gradients` the backward, otherwise the forward.
const char* train_host(
    int stems, const int* sizes, int batch, int half, const void* x, int x_is_float, const float* flat, int64_t flat_stride,
    uint16_t* kept, float* norms, float* moments, uint16_t* features, const uint16_t* const* grads, float* gradients,
    int order, int late, int tanh, int backwards, int count_banks, int without, int multiprocessors) {
  Chosen::half = half != 0;
  message.clear();
  launches.clear();
  accesses.clear();
  TrainBuffers buffers{};
  buffers.stems = stems;
  for (int s = 0; s < stems; ++s) {
    buffers.B[s] = sizes[2 * s];
    buffers.L[s] = sizes[2 * s + 1];
    buffers.grads[s] = gradients ? grads[s] : nullptr;
  }
  buffers.batch = batch != 0;
  buffers.multiprocessors = multiprocessors;
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
  HostRun run{Options{order, late != 0, tanh, count_banks != 0, without}, backwards != 0};
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

// The launches of the last run: how many; one of them as (bytes of shared memory, CTAs at a time, CTAs) and its name.
int launch_count() { return static_cast<int>(launches.size()); }
const char* launch_at(int i, int* numbers) {
  const Launched& one = launches[i];
  const int row[] = {one.shared_bytes, one.together, one.blocks};
  std::copy_n(row, 3, numbers);
  return one.kernel.c_str();
}
// Rows (launch, kind, size, instructions, wavefronts, ideal) of the last run; how many.
int access_counts(int64_t* rows, int most) {
  const int count = std::min(most, static_cast<int>(accesses.size()));
  for (int i = 0; i < count; ++i) {
    const Accesses& a = accesses[i];
    const int64_t row[] = {a.launch, a.kind, a.size, a.count.instructions, a.count.wavefronts, a.count.ideal};
    std::copy_n(row, 6, rows + 6 * i);
  }
  return count;
}
}
