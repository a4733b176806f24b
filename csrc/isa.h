// Chooses a table of functions by this processor's instruction set, once, at run time.
//
// A library compiles the same functions once for each instruction set, in a namespace of its own, and lists them there
// in a table. A `TableChoice` knows all of these tables and holds the one in use.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
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

inline std::string why_no_amx();

// Whether this processor can run code for the instruction set of this name: "amx", "avx512", "avx2" or "baseline".
inline bool runs(std::string_view name, F16C f16c) {
  if (name == "baseline") return true;
  if (name == "amx") return why_no_amx().empty();
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

// What tells families of x86 processors apart, from the instruction cpuid.
struct Processor {
  uint32_t vendor[3];      // EBX, EDX and ECX of leaf 0: twelve letters
  uint32_t signature;      // EAX of leaf 1: family and model
  uint32_t more_features;  // EDX of leaf 7
};

inline Processor this_processor() {
  Processor processor{};
#if defined(__x86_64__)
  uint32_t a, b, c;
  __cpuid(0, a, processor.vendor[0], processor.vendor[2], processor.vendor[1]);
  __cpuid(1, processor.signature, a, b, c);
  __get_cpuid_count(7, 0, &a, &b, &c, &processor.more_features);
#endif
  return processor;
}

// Whether this is an Intel processor with the cores that began with Golden Cove: Sapphire, Emerald and Granite Rapids
// and later ones. They are known by AMX or AVX512-FP16, which virtual machines tend to pass on while they state another
// model, or by their model.
inline bool is_golden_cove_or_later(const Processor& processor) {
  if (std::memcmp(processor.vendor, "GenuineIntel", 12) != 0) return false;
  constexpr uint32_t kAmxBf16 = 1u << 22, kAvx512Fp16 = 1u << 23, kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;
  if ((processor.more_features & (kAmxBf16 | kAvx512Fp16 | kAmxTile | kAmxInt8)) != 0) return true;
  const uint32_t family = processor.signature >> 8 & 0xF;
  const uint32_t model = (processor.signature >> 12 & 0xF0) | (processor.signature >> 4 & 0xF);
  constexpr uint32_t kModels[] = {0x8F, 0xCF, 0xAD, 0xAE};  // Sapphire, Emerald, Granite (two) Rapids
  for (const uint32_t known : kModels) {
    if (family == 6 && model == known) return true;
  }
  return false;
}

// Table: a struct of functions with members `const char* name` and `const char* instruction_set`. Several tables may
// be compiled for one instruction set.
template <typename Table>
class TableChoice {
 public:
  // tables: fastest first, the one for "baseline" last. The fastest that this processor can run is chosen. fastest:
  // one of them that is faster than all others if this processor can run it, or null.
  TableChoice(F16C f16c, std::initializer_list<const Table*> tables, const Table* fastest = nullptr) {
    for (const Table* table : tables) {
      if (!runs(table->instruction_set, f16c)) continue;
      usable_.insert(table == fastest ? usable_.begin() : usable_.end(), table);
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

  // The names that `choose` takes on this processor, as errors list them: "auto, avx512, avx2, baseline", for example.
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
