#!/usr/bin/env python3
"""Adds up Meson's test log (JSON lines) to "N passed, N failed, N skipped", the last line printed.

A test program that prints such a line itself (the Catch2 binary: one per TEST_CASE) counts with it; every other one
counts once. A program that failed counts at least one failure whatever it printed, so a crash can never look green.
Skipped cases' reasons ("skipped: ...") are listed, and a program that skips without one fails. The end of what each
failed test printed is repeated below them, where it is found in a log of which only the end was kept.

    count.py TESTLOG...
    count.py --self-test
"""
import contextlib
import io
import json
import re
import sys
import tempfile
from pathlib import Path

LINE = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.M)
REASON = re.compile(r"^skipped: (.+)$", re.M)


def counts(test):
    """(passed, failed, skipped) of one test of the log."""
    result = test["result"]
    own = LINE.findall(test.get("stdout") or "")
    good = result in ("OK", "EXPECTEDFAIL")
    if own and result != "SKIP":
        passed, failed, skipped = (int(number) for number in own[-1])
        good = good and not (skipped and not reasons(test))
        return passed, failed if good else max(failed, 1), skipped
    if result == "SKIP":
        return (0, 0, 1) if reasons(test) else (0, 1, 0)
    return (1, 0, 0) if good else (0, 1, 0)


def reasons(test):
    """Why the test, or cases of it, were skipped."""
    return REASON.findall(test.get("stdout") or "")


def failure(test):
    """The lines that tell of a failed test: its name, and the end of its output."""
    said = ((test.get("stdout") or "") + (test.get("stderr") or "")).splitlines()
    said = [line for line in said if not line.startswith("skipped: ")]
    result = test["result"]
    if result in ("OK", "EXPECTEDFAIL", "SKIP") and not reasons(test):
        result = 'skipped without a line "skipped: why"'
    return [f"failed: {test['name']}: {result}"] + [f"  | {line[:300]}" for line in said[-40:]]


def add_up(paths):
    total = [0, 0, 0]
    why = {}
    failures = []
    for path in paths:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            test = json.loads(line)
            part = counts(test)
            total = [have + more for have, more in zip(total, part)]
            print(f"{part[0]:6} passed {part[1]:4} failed {part[2]:4} skipped {test['duration']:8.1f} s  {test['name']}")
            if part[1]:
                failures += failure(test)
            # "skipped: test case: needs ..." of the Catch2 binary, "skipped: reason" of scripts: counted by reason.
            for text in reasons(test):
                needs = re.search(r"(?<=: )needs .*", text)
                reason = needs[0] if needs else text
                why[reason] = why.get(reason, 0) + 1
    for reason, times in sorted(why.items()):
        print(f"skipped {times} x: {reason}")
    for line in failures:
        print(line)
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] or not total[0] else 0


def self_test():
    """Logs of one test each, with the last line that is wanted and what must stand above it."""
    cases = [
        ("OK", "", "1 passed, 0 failed, 0 skipped", ""),
        ("FAIL", "it broke", "0 passed, 1 failed, 0 skipped", "  | it broke"),
        ("OK", "7 passed, 0 failed, 0 skipped", "7 passed, 0 failed, 0 skipped", ""),
        ("TIMEOUT", "7 passed, 0 failed, 0 skipped", "7 passed, 1 failed, 0 skipped", "failed: name: TIMEOUT"),
        ("OK", "skipped: a case: needs a device\n7 passed, 0 failed, 1 skipped", "7 passed, 0 failed, 1 skipped",
         "skipped 1 x: needs a device"),
        ("OK", "7 passed, 0 failed, 1 skipped", "7 passed, 1 failed, 1 skipped",
         'failed: name: skipped without a line "skipped: why"'),
        ("SKIP", "skipped: no tool", "0 passed, 0 failed, 1 skipped", "skipped 1 x: no tool"),
        ("SKIP", "no tool\n0 passed, 0 failed, 1 skipped", "0 passed, 1 failed, 0 skipped",
         'failed: name: skipped without a line "skipped: why"'),
    ]
    for result, said, last, above in cases:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as log, contextlib.redirect_stdout(io.StringIO()) as out:
            log.write(json.dumps({"name": "name", "result": result, "stdout": said, "duration": 0.5}) + "\n")
            log.flush()
            add_up([log.name])
        lines = out.getvalue().splitlines()
        assert lines[-1] == last, f"{result}, {said!r}: got {lines[-1]!r}, wanted {last!r}"
        assert not above or above in lines, f"{result}, {said!r}: got {lines}, wanted a line {above!r}"
    print(f"self-test of count.py: {len(cases)} logs")
    return 0


if __name__ == "__main__":
    sys.exit(self_test() if sys.argv[1:] == ["--self-test"] else add_up(sys.argv[1:]))
