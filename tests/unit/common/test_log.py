import subprocess
import sys
from pathlib import Path

SPEAKS = """
import sys
from wfhub_common import log
log.configure("test")
say = log.get_logger("here")
for number in range(2000):  # more than any buffer holds
    say.warning("the disk is full", number=number)
sys.stdout.write("went on")
"""


def test_a_line_that_cannot_be_written_is_lost_and_nothing_else() -> None:
    """Where the log's disk is full: a service that ended of it would keep nobody's promise."""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", SPEAKS], stdout=subprocess.PIPE, stderr=full, timeout=60
        )
    assert ended.stdout == b"went on"
