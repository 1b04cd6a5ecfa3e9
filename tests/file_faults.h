// Faults of files for the whole process, since any thread may read: the linker sends the library's calls of the system
// through here (--wrap). What was read is counted all the time.
#ifndef DSV4MX_TESTS_FILE_FAULTS_H_
#define DSV4MX_TESTS_FILE_FAULTS_H_

#include <cstddef>
#include <cstdint>

namespace dsv4mx::test {

struct FileFaults {
  int pread_error = 0;    // errno of every read, once reads_left is 0
  int reads_left = 0;     // reads that still succeed
  size_t pread_most = 0;  // bytes that one read gives at most; 0 = any
  int interrupts = 0;     // reads that end with EINTR first
  int mmap_error = 0;
  int opendir_error = 0;
  int readdir_error = 0;
  int pread_delay_us = 0;  // each read takes that long
};

// Calls of pread so far and the bytes that they gave.
struct Reads {
  int64_t calls = 0, bytes = 0;
};
Reads ReadsSoFar();

// Set for as long as the object lives.
class WithFaults {
 public:
  explicit WithFaults(const FileFaults& faults);
  ~WithFaults();
  WithFaults(const WithFaults&) = delete;
  WithFaults& operator=(const WithFaults&) = delete;
};

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_FILE_FAULTS_H_
