// The kernels in use, as operators.
//   cpu_kernels()      returns the name of the table in use: "amx", "avx512", "avx512_rows13", "avx512_rows14", "avx2",
//                      "baseline" or "amx_plain"
//   use_cpu_kernels(s) chooses another that this processor can run, or "auto"; for tests and measurements

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <string>

#include "cpu/base/bf16_kernels.h"
#include "isa.h"

namespace xmae_fast {
namespace baseline { extern const Kernels table; }
namespace avx2 { extern const Kernels table; }
namespace avx512 { extern const Kernels table; }
namespace bf16_plain { extern const SplitKernels split_table; }
namespace bf16_amx { extern const SplitKernels split_table; }

namespace {

// The kernels of a table, with inference by three bfloat16 parts.
Kernels with_split(Kernels table, const char* name, const char* instruction_set, const SplitKernels* split) {
  table.name = name;
  table.instruction_set = instruction_set;
  table.split = split;
  return table;
}

#if defined(__x86_64__)
// The kernels for AVX-512 with register tiles of at most `rows` rows. avx512::table itself has 12.
Kernels avx512_with(int64_t rows, const char* name) {
  Kernels table = avx512::table;
  table.name = name;
  table.tile_rows = rows;
  return table;
}

isa::TableChoice<Kernels> choice() {
  // What AMX would compute, by plain loops: for tests on processors without it. It is never chosen by itself.
  static const Kernels plain = with_split(baseline::table, "amx_plain", "baseline", &bf16_plain::split_table);
  static const Kernels rows13 = avx512_with(13, "avx512_rows13"), rows14 = avx512_with(14, "avx512_rows14");
  // With 13 rows the embedding (B = 64) is 6-8 % faster than with 12 on Emerald Rapids, and slower on Zen 4.
  // `python -m benchmarks.studies.tiles` measures the three; this line is the choice.
  const Kernels* fastest = isa::is_golden_cove_or_later(isa::this_processor()) ? &rows13 : &avx512::table;
#if XMAE_HAS_AMX
  static const Kernels amx = with_split(*fastest, "amx", "amx", &bf16_amx::split_table);
  if (isa::runs("amx", isa::F16C::kNotUsed)) {
    return {
        isa::F16C::kNotUsed, {&amx, &avx512::table, &rows13, &rows14, &avx2::table, &baseline::table, &plain}, &amx};
  }
#endif
  return {isa::F16C::kNotUsed, {&avx512::table, &rows13, &rows14, &avx2::table, &baseline::table, &plain}, fastest};
}
#else
isa::TableChoice<Kernels> choice() {
  static const Kernels plain = with_split(baseline::table, "amx_plain", "baseline", &bf16_plain::split_table);
  return {isa::F16C::kNotUsed, {&baseline::table, &plain}};
}
#endif

isa::TableChoice<Kernels>& tables() {
  static isa::TableChoice<Kernels> tables = choice();
  return tables;
}

std::string cpu_kernels() { return kernels().name; }

void use_cpu_kernels(std::string name) {
  STD_TORCH_CHECK(
      tables().choose(name), "use_cpu_kernels: expected one of ", tables().names(), " on this processor, got ", name);
}

}  // namespace

const Kernels& kernels() { return tables().chosen(); }

int64_t tile_rows() { return kernels().tile_rows; }

}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CompositeImplicitAutograd, m) {
  m.impl("cpu_kernels", TORCH_BOX(&xmae_fast::cpu_kernels));
  m.impl("use_cpu_kernels", TORCH_BOX(&xmae_fast::use_cpu_kernels));
}
