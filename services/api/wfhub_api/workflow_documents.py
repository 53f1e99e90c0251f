"""Documents: the body of a request as a JSON object, from JSON or YAML by its content type.

Of YAML what JSON can say, in a nicer hand: mappings with text keys, lists, texts, numbers, true,
false, null. A date or a `yes` is a text; anchors, aliases and tags are refused, since what they
stand for may be larger than any limit. A key that comes twice is refused in both.
Raises: Rejected (415 `document-type`; 422 `document-malformed`).
"""

import json
import re
from contextlib import suppress
from typing import Any

import yaml
from wfhub_common.errors import Rejected

JSON_TYPE, YAML_TYPE = "application/json", "application/yaml"
DEPTH_MAX = 32
_YAML_TYPES = {YAML_TYPE, "application/x-yaml", "text/yaml", "text/x-yaml"}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # only its parser is used
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})\Z")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?\Z")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


def parsed(body: bytes, content_type: str) -> dict[str, Any]:
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        if media_type == JSON_TYPE:
            value = json.loads(body, object_pairs_hook=_object)
        elif media_type in _YAML_TYPES:
            value = _of_json_or_yaml(body.decode())
        else:
            raise Rejected(
                "document-type",
                f"send the document as {JSON_TYPE} or {YAML_TYPE}, not as {media_type[:100]!r}",
                status=415,
            )
        check_depth(value)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise _too_deep() from None
    except yaml.MarkedYAMLError as e:
        raise _malformed(f"{_line(e.problem_mark)}{e.problem}") from e
    except (ValueError, yaml.YAMLError) as e:
        raise _malformed(str(e)[:200]) from e
    if not isinstance(value, dict):
        raise _malformed("it has to be a mapping with name and tasks")
    return value


def _of_json_or_yaml(text: str) -> Any:
    """JSON is YAML 1.2. The parser knows 1.1, where U+2028 ends a line and so may be in no key."""
    if text.startswith("{"):
        with suppress(ValueError):
            return json.loads(text, object_pairs_hook=_object, parse_constant=_no_json)
    return of_yaml(text)


def _no_json(word: str) -> Any:
    """NaN and the like: a text in YAML."""
    raise ValueError(word)


def of_yaml(text: str) -> Any:
    """Without recursion, from the parser's events. Raises: Rejected, yaml.YAMLError."""
    result: list[Any] = []
    open_: list[_Open] = [_List(result)]
    for event in yaml.parse(text, Loader=_LOADER):
        if len(open_) > DEPTH_MAX + 1:  # not later: the parser's time grows with the depth
            raise _too_deep()
        match event:
            case yaml.AliasEvent() | yaml.NodeEvent(anchor=str()):
                raise _at(event, "anchors and aliases are not known here; use `defaults`")
            case yaml.CollectionStartEvent(tag=str()) | yaml.ScalarEvent(tag=str()):
                raise _at(event, "tags are not known here")
            case yaml.ScalarEvent():
                open_[-1].put(event, _scalar(event))
            case yaml.MappingStartEvent():
                mapping: dict[str, Any] = {}
                open_[-1].put(event, mapping)
                open_.append(_Mapping(mapping))
            case yaml.SequenceStartEvent():
                items: list[Any] = []
                open_[-1].put(event, items)
                open_.append(_List(items))
            case yaml.CollectionEndEvent():
                open_.pop()
    if len(result) > 1:
        raise _malformed("it holds several documents; send one at a time")
    return result[0] if result else None


class _List:
    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def put(self, _event: Any, value: Any) -> None:
        self._items.append(value)


class _Mapping:
    def __init__(self, mapping: dict[str, Any]) -> None:
        self._mapping = mapping
        self._key: str | None = None

    def put(self, event: Any, value: Any) -> None:
        if self._key is not None:
            self._mapping[self._key] = value
            self._key = None
            return
        if not isinstance(event, yaml.ScalarEvent):
            raise _at(event, "a key has to be a text")
        if event.value in self._mapping:
            raise _at(event, f"the key {event.value[:60]!r} is there twice")
        self._key = event.value


_Open = _List | _Mapping


def _scalar(event: yaml.ScalarEvent) -> Any:
    text: str = event.value
    if event.style is not None and event.style != "":  # quoted, or a block
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.match(text):
        return int(text)
    return float(text) if _NUMBER.match(text) else text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _malformed(f"the key {key[:60]!r} is there twice")
        found[key] = value
    return found


def check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth > DEPTH_MAX:
            raise _too_deep()
        lists = [list(v.values()) if isinstance(v, dict) else v for v in level if _holds(v)]
        level, depth = [item for items in lists for item in items], depth + 1


def _holds(value: Any) -> bool:
    return isinstance(value, dict | list)


def _too_deep() -> Rejected:
    return _malformed(f"it is nested deeper than {DEPTH_MAX} levels")


def _at(event: yaml.Event, why: str) -> Rejected:
    return _malformed(f"{_line(event.start_mark)}{why}")


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}: " if mark else ""


def _malformed(why: str) -> Rejected:
    plain = why.encode("utf-8", "backslashreplace").decode()
    return Rejected("document-malformed", f"the document cannot be read: {plain}")
