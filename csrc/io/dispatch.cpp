// Chooses the functions for this processor, once, at run time.
#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "rows.h"

namespace xmae_io {
namespace baseline { extern const Rows table; }
#if defined(__x86_64__)
namespace avx2 { extern const Rows table; }
namespace avx512 { extern const Rows table; }
#endif

namespace {

// Fastest first; only what this processor has.
std::vector<const Rows*> usable() {
  std::vector<const Rows*> tables;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
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

std::atomic<const Rows*>& chosen() {
  static std::atomic<const Rows*> table{usable().front()};
  return table;
}

}  // namespace

const Rows& rows() { return *chosen().load(std::memory_order_relaxed); }

void use_rows(const char* name) {
  std::string names = "auto";
  const auto tables = usable();
  if (name == names) return chosen().store(tables.front());
  for (const Rows* table : tables) {
    if (std::string(name) == table->name) return chosen().store(table);
    names = names + ", " + table->name;
  }
  throw std::invalid_argument("use_rows: expected one of " + names + " on this processor, got " + name);
}

}  // namespace xmae_io
