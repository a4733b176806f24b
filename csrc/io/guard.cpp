// The handler of bus errors.

#include "io/guard.h"

#include <mutex>

namespace xmae_io {

thread_local sigjmp_buf* guarded = nullptr;

namespace {

struct sigaction previous;
volatile sig_atomic_t passed_on = 0;

void on_bus_error(int number, siginfo_t* info, void* context) {
  if (guarded != nullptr) siglongjmp(*guarded, 1);
  if (passed_on) {  // another handler passed the signal back, as faulthandler does if it was installed after this one
    signal(number, SIG_DFL);
    return;
  }
  passed_on = 1;
  if (previous.sa_flags & SA_SIGINFO) return previous.sa_sigaction(number, info, context);
  if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
    signal(number, SIG_DFL);  // the read is repeated and ends the process, as it would have without this handler
    return;
  }
  previous.sa_handler(number);
}

}  // namespace

void install_guard() {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  struct sigaction current;
  if (sigaction(SIGBUS, nullptr, &current) != 0) return;
  if ((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == on_bus_error) return;
  struct sigaction ours = {};
  ours.sa_sigaction = on_bus_error;
  ours.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;  // SA_NODEFER, because siglongjmp does not unblock the signal
  sigemptyset(&ours.sa_mask);
  previous = current;
  sigaction(SIGBUS, &ours, nullptr);
}

}  // namespace xmae_io
