// Control on its own: what a wait for the device tells and when it ends, which no CPU call has.
#include "lib/base/control.h"

#include <string>

#include "tests/catch.h"

using namespace dsv4mx;

TEST_CASE("control: a wait reports itself and can be ended", "[unit]") {
  struct Seen {
    int waits = 0, others = 0, stop_at = -1;
  } seen;
  dsv4mx_control given = DSV4MX_CONTROL_INIT;
  given.progress_user = &seen;
  given.progress = [](void* user, dsv4mx_stage stage, int64_t done, int64_t total) -> int32_t {
    auto* s = static_cast<Seen*>(user);
    ++(stage == DSV4MX_STAGE_WAIT ? s->waits : s->others);
    CHECK((stage != DSV4MX_STAGE_WAIT || (done == 0 && total == 0)));
    return stage == DSV4MX_STAGE_WAIT && s->waits == s->stop_at ? 1 : 0;
  };
  const Control control(given, "prepare");
  REQUIRE(control.Report(DSV4MX_STAGE_PREPARE, 1, 2).ok());
  REQUIRE(control.Wait().ok());  // right after a report there is nothing to tell
  CHECK(seen.waits == 0);
  const auto start = Control::Clock::now();
  while (seen.waits < 2) REQUIRE(control.Wait().ok());
  CHECK(Control::Clock::now() - start < std::chrono::seconds(2));  // at least once per second
  // A part of the call tells only what its whole has not told for a while.
  const Control part = control.Part(10, 20);
  REQUIRE(part.Report(DSV4MX_STAGE_LOAD, 1, 2).ok());
  CHECK(seen.others == 1);

  seen.stop_at = seen.waits + 1;
  Status status;
  while (status.ok()) status = control.Wait();
  CHECK(status.code == DSV4MX_STATUS_CANCELLED);
  CHECK(test::MissingWords(LastError(), "prepare,progress callback,waited for the stream") == "");

  int32_t flag = 1;
  given = DSV4MX_CONTROL_INIT;
  given.cancel = &flag;
  CHECK(Control(given, "set").Wait().code == DSV4MX_STATUS_CANCELLED);
  CHECK(test::MissingWords(LastError(), "set,flag,waited for the stream") == "");
  given.cancel = nullptr;
  given.timeout_ns = 1;
  CHECK(Control(given, "set").Wait().code == DSV4MX_STATUS_DEADLINE_EXCEEDED);
  CHECK(Control().Wait().ok());
  CHECK_FALSE(Control().Listens());
}
