// Chooses the kernels for this processor, once, at run time.
//   cpu_kernels()      name of the table in use: "avx512", "avx2" or "baseline"
//   use_cpu_kernels(s) chooses another that this processor has, or "auto"; for tests and measurements

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <atomic>
#include <string>

#include "kernels.h"

namespace xmae_fast {
namespace baseline { extern const Kernels table; }
#if defined(__x86_64__)
namespace avx2 { extern const Kernels table; }
namespace avx512 { extern const Kernels table; }
#endif

namespace {

// Fastest first; null where this processor lacks it.
std::vector<const Kernels*> usable_tables() {
  std::vector<const Kernels*> tables;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      tables.push_back(&avx512::table);
    }
    tables.push_back(&avx2::table);
  }
#endif
  tables.push_back(&baseline::table);
  return tables;
}

std::atomic<const Kernels*>& chosen() {
  static std::atomic<const Kernels*> table{usable_tables().front()};
  return table;
}

std::string cpu_kernels() { return kernels().name; }

void use_cpu_kernels(std::string name) {
  std::string names = "auto";
  const auto tables = usable_tables();
  if (name == "auto") return chosen().store(tables.front());
  for (const Kernels* table : tables) {
    if (name == table->name) return chosen().store(table);
    names = names + ", " + table->name;
  }
  STD_TORCH_CHECK(false, "use_cpu_kernels: expected one of ", names, " on this processor, got ", name);
}

}  // namespace

const Kernels& kernels() { return *chosen().load(std::memory_order_relaxed); }

}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CompositeImplicitAutograd, m) {
  m.impl("cpu_kernels", TORCH_BOX(&xmae_fast::cpu_kernels));
  m.impl("use_cpu_kernels", TORCH_BOX(&xmae_fast::use_cpu_kernels));
}
