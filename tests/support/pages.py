"""What a page of the documentation tells its reader to type: commands, taken out of Markdown.

A command block is indented by four spaces or fenced as shell; a drawing is none. Words in it that
stand for something (`…`, `TASK`, `tsk_…`) stay words. A loop's body is read once, with its
variables as they stand.
"""

import re
import shlex
from dataclasses import dataclass

INDENTED = re.compile(r"(?:(?<=\n\n)|\A)((?: {4}[^\n]*\n)+)")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = {"", "sh", "bash", "shell", "console"}
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
ASSIGNED = re.compile(r"[A-Za-z_]\w*=")
BETWEEN = {"&&", "||", ";", "|"}
DRAWN = re.compile("[│├└─▶]")  # a picture, not a command
STRUCTURE = {"for", "do", "done", "if", "then", "fi"}


@dataclass(frozen=True)
class Command:
    words: tuple[str, ...]
    env: tuple[tuple[str, str], ...]  # what is assigned before it
    folder: str  # where the page has led by `cd`, from the repository's root
    writes: str = ""  # the file that its output goes to

    def __str__(self) -> str:
        return " ".join(self.words)


def commands(text: str) -> list[Command]:
    found: list[Command] = []
    folder = ""
    for block in blocks(text):
        for words in _split(block):
            made = _command(words, folder)
            if made is None:
                continue
            if made.words[:1] == ("cd",):
                folder = made.words[1]
            found.append(made)
    return found


def blocks(text: str) -> list[str]:
    """In the page's order."""
    found = [
        (match.start(), match.group(2))
        for match in FENCED.finditer(text)
        if match.group(1) in SHELL
    ]
    outside = FENCED.sub(lambda match: "x" * len(match.group()), text)
    for match in INDENTED.finditer(outside):
        lines = match.group(1).splitlines()
        found.append((match.start(), "\n".join(line[4:] for line in lines)))
    return [block for _, block in sorted(found) if not DRAWN.search(block)]


def inline(text: str) -> list[str]:
    """Code within sentences and tables."""
    return INLINE.findall(FENCED.sub("", INDENTED.sub("", text)))


def _split(block: str) -> list[list[str]]:
    joined = block.replace("\\\n", " ")
    found: list[list[str]] = []
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in BETWEEN or word in STRUCTURE:
                if words:
                    found.append(words)
                words = ["for"] if word == "for" else []
            else:
                words.append(word)
    return [words for words in found if words[0] != "for"]


def _command(words: list[str], folder: str) -> Command | None:
    env = []
    rest = [word for word in words if word != "sudo"]
    while rest and ASSIGNED.match(rest[0]):
        name, _, value = rest.pop(0).partition("=")
        env.append((name, value))
    writes = ""
    for mark in (">>", ">"):
        if mark in rest:
            at = rest.index(mark)
            writes, rest = rest[at + 1], rest[:at]
    return Command(tuple(rest), tuple(env), folder, writes) if rest else None
