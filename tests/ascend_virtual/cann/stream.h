// Streams and events. A stream is a thread that runs its tasks in order, and late: before a task it waits for a random
// time of its seed. The error of a task reaches the host at the next synchronisation, as on a device. Tasks that the
// stream already has are dropped then (aclrtSetStreamFailureMode, ACL_STOP_ON_FAILURE, which MindSpore asks for).
#ifndef ASCEND_VIRTUAL_STREAM_H_
#define ASCEND_VIRTUAL_STREAM_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "device.h"

namespace ascend_virtual {

// Returns nothing, or what went wrong. An exception is a failure, too.
using Task = std::function<std::string()>;

class Stream {
 public:
  explicit Stream(int number);
  ~Stream();

  // The stream of a handle, where a null handle is the default stream of the device. Null if there is no such stream,
  // or it was destroyed. Its holder may go on using the stream while another thread destroys it.
  static std::shared_ptr<Stream> Of(aclrtStream handle);
  static aclrtStream Create();
  // Waits for the stream's tasks first. A failure that no synchronisation has told is printed, and counted.
  static bool Destroy(aclrtStream handle);
  // Waits for all streams. Returns the error of the first one that has one.
  static aclError SynchronizeAll();

  // Tasks that must run even after a failure (a record of an event, a callback) are `always`.
  void Put(std::string name, Task task, bool always = false);
  aclError Synchronize();
  bool Idle();

 private:
  struct Entry {
    std::string name;
    Task task;
    bool always;
  };
  void Run();
  void Stop();

  const int number_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Entry> queue_;
  bool busy_ = false, stop_ = false;
  std::string failure_;
  std::thread thread_;
};

class Event {
 public:
  // Both are tasks of a stream: the event is recorded, or waited for, when the stream gets there. A wait is for the
  // last record that was given before it. MindSpore records one event on several streams one after the other, and a
  // later record may be done first.
  static void Record(std::shared_ptr<Event> event, Stream& stream);
  static void Wait(std::shared_ptr<Event> event, Stream& stream);
  void Synchronize();
  bool Complete();
  uint64_t Microseconds();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int recorded_ = 0;
  std::set<int> pending_;  // numbers of the records that no stream has reached yet
  uint64_t microseconds_ = 0;
};

}  // namespace ascend_virtual

#endif  // ASCEND_VIRTUAL_STREAM_H_
