// The kernels in use, as operators.
//   cpu_kernels()      returns the name of the table in use: "avx512", "avx2" or "baseline"
//   use_cpu_kernels(s) chooses another that this processor can run, or "auto"; for tests and measurements

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <string>

#include "cpu/base/kernels.h"
#include "isa.h"

namespace xmae_fast {
namespace baseline { extern const Kernels table; }
namespace avx2 { extern const Kernels table; }
namespace avx512 { extern const Kernels table, table_rows13, table_rows14; }

namespace {

isa::TableChoice<Kernels>& tables() {
#if defined(__x86_64__)
  static isa::TableChoice<Kernels> tables(isa::F16C::kNotUsed, {&avx512::table, &avx512::table_rows13, &avx512::table_rows14, &avx2::table, &baseline::table});
#else
  static isa::TableChoice<Kernels> tables(isa::F16C::kNotUsed, {&baseline::table});
#endif
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
