// The bfloat16 kernels in use, as operators.
//   cpu_bf16_kernels()      returns the name of the table in use: "amx", "avx512_bf16", "plain", or "" for none
//   cpu_bf16_reason()       returns why no table is used by itself, or ""
//   use_cpu_bf16_kernels(s) chooses a table that this processor can run, "auto", or "none"; for tests and measurements

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <atomic>
#include <string>

#include "cpu/base/bf16_kernels.h"
#include "isa.h"

namespace xmae_fast {
namespace bf16_plain { extern const Bf16Kernels bf16_table; }
namespace bf16_avx512 { extern const Bf16Kernels bf16_table; }
namespace bf16_amx { extern const Bf16Kernels bf16_table; }

namespace {

// What this processor can run, found out once. AMX is asked of the kernel when somebody first asks for bfloat16.
struct Choices {
  const Bf16Kernels* amx = nullptr;
  const Bf16Kernels* pairs = nullptr;
  const Bf16Kernels* automatic = nullptr;
  std::string reason;  // why `automatic` is null
  std::atomic<const Bf16Kernels*> chosen{nullptr};

  Choices() {
    const std::string no_amx = isa::why_no_amx(), no_pairs = isa::why_no_avx512_bf16();
#if XMAE_HAS_AMX
    if (no_amx.empty()) amx = &bf16_amx::bf16_table;
#endif
#if XMAE_HAS_AVX512_BF16
    if (no_pairs.empty()) pairs = &bf16_avx512::bf16_table;
#endif
    if (amx != nullptr) {
      automatic = amx;
    } else if (pairs != nullptr && isa::is_amd()) {
      automatic = pairs;
    } else if (pairs != nullptr) {
      reason = "AMX: " + no_amx + "; AVX512-BF16 is here, but on this processor it is slower than float32";
    } else {
      reason = "AMX: " + no_amx + "; AVX512-BF16: " + no_pairs;
    }
    chosen = automatic;
  }
};

Choices& choices() {
  static auto* const instance = new Choices;  // never destroyed: threads may outlive main
  return *instance;
}

std::string cpu_bf16_kernels() {
  const Bf16Kernels* table = bf16_kernels();
  return table != nullptr ? table->name : "";
}

std::string cpu_bf16_reason() { return choices().reason; }

void use_cpu_bf16_kernels(std::string name) {
  Choices& all = choices();
  const bool known = name == "auto" || name == "none" || name == "plain" || (name == "amx" && all.amx != nullptr) ||
                     (name == "avx512_bf16" && all.pairs != nullptr);
  STD_TORCH_CHECK(
      known, "use_cpu_bf16_kernels: expected one of auto, none, ", all.amx != nullptr ? "amx, " : "",
      all.pairs != nullptr ? "avx512_bf16, " : "", "plain on this processor, got ", name);
  all.chosen = name == "auto"    ? all.automatic
               : name == "none"  ? nullptr
               : name == "plain" ? &bf16_plain::bf16_table
               : name == "amx"   ? all.amx
                                 : all.pairs;
}

}  // namespace

const Bf16Kernels* bf16_kernels() { return choices().chosen.load(std::memory_order_relaxed); }

const Bf16Kernels& need_bf16_kernels(const char* op) {
  const Bf16Kernels* table = bf16_kernels();
  STD_TORCH_CHECK(table != nullptr, op, ": there are no bfloat16 kernels for this processor: ", choices().reason);
  return *table;
}

Bf16Matrix pack_matrix_bf16(
    int64_t columns, int64_t steps, const float* weights, int64_t row_stride, int64_t step_stride) {
  const Bf16Kernels* table = bf16_kernels();
  if (table == nullptr || (row_stride != 1 && step_stride != 1)) {
    const auto value = [=](int64_t k, int64_t n) { return weights[n * row_stride + k * step_stride]; };
    return pack_dense_bf16(columns, steps, value);
  }
  Bf16Matrix packed = dense_tiles(columns, steps);
  table->fill_tiles(weights, row_stride, step_stride, columns, steps, packed.tile(0));
  return packed;
}

}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CompositeImplicitAutograd, m) {
  m.impl("cpu_bf16_kernels", TORCH_BOX(&xmae_fast::cpu_bf16_kernels));
  m.impl("cpu_bf16_reason", TORCH_BOX(&xmae_fast::cpu_bf16_reason));
  m.impl("use_cpu_bf16_kernels", TORCH_BOX(&xmae_fast::use_cpu_bf16_kernels));
}
