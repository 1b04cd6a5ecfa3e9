#!/usr/bin/env python3
"""Adds up Meson's test log (JSON lines) to "N passed, N failed, N skipped", the last line printed.

A test program that prints such a line itself (the Catch2 binary: one per TEST_CASE) counts with it; every other one
counts once. A program that failed counts at least one failure whatever it printed, so a crash can never look green.
Skipped cases' reasons ("skipped: ...") are listed, and the end of what each failed test printed is repeated below them,
where it is found in a log of which only the end was kept.
"""
import json
import re
import sys
from pathlib import Path

LINE = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.M)


def counts(test):
    """(passed, failed, skipped) of one test of the log."""
    result = test["result"]
    own = LINE.findall(test.get("stdout") or "")
    good = result in ("OK", "EXPECTEDFAIL")
    if own and result != "SKIP":
        passed, failed, skipped = (int(number) for number in own[-1])
        return passed, failed if good else max(failed, 1), skipped
    if result == "SKIP":
        return 0, 0, 1
    return (1, 0, 0) if good else (0, 1, 0)


def failure(test):
    """The lines that tell of a failed test: its name, and the end of its output."""
    said = ((test.get("stdout") or "") + (test.get("stderr") or "")).splitlines()
    said = [line for line in said if not line.startswith("skipped: ")]
    return [f"failed: {test['name']}: {test['result']}"] + [f"  | {line[:300]}" for line in said[-40:]]


def main():
    total = [0, 0, 0]
    reasons = {}
    failures = []
    for path in sys.argv[1:]:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            test = json.loads(line)
            part = counts(test)
            total = [have + more for have, more in zip(total, part)]
            print(f"{part[0]:6} passed {part[1]:4} failed {part[2]:4} skipped {test['duration']:8.1f} s  {test['name']}")
            if part[1]:
                failures += failure(test)
            # "skipped: test case: needs ..." of the Catch2 binary, "skipped: reason" of scripts: counted by reason.
            for text in re.findall(r"^skipped: (.+)$", test.get("stdout") or "", re.M):
                needs = re.search(r"(?<=: )needs .*", text)
                reason = needs[0] if needs else text
                reasons[reason] = reasons.get(reason, 0) + 1
    for reason, times in sorted(reasons.items()):
        print(f"skipped {times} x: {reason}")
    for line in failures:
        print(line)
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
