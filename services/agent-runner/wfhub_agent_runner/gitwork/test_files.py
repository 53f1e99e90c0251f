"""Test files: paths whose change deserves a look before a green verification is believed. Pure."""

import re

_TEST_FILE = re.compile(
    r"(^|/)(tests?|testing|spec|__tests__)/|(^|/)(test_[^/]*|[^/]*_test|conftest)\.py$"
    r"|\.(test|spec)\.[jt]sx?$|(^|/)(pytest\.ini|tox\.ini|setup\.cfg|noxfile\.py|sitecustomize\.py)$"
)


def is_test_file(path: str) -> bool:
    return _TEST_FILE.search(path) is not None
