#include "stream.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

namespace ascend_virtual {
namespace {

struct Streams {
  std::mutex mutex;
  std::set<Stream*> all;
  int created = 0;
};

Streams& Known() {
  static Streams* streams = new Streams;
  return *streams;
}

uint64_t Now() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch())
          .count());
}

// Half of the tasks run at once, most of the others soon, and one in sixteen after a long time.
uint64_t Delay(Random& random) {
  const uint64_t longest = static_cast<uint64_t>(Option("DELAY_US"));
  const uint64_t kind = random.Next() % 16;
  if (longest == 0 || kind < 8) return 0;
  return random.Next() % (kind == 15 ? 20 * longest : longest);
}

}  // namespace

Stream::Stream(int number) : number_(number), thread_([this] { Run(); }) {}

Stream::~Stream() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Stream* Stream::Of(aclrtStream handle) {
  static Stream* standard = new Stream(-1);
  return handle != nullptr ? static_cast<Stream*>(handle) : standard;
}

aclrtStream Stream::Create() {
  Streams& streams = Known();
  const std::lock_guard lock(streams.mutex);
  auto* stream = new Stream(streams.created++);
  streams.all.insert(stream);
  Count("streams", 1);
  return stream;
}

bool Stream::Destroy(aclrtStream handle) {
  Streams& streams = Known();
  {
    const std::lock_guard lock(streams.mutex);
    if (streams.all.erase(static_cast<Stream*>(handle)) == 0) return false;
  }
  delete static_cast<Stream*>(handle);
  Count("streams", -1);
  return true;
}

aclError Stream::SynchronizeAll() {
  std::set<Stream*> all;
  {
    const std::lock_guard lock(Known().mutex);
    all = Known().all;
  }
  all.insert(Of(nullptr));
  aclError first = ACL_SUCCESS;
  for (Stream* stream : all) {
    const aclError error = stream->Synchronize();
    if (first == ACL_SUCCESS) first = error;
  }
  return first;
}

void Stream::Put(std::string name, Task task, bool always) {
  Trace("stream " + std::to_string(number_) + " <- " + name);
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back({std::move(name), std::move(task), always});
  }
  changed_.notify_all();
}

aclError Stream::Synchronize() {
  std::string failure;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return queue_.empty() && !busy_; });
    failure.swap(failure_);
  }
  if (failure.empty()) return ACL_SUCCESS;
  virtual_ascend_set("FAILURES", Option("FAILURES") + 1);
  return Fail(ACL_ERROR_RT_AICORE_EXCEPTION, failure);
}

bool Stream::Idle() {
  const std::lock_guard lock(mutex_);
  return queue_.empty() && !busy_;
}

void Stream::Run() {
  int64_t seed = Option("SEED");
  const auto make = [&] { return Random(static_cast<uint64_t>(seed) * 1000 + static_cast<uint64_t>(number_ + 1)); };
  Random random = make();
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || !queue_.empty(); });
    if (queue_.empty()) return;
    Entry entry = std::move(queue_.front());
    queue_.pop_front();
    busy_ = true;
    const bool drop = !failure_.empty() && !entry.always;
    lock.unlock();
    std::string failure;
    if (!drop) {
      if (seed != Option("SEED")) {  // a test changes it, and graphs run on a stream that is as old as the process
        seed = Option("SEED");
        random = make();
      }
      std::this_thread::sleep_for(std::chrono::microseconds(Delay(random)));
      failure = entry.task();
    }
    entry.task = nullptr;  // what it holds may count as alive
    lock.lock();
    if (failure_.empty() && !failure.empty()) failure_ = entry.name + ": " + failure;
    busy_ = false;
    if (queue_.empty()) changed_.notify_all();
  }
}

void Event::Record(std::shared_ptr<Event> event, Stream* stream) {
  int count = 0;
  {
    const std::lock_guard lock(event->mutex_);
    count = ++event->recorded_;
  }
  stream->Put(
      "record of an event",
      [event, count]() -> std::string {
        const std::lock_guard lock(event->mutex_);
        event->done_ = std::max(event->done_, count);
        event->microseconds_ = Now();
        event->changed_.notify_all();
        return "";
      },
      true);
}

void Event::Wait(std::shared_ptr<Event> event, Stream* stream) {
  int count = 0;
  {
    const std::lock_guard lock(event->mutex_);
    count = event->recorded_;
  }
  stream->Put(
      "wait for an event",
      [event, count]() -> std::string {
        std::unique_lock lock(event->mutex_);
        event->changed_.wait(lock, [&] { return event->done_ >= count; });
        return "";
      },
      true);
}

void Event::Synchronize() {
  std::unique_lock lock(mutex_);
  const int count = recorded_;
  changed_.wait(lock, [&] { return done_ >= count; });
}

bool Event::Complete() {
  const std::lock_guard lock(mutex_);
  return done_ >= recorded_;
}

uint64_t Event::Microseconds() {
  const std::lock_guard lock(mutex_);
  return microseconds_;
}

}  // namespace ascend_virtual
