// What nearly every test includes, compiled once (see lib/base/pch/lib_pch.h).
#ifndef DSV4MX_TESTS_PCH_TEST_PCH_H_
#define DSV4MX_TESTS_PCH_TEST_PCH_H_

#include "lib/base/pch/lib_pch.h"
#include "tests/catch.h"

#endif  // DSV4MX_TESTS_PCH_TEST_PCH_H_
