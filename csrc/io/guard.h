// Reading a map whose file may be cut short meanwhile: the bus error becomes a return value.
#pragma once

#include <setjmp.h>
#include <signal.h>

namespace xmae_io {

// The innermost guarded read of this thread, or null.
extern thread_local sigjmp_buf* guarded;

// Makes sure that the handler is in place; a bus error outside a guarded read goes to whoever handled it before.
void install_guard();

// read(), or `otherwise` when it met a bus error. `read` must own nothing: it may be left in the middle.
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
