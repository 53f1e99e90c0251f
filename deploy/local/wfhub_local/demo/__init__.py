"""The demo: a real defect of a real library, repaired through every part of Workflow Hub.

The library is `parse` (PyPI, MIT licence), release 1.17.0 as it was published. Its defect is
real: a compiled "{:d}" keeps the number base that it detected in the first value it saw, so a
later "0b1011" is read as decimal. It came with 1.16.0; the release notes of 1.18.0 say "Correct
bug in int parsing introduced in 1.16.0". The test that fails is the one that 1.18.0 added,
`test_int_convert_stateless_base`.
Everything is real but, in the mode `replay`, the model's words: those were written by hand, and
each place that shows them says so.
"""
