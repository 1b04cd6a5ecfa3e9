// Calls on a store outside of the library: no stream, no control.
#ifndef DSV4MX_TESTS_STORE_CALL_H_
#define DSV4MX_TESTS_STORE_CALL_H_

#include "lib/base/backend.h"

namespace dsv4mx::test {

inline const Control kNoControl;
inline const ExpertStore::Call kCall{nullptr, kNoControl};

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_STORE_CALL_H_
