// csrc/cuda/conv_stem/stem_eval.h and stem_pack.h on a host, CTA by CTA; called from Python with ctypes.

#include <memory>

#include "cuda/conv_stem/stem_eval.h"
#include "cuda/conv_stem/stem_pack.h"
#include "lane.h"

using namespace xmae_fast::cuda;

namespace {

std::string message;
int barriers = 0;  // that a thread of the last CTA came to
std::map<std::tuple<int, int, int>, BankCount> banks;  // by layer, kind and size of access

// Half or Bf16 as a run has it: every size of the kernel is instantiated, and compiled, once for both.
struct Chosen {
  static inline bool half = false;
  static uint32_t one(float value) { return half ? Half::one(value) : Bf16::one(value); }
  static uint32_t two(float low, float high) { return half ? Half::two(low, high) : Bf16::two(low, high); }
  static float value(uint32_t bits) { return half ? Half::value(bits) : Bf16::value(bits); }
};

int layer_of(const Stream& stream, int64_t offset) {
  int layer = -1;
  for (int i = 0; i < stream.count && stream.records[i].offset <= offset; ++i) layer = stream.records[i].layer;
  return layer;
}

template <int WARPS, int R>
void run_all(EvalArguments run, const Stream& stream, const Options& options, int blocks, bool keep1_in_global) {
  using Layout = Room<WARPS, R>;
  using Lane = HostLane<Chosen, Layout::kThreads>;
  std::vector<char> keep1(keep1_in_global ? static_cast<int64_t>(blocks) * Layout::kKeep1Bytes : 0);
  run.keep1 = keep1_in_global ? keep1.data() : nullptr;
  for (int block = 0; block < blocks && message.empty(); ++block) {
    Cta cta(Layout::kThreads, keep1_in_global ? Layout::kBytesWithoutKeep1 : Layout::kBytes, options);
    const auto exchange = std::make_unique<Exchange[][2]>(WARPS);
    message = cta.run([&](int thread) {
      Lane lane(cta, exchange.get(), thread, block, blocks, run.stream);
      StemEval<Lane, R>(lane, run).all();
    });
    barriers = cta.barriers();
    for (const auto& [key, count] : cta.banks) {
      BankCount& entry = banks[{layer_of(stream, std::get<0>(key)), std::get<1>(key), std::get<2>(key)}];
      entry.instructions += count.instructions;
      entry.wavefronts += count.wavefronts;
      entry.ideal += count.ideal;
    }
  }
}

void pack(const Packing& packing, char* stream) {
  constexpr int kThreads = 37;  // of which none has a whole piece
  for (int i = 0; i < packing.stream.count; ++i) {
    for (int thread = 0; thread < kThreads; ++thread) pack_record<Chosen>(packing, i, thread, kThreads, stream);
  }
}

}  // namespace

extern "C" {

// weights: the 154 tensors of `flatten`, float32. features [B, L, S] of 16 bits. An empty message: all is well.
const char* stem_host(
    const float* const* weights, const void* x, int x_is_float, const int64_t* ids_keep, int patches, int patch_len,
    int64_t source_length, int B, int L, int S, uint16_t* features, int half, int variant, int blocks,
    int keep1_in_global, int order, int late, int tanh, int count_banks, int without) {
  Packing packing{};
  const float** fields = reinterpret_cast<const float**>(&packing.weights);
  std::copy_n(weights, sizeof(Weights) / sizeof(float*), fields);
  packing.stream = make_stream(S);
  packing.channels = S;
  std::vector<char> stream(static_cast<size_t>(packing.stream.chunks) * kChunk, static_cast<char>(0xff));
  Chosen::half = half != 0;
  pack(packing, stream.data());

  EvalArguments run{x, x_is_float != 0, ids_keep, patches, patch_len, source_length, B, L, S, stream.data(),
                    packing.stream.chunks, nullptr, features};
  const Options options{order, late != 0, tanh, count_banks != 0, without};
  message.clear();
  banks.clear();
  const bool global = keep1_in_global != 0;
  if (variant == 1024) run_all<8, 8>(run, packing.stream, options, blocks, global);
  else if (variant == 512) run_all<8, 4>(run, packing.stream, options, blocks, global);
  else run_all<4, 4>(run, packing.stream, options, blocks, global);
  return message.c_str();
}

int barrier_count() { return barriers; }

// One mma.m16n8k16 of a warp: registers a [32, 4] and b [32, 2] of bf16 pairs, c [32, 4] of float32.
void warp_mma(const uint32_t* a, const uint32_t* b, float* c) {
  Cta cta(32, 16, Options{});
  const auto exchange = std::make_unique<Exchange[][2]>(1);
  cta.run([&](int thread) {
    HostLane<Bf16, 32> lane(cta, exchange.get(), thread, 0, 1, nullptr);
    uint32_t mine[4];
    float sums[4];
    std::copy_n(a + 4 * thread, 4, mine);
    std::copy_n(c + 4 * thread, 4, sums);
    lane.mma(sums, mine, b[2 * thread], b[2 * thread + 1]);
    std::copy_n(sums, 4, c + 4 * thread);
  });
}

// Rows (layer, kind, size, instructions, wavefronts, ideal) of the last run; how many.
int bank_counts(int64_t* rows, int most) {
  int count = 0;
  for (const auto& [key, entry] : banks) {
    if (count == most) break;
    const int64_t row[] = {std::get<0>(key), std::get<1>(key), std::get<2>(key), entry.instructions, entry.wavefronts, entry.ideal};
    std::copy_n(row, 6, rows + 6 * count++);
  }
  return count;
}

// Rows (layer, tap, part, piece, offset, bytes) of the stream; how many.
int stream_records(int S, int64_t* rows) {
  const Stream stream = make_stream(S);
  for (int i = 0; i < stream.count; ++i) {
    const Record& r = stream.records[i];
    const int64_t row[] = {r.layer, r.tap, r.part, static_cast<int>(r.piece), r.offset, Stream::bytes(stream.layers[r.layer], r)};
    std::copy_n(row, 6, rows + 6 * i);
  }
  return stream.count;
}

void round_numbers(const float* in, int64_t count, int half, uint16_t* out, float* back) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = static_cast<uint16_t>(half ? Half::one(in[i]) : Bf16::one(in[i]));
    back[i] = half ? Half::value(out[i]) : Bf16::value(out[i]);
  }
}

int shared_bytes(int variant, int keep1_in_global) {
  if (variant == 1024) return keep1_in_global ? Room<8, 8>::kBytesWithoutKeep1 : Room<8, 8>::kBytes;
  if (variant == 512) return keep1_in_global ? Room<8, 4>::kBytesWithoutKeep1 : Room<8, 4>::kBytes;
  return keep1_in_global ? Room<4, 4>::kBytesWithoutKeep1 : Room<4, 4>::kBytes;
}
}
