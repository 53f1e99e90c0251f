"""The kubernetes backend of the sandbox port: the pod of a Job is the sandbox of one run.

Its contract tests run against a simulated API server, and on a cluster that TEST_KUBERNETES names.
"""
