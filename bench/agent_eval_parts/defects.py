"""Defects of real libraries, each between two releases on the package index.

The task's repository is the defective release, with the test files of the one that repaired it.
`targets` are its tests that fail then and pass in the repaired release; `other_failures` fail for
other reasons (later features) and do not count. Archives are fetched by name and hash.
"""

from dataclasses import dataclass

from wfhub_local.demo.sources import Release


@dataclass(frozen=True)
class Defect:
    name: str
    defective: Release
    repaired: Release
    tests: str  # the file, or the folder, that is taken from the repaired release
    targets: tuple[str, ...]
    symptom: str  # what the agent is told
    other_failures: tuple[str, ...] = ()


def _releases(package: str, **digests: str) -> dict[str, Release]:
    versions = {key.removeprefix("v").replace("_", "."): value for key, value in digests.items()}
    return {version: Release(package, version, sha256) for version, sha256 in versions.items()}


PARSE = _releases(
    "parse",
    v1_17_0="c7806139a481ec8c8336a54418894c8b201314f8ecc63e55f438f4b72bdc4485",
    v1_18_0="91666032d6723dc5905248417ef0dc9e4c51df9526aaeef271eacad6491f06a4",
    v1_19_0="9ff82852bcb65d139813e2a5197627a94966245c897796760a3a2a8eb66f020b",
    v1_20_0="bd28bae37714b45d5894d77160a16e2be36b64a3b618c81168b3684676aa498b",
    v1_20_1="09002ca350ad42e76629995f71f7b518670bcf93548bdde3684fd55d2be51975",
    v1_20_2="b41d604d16503c79d81af5165155c0b20f6c8d6c559efa66b4b695c3e5a0a0ce",
)
SQLPARSE = _releases(
    "sqlparse",
    v0_4_2="0c00730c74263a94e5a9919ade150dfc3b19c574389985446148402998287dae",
    v0_4_3="69ca804846bb114d2ec380e4360a8a340db83f0ccf3afceeb1404df028f57268",
    v0_5_0="714d0a4932c059d16189f58ef5411ec2287a4360f17cdd0edd2d09d4c5087c93",
    v0_5_1="bb6b4df465655ef332548e24f08e205afc81b9ab86cb1c45657a7ff173a3a00e",
    v0_5_2="9e37b35e16d1cc652a2545f0997c1deb23ea28fa1f3eefe609eee3063c3b105f",
)
XMLTODICT = _releases(
    "xmltodict",
    v0_14_2="201e7c28bb210e374999d1dde6382923ab0ed1a8a5faeece48ab525b7810a553",
    v0_15_0="c6d46b4e3413d1e4fc3e5016f0f1c7a5c10f8ce39efaa0cb099af986ecfc9a53",
)
BOLTONS = _releases(
    "boltons",
    v23_0_0="8c50a71829525835ca3c849c7ed2511610c972b4dddfcd41a4a5447222beb4b0",
    v23_1_0="ab4023d57a69609f7742dcc21c12bb57f2970d278d315f28eb2d3110a64114a8",
)
_LATER_FORMAT = "tests/test_format.py::TestFormat::test_strip_comments_"

