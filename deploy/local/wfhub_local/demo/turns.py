"""The assistant's turns of the replayed demo, written by hand: no model said any of this.

Each is what the assistant says and the one tool it calls, by the built-in agent's names.
"""

from dataclasses import dataclass
from pathlib import Path

CASSETTE = Path(__file__).with_name("parse-int-base.cassette.jsonl")  # made of TURNS
PROMPT = Path(__file__).with_name("prompt.md")
TESTS = "python -B -m pytest -q --tb=short -p no:cacheprovider test_parse.py"
CHECK = (
    "python -B -c \"import parse; p = parse.compile('{:d}'); "
    "print([p.parse(s)[0] for s in ('1234', '0b1011', '0x1f', '99', '0o17')])\""
)
# `base` in place of `self.base`, as 1.18.0 has it.
BEFORE = """\
        # If base wasn't specified, detect it automatically
        if self.base is None:

            # Assume decimal number, unless different base is detected
            self.base = 10

            # For number formats starting with 0b, 0o, 0x, use corresponding base ...
            if string[number_start] == '0' and len(string) - number_start > 2:
                if string[number_start + 1] in 'bB':
                    self.base = 2
                elif string[number_start + 1] in 'oO':
                    self.base = 8
                elif string[number_start + 1] in 'xX':
                    self.base = 16

        chars = int_convert.CHARS[: self.base]
        string = re.sub('[^%s]' % chars, '', string.lower())
        return sign * int(string, self.base)
"""
AFTER = """\
        base = self.base
        # If base wasn't specified, detect it automatically
        if base is None:

            # Assume decimal number, unless different base is detected
            base = 10

            # For number formats starting with 0b, 0o, 0x, use corresponding base ...
            if string[number_start] == '0' and len(string) - number_start > 2:
                if string[number_start + 1] in 'bB':
                    base = 2
                elif string[number_start + 1] in 'oO':
                    base = 8
                elif string[number_start + 1] in 'xX':
                    base = 16

        chars = int_convert.CHARS[:base]
        string = re.sub('[^%s]' % chars, '', string.lower())
        return sign * int(string, base)
"""


@dataclass(frozen=True)
class Turn:
    says: str
    tool: str
    arguments: dict[str, str | int]


TURNS = (
    Turn("I run the tests first, to see the failure.", "run_command", {"command": TESTS}),
    Turn(
        "One test fails: 1011 instead of 11, so binary was read as decimal. Where is the base "
        "of a number decided?",
        "run_command",
        {"command": "grep -n 'class int_convert\\|self\\.base\\|int_convert(' parse.py"},
    ),
    Turn(
        "It is detected in `int_convert.__call__`. I read that class.",
        "read_file",
        {"path": "parse.py", "start_line": 500, "line_count": 62},
    ),
    Turn(
        "The base that is detected for the first value is stored in `self.base`. The converter "
        "belongs to the compiled parser, so the next call finds a base that is not None and "
        "detects nothing. A local variable keeps the detection to one call.",
        "patch_file",
        {"path": "parse.py", "search": BEFORE, "replace": AFTER},
    ),
    Turn("Now the tests again.", "run_command", {"command": TESTS}),
    Turn(
        "All pass. One parser must also take values of different bases in any order.",
        "run_command",
        {"command": CHECK},
    ),
    Turn(
        "",
        "finish",
        {
            "summary": "int_convert stored the number base that it detected for the first value "
            "in self.base, so a compiled parser read every later value in that base. The base "
            "is now a local variable of the call. test_parse.py passes (78 tests), and one "
            "parser reads 1234, 0b1011, 0x1f, 99 and 0o17 right, in that order."
        },
    ),
)
