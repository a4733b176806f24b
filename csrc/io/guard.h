// Reads from a memory map whose file may be cut short at any time. The bus error that such a read causes becomes a
// return value.
#pragma once

#include <setjmp.h>
#include <signal.h>

namespace xmae_io {

// Where the innermost guarded read of this thread returns to after a bus error, or null.
extern thread_local sigjmp_buf* guarded;

// Installs the handler if it is not in place. A bus error outside of a guarded read goes to the handler that was there
// before.
void install_guard();

// Returns read(), or `otherwise` if it met a bus error. `read` must not own anything, because it may be left in the
// middle.
template <class Read, class Result>
Result guard(const Read& read, Result otherwise) {
  sigjmp_buf here;
  sigjmp_buf* const outer = guarded;
  if (sigsetjmp(here, 0)) {
    guarded = outer;
    return otherwise;
  }
  guarded = &here;
  const Result result = read();
  guarded = outer;
  return result;
}

}  // namespace xmae_io
