"""Gemini's ways with JSON: keys in camel or in snake case, and schemas with types in capitals."""

from typing import Any


def camel(value: Any) -> dict[str, Any]:
    """With its keys in camel case; {} for what is no object."""
    if not isinstance(value, dict):
        return {}
    return {_camel(key): each for key, each in value.items()}


def _camel(key: str) -> str:
    first, *more = key.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in more)


def json_schema(value: Any) -> Any:
    """Of a schema as Gemini writes it: types in capitals, `nullable`."""
    if isinstance(value, list):
        return [json_schema(each) for each in value]
    if not isinstance(value, dict):
        return value
    written: dict[str, Any] = {}
    for key, each in value.items():
        if key == "type" and isinstance(each, str):
            written[key] = each.lower()
        elif key == "properties" and isinstance(each, dict):
            written[key] = {name: json_schema(inner) for name, inner in each.items()}
        elif key in ("enum", "required", "example", "default", "const"):
            written[key] = each
        elif key not in ("nullable", "propertyOrdering"):
            written[_camel(key)] = json_schema(each)
    if value.get("nullable") is True and isinstance(written.get("type"), str):
        written["type"] = [written["type"], "null"]
    return written
