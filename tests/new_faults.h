// The test program's operator new, which can be made to fail.
#ifndef DSV4MX_TESTS_NEW_FAULTS_H_
#define DSV4MX_TESTS_NEW_FAULTS_H_

namespace dsv4mx::test {

// While it lives, memory runs out after so many allocations: of this thread, or of any; for one allocation, or from there on.
// One at a time.
class FailingNew {
 public:
  enum Kind { kOfThread, kOfAny, kOneOfAny };
  FailingNew(int allocations, Kind kind);
  ~FailingNew();
  FailingNew(const FailingNew&) = delete;
  FailingNew& operator=(const FailingNew&) = delete;
  // Whether an allocation was refused.
  static bool Failed();
};

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_NEW_FAULTS_H_
