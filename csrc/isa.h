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

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#endif

// Whether the compiler knows the instructions for bfloat16. AMX also needs Linux, which must be asked for it.
#if defined(__x86_64__) && ((defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11))
#define XMAE_HAS_AVX512_BF16 1
#else
#define XMAE_HAS_AVX512_BF16 0
#endif
#if XMAE_HAS_AVX512_BF16 && defined(__linux__)
#define XMAE_HAS_AMX 1
#else
#define XMAE_HAS_AMX 0
#endif

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

#if defined(__x86_64__)
// Returns register `which` (0: eax, 1: ebx, 2: ecx, 3: edx) of what CPUID says for leaf 7.
inline unsigned features(unsigned subleaf, int which) {
  unsigned registers[4] = {};
  if (!__get_cpuid_count(7, subleaf, &registers[0], &registers[1], &registers[2], &registers[3])) return 0;
  return registers[which];
}
inline bool is_amd() {
  __builtin_cpu_init();
  return __builtin_cpu_is("amd");
}
#else
inline bool is_amd() { return false; }
#endif

// Returns why code with VDPBF16PS on vectors of 512 bits cannot run here, or "".
inline std::string why_no_avx512_bf16() {
#if XMAE_HAS_AVX512_BF16
  const bool has = runs("avx512", F16C::kNotUsed) && (features(1, 0) >> 5 & 1);
  return has ? "" : "this processor does not have it";
#else
  return "the compiler of this build does not know it";
#endif
}

// Returns why code with AMX products of bfloat16 cannot run here, or "". Asks the kernel for permission, which it gives
// to the whole process, for good.
inline std::string why_no_amx() {
#if XMAE_HAS_AMX
  constexpr unsigned tile = 1u << 24, bf16 = 1u << 22;
  if (!why_no_avx512_bf16().empty() || (features(0, 3) & tile) == 0 || (features(0, 3) & bf16) == 0) {
    return "this processor does not have it";
  }
  constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  if (syscall(SYS_arch_prctl, request_permission, tile_data) == 0) return "";
  return std::string("the operating system does not permit it (") + std::strerror(errno) + ")";
#elif defined(__x86_64__)
  return "this build does not have it (it needs Linux and GCC 11 or Clang 12)";
#else
  return "this processor does not have it";
#endif
}

// Table: a struct of functions with a member `const char* name`, the name of its instruction set.
template <typename Table>
class TableChoice {
 public:
  // tables: fastest first, the one for "baseline" last. The fastest that this processor can run is chosen.
  TableChoice(F16C f16c, std::initializer_list<const Table*> tables) {
    for (const Table* table : tables) {
      if (runs(table->name, f16c)) usable_.push_back(table);
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
