#!/usr/bin/env python3
"""Counts single tests in a JUnit file that `ctest --output-junit` wrote.

A CTest entry that is a GoogleTest program counts as its tests, any other as one. Prints
the names of what failed and of what was skipped (with the reason), then, alone on the
last line, `N passed, N failed, N skipped`. Exit code 1 where something failed, or where
no test ran at all.
"""
import re
import sys
import xml.etree.ElementTree as ElementTree

RESULT = re.compile(r"^\[ +(OK|FAILED|SKIPPED) +\] (\S+?)(?:, where .*)? \(\d+ ms\)$", re.M)
REASON = r"^\[ RUN      \] {}$\n(?:.*: Skipped\n)?(.*)$"


def count(path):
    passed, failed, skipped = 0, [], []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        entry, status = case.get("name"), case.get("status")
        output = case.findtext("system-out") or ""
        results = RESULT.findall(output)
        bad_before = len(failed)
        for result, test in results:
            if result == "OK":
                passed += 1
            elif result == "FAILED":
                failed.append(f"{entry}: {test}")
            else:
                reason = re.search(REASON.format(re.escape(test)), output, re.M)
                skipped.append(f"{entry}: {test}: {reason.group(1) if reason else ''}")
        if status == "run":
            # A program of which every test is filtered out says nothing; it is one test.
            passed += not results
        elif status == "fail":
            # A crash, a time-out, or no GoogleTest program.
            if len(failed) == bad_before:
                failed.append(entry)
        elif status in ("notrun", "disabled"):
            # "notrun" is also CTest's word for a program that was not built.
            message = "".join(node.get("message", "") for node in case.iter("skipped"))
            is_skip = "SKIP" in message.upper() and "unable to find" not in message.lower()
            (skipped if is_skip or status == "disabled" else failed).append(
                f"{entry}: {message}")
    return passed, failed, skipped


def main():
    passed, failed, skipped = count(sys.argv[1])
    for title, names in (("skipped", skipped), ("failed", failed)):
        for name in names:
            print(f"{title}: {name}")
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
