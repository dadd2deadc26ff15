#include "stream.h"

#include <chrono>
#include <exception>
#include <map>
#include <utility>
#include <vector>

namespace ascend_virtual {
namespace {

struct Streams {
  std::mutex mutex;
  std::map<aclrtStream, std::shared_ptr<Stream>> all;
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

Stream::~Stream() { Stop(); }

void Stream::Stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::shared_ptr<Stream> Stream::Of(aclrtStream handle) {
  // Never destroyed: MindSpore uses it until the very end.
  static const auto* standard = new std::shared_ptr<Stream>(std::make_shared<Stream>(-1));
  if (handle == nullptr) return *standard;
  const std::lock_guard lock(Known().mutex);
  const auto found = Known().all.find(handle);
  return found == Known().all.end() ? nullptr : found->second;
}

aclrtStream Stream::Create() {
  Streams& streams = Known();
  const std::lock_guard lock(streams.mutex);
  auto stream = std::make_shared<Stream>(streams.created++);
  streams.all[stream.get()] = stream;
  Count("streams", 1);
  return stream.get();
}

bool Stream::Destroy(aclrtStream handle) {
  Streams& streams = Known();
  std::shared_ptr<Stream> stream;
  {
    const std::lock_guard lock(streams.mutex);
    const auto found = streams.all.find(handle);
    if (found == streams.all.end()) return false;
    stream = std::move(found->second);
    streams.all.erase(found);
  }
  stream->Stop();  // here, since the stream's own thread may be the last to hold it, and cannot wait for itself
  const std::lock_guard lock(stream->mutex_);
  if (!stream->failure_.empty()) {
    Add("FAILURES", 1);
    Say("a stream is destroyed with a failure that no synchronisation has told: " + stream->failure_);
    stream->failure_.clear();
  }
  Count("streams", -1);
  return true;
}

aclError Stream::SynchronizeAll() {
  std::vector<std::shared_ptr<Stream>> all = {Of(nullptr)};
  {
    const std::lock_guard lock(Known().mutex);
    for (const auto& [handle, stream] : Known().all) all.push_back(stream);
  }
  aclError first = ACL_SUCCESS;
  for (const auto& stream : all) {
    const aclError error = stream->Synchronize();
    if (first == ACL_SUCCESS) first = error;
  }
  return first;
}

void Stream::Put(std::string name, Task task, bool always) {
  {
    const std::lock_guard lock(mutex_);
    if (stop_) return Say("a stream is destroyed, and drops what comes after that: " + name);
    Trace("stream " + std::to_string(number_) + " <- " + name);  // in the order of the queue
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
  Add("FAILURES", 1);
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
      if (seed != Option("SEED")) {  // a test may change it, and graphs run on a stream that is as old as the process
        seed = Option("SEED");
        random = make();
      }
      std::this_thread::sleep_for(std::chrono::microseconds(Delay(random)));
      try {
        failure = entry.task();
      } catch (const std::exception& exception) {
        failure = std::string("exception: ") + exception.what();
      } catch (...) {
        failure = "an exception without a text";
      }
    }
    entry.task = nullptr;  // because objects that it holds would count as alive
    lock.lock();
    if (failure_.empty() && !failure.empty()) failure_ = entry.name + ": " + failure;
    busy_ = false;
    if (queue_.empty()) changed_.notify_all();
  }
}

void Event::Record(std::shared_ptr<Event> event, Stream& stream) {
  int count = 0;
  {
    const std::lock_guard lock(event->mutex_);
    count = ++event->recorded_;
    event->pending_.insert(count);
  }
  stream.Put(
      "record of an event",
      [event, count]() -> std::string {
        const std::lock_guard lock(event->mutex_);
        event->pending_.erase(count);
        event->microseconds_ = Now();
        event->changed_.notify_all();
        return "";
      },
      true);
}

void Event::Wait(std::shared_ptr<Event> event, Stream& stream) {
  int count = 0;
  {
    const std::lock_guard lock(event->mutex_);
    count = event->recorded_;
  }
  stream.Put(
      "wait for an event",
      [event, count]() -> std::string {
        std::unique_lock lock(event->mutex_);
        event->changed_.wait(lock, [&] { return event->pending_.count(count) == 0; });
        return "";
      },
      true);
}

void Event::Synchronize() {
  std::unique_lock lock(mutex_);
  const int count = recorded_;
  changed_.wait(lock, [&] { return pending_.count(count) == 0; });
}

bool Event::Complete() {
  const std::lock_guard lock(mutex_);
  return pending_.count(recorded_) == 0;
}

uint64_t Event::Microseconds() {
  const std::lock_guard lock(mutex_);
  return microseconds_;
}

}  // namespace ascend_virtual
