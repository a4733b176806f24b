// The functions in use, of the fastest instruction set that this processor has or of another that a test chose.

#include <stdexcept>
#include <string>

#include "io/rows.h"
#include "isa.h"

namespace xmae_io {
namespace baseline { extern const Rows table; }
namespace avx2 { extern const Rows table; }
namespace avx512 { extern const Rows table; }

namespace {

namespace isa = xmae_fast::isa;

isa::TableChoice<Rows>& tables() {
#if defined(__x86_64__)
  static isa::TableChoice<Rows> tables(isa::F16C::kUsed, {&avx512::table, &avx2::table, &baseline::table});
#else
  static isa::TableChoice<Rows> tables(isa::F16C::kUsed, {&baseline::table});
#endif
  return tables;
}

}  // namespace

const Rows& rows() { return tables().chosen(); }

void use_rows(const char* name) {
  if (tables().choose(name)) return;
  throw std::invalid_argument("use_rows: expected one of " + tables().names() + " on this processor, got " + name);
}

}  // namespace xmae_io
