"""Which backends these tests run in here, and that none is left out without a word."""

import warnings

import sandbox_backends

PROGRAMS = ("podman", "crun", "runsc", "TEST_KUBERNETES")


def test_every_backend_is_tested_here_or_named_with_the_reason() -> None:
    assert "bwrap" in sandbox_backends.AVAILABLE
    assert {*sandbox_backends.AVAILABLE, *sandbox_backends.MISSING} == {
        "bwrap",
        "container",
        "runsc",
        "kubernetes",
    }
    for name, why in sandbox_backends.MISSING.items():
        assert any(program in why for program in PROGRAMS)
        warnings.warn(f"the sandbox backend {name} is not tested here: {why}", stacklevel=1)
