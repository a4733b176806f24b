// Chooses a table of functions by this processor's instruction set, once, at run time.
//
// A library compiles the same functions once for each instruction set, in a namespace of its own, and lists them there
// in a table. A `TableChoice` knows all of these tables and holds the one in use.
#pragma once

#include <atomic>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace xmae_fast::isa {

enum class F16C : bool { kNotUsed, kUsed };  // whether code for AVX2 and AVX-512 converts numbers of float16

// Whether this processor can run code for the instruction set of this name: "avx512", "avx2" or "baseline".
inline bool runs(std::string_view name, F16C f16c) {
  if (name == "baseline") return true;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    (f16c == F16C::kNotUsed || __builtin_cpu_supports("f16c"));
  if (name == "avx2") return avx2;
  if (name == "avx512") {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
#endif
  return false;
}

// Table: a struct of functions with members `const char* name` and `const char* instruction_set`. Several tables may
// be compiled for one instruction set.
template <typename Table>
class TableChoice {
 public:
  // tables: fastest first, the one for "baseline" last. The fastest that this processor can run is chosen.
  TableChoice(F16C f16c, std::initializer_list<const Table*> tables) {
    for (const Table* table : tables) {
      if (runs(table->instruction_set, f16c)) usable_.push_back(table);
    }
    chosen_ = usable_.front();
  }

  const Table& chosen() const { return *chosen_.load(std::memory_order_relaxed); }

  // Chooses the table of this name, or the fastest for "auto". Returns false, and changes nothing, where there is none.
  bool choose(std::string_view name) {
    for (const Table* table : usable_) {
      if (name == "auto" || name == table->name) {
        chosen_ = table;
        return true;
      }
    }
    return false;
  }

  // The names that `choose` takes on this processor, as errors list them: "auto, avx512, avx2, baseline" or fewer.
  std::string names() const {
    std::string names = "auto";
    for (const Table* table : usable_) names = names + ", " + table->name;
    return names;
  }

 private:
  std::vector<const Table*> usable_;  // fastest first
  std::atomic<const Table*> chosen_;
};

}  // namespace xmae_fast::isa
