#include "ms_dsv32/kernel_impl/cpu/run_call.h"

#include <pthread.h>

#include <cstring>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <stdexcept>
#include <string>

#include "ms_dsv32/kernel_impl/cpu/fp_env.h"
#include "ms_dsv32/kernel_impl/cpu/kernel_calls.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"
#include "ms_dsv32/kernel_impl/cpu/verbose.h"

namespace ms_dsv32 {

using op_info::OpInfo;

namespace {

// Keeps the number of threads as it is until a kernel is done, because a kernel sizes its scratch by it. Calls share
// the lock. A change of the number goes before calls that come later, unlike with std::shared_mutex, whose writers wait
// for as long as calls overlap.
class ThreadCountMutex {
 public:
  void lock() { pthread_rwlock_wrlock(&lock_); }
  void unlock() { pthread_rwlock_unlock(&lock_); }
  void lock_shared() { pthread_rwlock_rdlock(&lock_); }
  void unlock_shared() { pthread_rwlock_unlock(&lock_); }

 private:
  pthread_rwlock_t lock_ = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
};

ThreadCountMutex thread_count_mutex;

// A child of fork() would inherit the mutex held by calls whose threads it does not have. It cannot unlock the mutex
// either: glibc compares the caller's thread id, another one in the child, with the writer's. So the child makes a
// fresh one.
const int at_fork = pthread_atfork(nullptr, nullptr, [] { new (&thread_count_mutex) ThreadCountMutex; });

}  // namespace

std::vector<TensorView> Inputs(const OpInfo& op, const int* ranks, const int64_t* const* shapes,
                               const char* const* dtypes, bool given) {
  std::vector<TensorView> inputs(op.input_count);
  for (size_t i = 0; i < op.input_count; ++i) {
    const bool absent = op.inputs[i].optional && !given;
    inputs[i] = absent ? TensorView{nullptr, TensorView::kAbsent, nullptr}
                       : TensorView{dtypes ? dtypes[i] : nullptr, ranks[i], shapes[i]};
  }
  return inputs;
}

std::vector<TensorView> Inputs(const OpInfo& op, const int* ranks, const int64_t* const* shapes,
                               const char* const* dtypes) {
  return Inputs(op, ranks, shapes, dtypes, std::strcmp(dtypes[op.input_count - 1], "none") != 0);
}

std::vector<std::vector<int64_t>> OutputShapes(const OpInfo& op, const Dims& dims) {
  std::vector<std::vector<int64_t>> shapes;
  for (size_t i = 0; i < op.output_count; ++i) shapes.push_back(dims.Shape(op.outputs[i]));
  return shapes;
}

void RunCall(const Operator& op, void** data, const std::vector<TensorView>& inputs, const AttrSource& attrs) {
  const std::shared_lock lock(thread_count_mutex);
  const cpu::DefaultFpEnv fp_env;
  const Call call(op.info, data, inputs.data(), attrs, op.bind(op.info, inputs.data(), attrs));
  op.check(call);
  if (cpu::kVerbose) cpu::TellLibrary();
  try {
    if (op.has_kernel) RunKernel(call);
  } catch (const std::bad_alloc& e) {  // before the kernel has written anything
    throw std::runtime_error(std::string(op.info.name) + ": " + e.what());
  }
}

void SetThreadCount(int count) {
  const std::unique_lock lock(thread_count_mutex);
  cpu::SetNumThreads(count);
}

}  // namespace ms_dsv32