DEFECTS = (
    Defect(
        "parse-int-base",
        PARSE["1.17.0"],
        PARSE["1.18.0"],
        "test_parse.py",
        ("test_parse.py::TestParseType::test_int_convert_stateless_base",),
        'A parser compiled from "{:d}" reads "0b1011" wrong when it has read "1234" before; a '
        "fresh one reads it right.",
    ),
    Defect(
        "parse-trailing-newline",
        PARSE["1.18.0"],
        PARSE["1.19.0"],
        "test_parse.py",
        ("test_parse.py::TestBugs::test_match_trailing_newline",),
        'parse("{}", "test\\n") loses the newline at the end of what it matched.',
        (
            "test_parse.py::TestPattern::test_numbered",
            "test_parse.py::TestResult::test_slice_access",
        ),
    ),
    Defect(
        "parse-numbered-types",
        PARSE["1.18.0"],
        PARSE["1.19.0"],
        "test_parse.py",
        ("test_parse.py::TestPattern::test_numbered",),
        'Types of numbered fields are ignored: the pattern of "{0:f} {1:f}" is not that of two '
        "numbers.",
        (
            "test_parse.py::TestBugs::test_match_trailing_newline",
            "test_parse.py::TestResult::test_slice_access",
        ),
    ),
    Defect(
        "parse-subseconds",
        PARSE["1.20.0"],
        PARSE["1.20.1"],
        "tests/test_parse.py",
        ("tests/test_parse.py::test_datetime_with_various_subsecond_precision",),
        "A date with %f matches only when there are exactly six digits after the point; "
        "datetime.strptime takes one to six.",
        ("tests/test_parse.py::test_parser_format",),
    ),
    Defect(
        "parse-hyphen-names",
        PARSE["1.20.1"],
        PARSE["1.20.2"],
        "tests/test_parse.py",
        (
            "tests/test_parse.py::test_hyphen_inside_field_name",
            "tests/test_parse.py::test_hyphen_inside_field_name_collision_handling",
        ),
        'A field name with a hyphen ("{user-id}") is not recognised as a field.',
    ),
    Defect(
        "sqlparse-create-table",
        SQLPARSE["0.4.2"],
        SQLPARSE["0.4.3"],
        "tests",
        ("tests/test_grouping.py::test_grouping_create_table",),
        'In "create table db.tbl (a string)" the name is grouped with the columns, as a function; '
        "with CREATE TABLE in capitals it is not.",
        ("tests/test_grouping.py::test_grouping_alias_ctas",),
    ),
    Defect(
        "sqlparse-div-operator",
        SQLPARSE["0.4.2"],
        SQLPARSE["0.4.3"],
        "tests",
        ("tests/test_parse.py::test_parse_div_operator",),
        'DIV (in MySQL) is not an operator: "col1 DIV 5 AS div_col1" has no alias.',
        ("tests/test_parse.py::test_valid_identifier_names",),
    ),
    Defect(
        "sqlparse-case-in-begin",
        SQLPARSE["0.5.0"],
        SQLPARSE["0.5.1"],
        "tests",
        ("tests/test_split.py::test_split_multiple_case_in_begin",),
        "A CREATE PROCEDURE whose body has several CASE … END between BEGIN and END is split into "
        "several statements.",
    ),
    Defect(
        "sqlparse-group-whitespace",
        SQLPARSE["0.5.0"],
        SQLPARSE["0.5.1"],
        "tests",
        ("tests/test_format.py::test_strip_ws_removes_trailing_ws_in_groups",),
        "format(…, strip_whitespace=True) leaves the white space before a closing parenthesis.",
        (
            f"{_LATER_FORMAT}multi",
            f"{_LATER_FORMAT}preserves_whitespace",
            "tests/test_format.py::test_compact",
        ),
    ),
    Defect(
        "sqlparse-hints",
        SQLPARSE["0.5.1"],
        SQLPARSE["0.5.2"],
        "tests",
        (f"{_LATER_FORMAT}preserves_hint",),
        'format(…, strip_comments=True) removes optimizer hints ("/*+ … */", "--+ …") as if they '
        "were comments.",
    ),
    Defect(
        "xmltodict-names",
        XMLTODICT["0.14.2"],
        XMLTODICT["0.15.0"],
        "tests",
        tuple(
            f"tests/test_dicttoxml.py::DictToXMLTestCase::test_rejects_{what}"
            for what in (
                "tag_name_with_angle_brackets",
                "attribute_name_with_angle_brackets",
                "malicious_xmlns_prefix",
            )
        ),
        "unparse() writes names of elements, attributes and prefixes as they are: one with < or > "
        "in it becomes other elements. It must raise ValueError.",
    ),
    Defect(
        "boltons-omd-pickle",
        BOLTONS["23.0.0"],
        BOLTONS["23.1.0"],
        "tests",
        ("tests/test_dictutils.py::test_omd_pickle",),
        "An OrderedMultiDict cannot be pickled and unpickled with all its values.",
        ("tests/test_dictutils.py::test_ior",),
    ),
)
