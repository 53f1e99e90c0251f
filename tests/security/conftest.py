"""Each test that opens a sandbox does so in every backend that this machine can run."""

from sandbox_backends import backend, container_image, container_python, pytest_generate_tests

__all__ = ["backend", "container_image", "container_python", "pytest_generate_tests"]
