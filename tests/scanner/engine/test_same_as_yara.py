"""The engine says what plain yara-python says: namespace, rule, strings with their offsets, in the same order."""

from __future__ import annotations

import base64
import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yara
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from definitions import builtin_rules
from scanner.engine import EXTERNALS, Engine
from scanner.engine.literals import choices_of
from scanner.engine.text import NotUnderstood, String, rules_of
from tests.need import need_shared

NO_NAMES = dict.fromkeys(EXTERNALS, "")


def quiet(*_: object) -> int:
    return int(yara.CALLBACK_CONTINUE)


def plain(sources: Mapping[str, str]) -> yara.Rules:
    return yara.compile(sources=dict(sources), externals=NO_NAMES, includes=False)


def said(matches: Any) -> list[tuple[Any, ...]]:
    return [
        (
            match.namespace,
            match.rule,
            [
                (string.identifier, [(one.offset, one.matched_data) for one in string.instances])
                for string in match.strings
            ],
        )
        for match in matches
    ]


def by_yara(rules: yara.Rules, data: bytes) -> list[tuple[Any, ...]]:
    return said(rules.match(data=data, fast=True, timeout=60, warnings_callback=quiet, console_callback=quiet))


def wide(text: bytes) -> bytes:
    return b"".join(bytes((byte, 0)) for byte in text)


def instances(string: String) -> list[bytes]:
    """Contents that the string is likely to be found in, made without the filter's own reading of it."""
    if string.kind == "text":
        text = re.sub(
            rb"\\(x..|.)",
            lambda found: (
                bytes((int(found[1][1:], 16),))
                if len(found[1]) == 3
                else {b"t": b"\t", b"n": b"\n", b"r": b"\r"}.get(found[1], found[1])
            ),
            string.body.encode(),
        )
        if "base64" in string.modifiers:
            return [base64.b64encode(b"ab" + text + b"zz")]
        if "xor" in string.modifiers:
            text = bytes(byte ^ 0x21 for byte in text)
    elif string.kind == "hex":
        body = re.sub(r"\[\s*(\d*)[^\]]*\]", lambda found: " 00" * int(found[1] or 0), string.body)
        while re.search(r"\([^()|]*\|?[^()]*\)", body):
            body = re.sub(r"\(([^()|]*)(\|[^()]*)?\)", r"\1", body)
        digits = re.sub(r"\s", "", body.replace("?", "5").replace("~", ""))
        text = bytes.fromhex(digits) if len(digits) % 2 == 0 else b""
    else:
        text = string.body.encode()
        text = re.sub(rb"\\[bB]|\^|\$$|[*?]", b"", text)
        text = re.sub(rb"\[[^\]]*\]", b"5", text)
        text = re.sub(rb"\(([^()|]*)\|[^()]*\)", rb"\1", text)
        text = re.sub(rb"(.)\{(\d+)(,\d*)?\}", lambda found: found[1] * min(300, int(found[2])), text)
        text = re.sub(rb"\\([^dwsDWS])", rb"\1", text.replace(rb"\d", b"5").replace(rb"\w", b"w").replace(rb"\s", b" "))
    found = [text, wide(text)] if "wide" in string.modifiers else [text]
    return found + ([text.upper()] if "nocase" in string.modifiers or "i" in string.flags else [])


def contents_of(source: str) -> Iterator[bytes]:
    """For each rule what its strings look like, all together and half of them, behind heads that rules ask for."""
    for rule in rules_of(source):
        pieces = [piece for string in rule.strings for piece in instances(string)]
        body = b"\n".join(pieces)
        for head in (b"", b"MZ" + bytes(62), b"\x7fELF" + bytes(60)):
            yield head + body
        yield b"MZ" + bytes(62) + b"\0".join(pieces[::2])


@pytest.mark.slow
def test_contents_made_from_the_shared_rules() -> None:
    folder = need_shared("yara")
    sources = {str(path.relative_to(folder)): path.read_text("utf-8") for path in sorted(folder.rglob("*.yar*"))}
    engine, rules = Engine(sources), plain(sources)
    matches = contents = 0
    seen: set[tuple[Any, ...]] = set()
    for name, source in sources.items():
        try:
            made = list(contents_of(source))
        except NotUnderstood:
            continue
        for content in made:
            expected = by_yara(rules, content)
            assert said(engine.match(content)) == expected, (name, content[:200])
            contents += 1
            matches += len(expected)
            seen.update(one[:2] for one in expected)
    print(f"{contents} contents, {matches} matches of {len(seen)} rules")
    assert contents > 10_000
    assert matches > 2500
    assert len(seen) > 1200


@pytest.mark.slow
def test_webshells() -> None:
    shells = need_shared("webshells/php-backdoors-even.tar.zst")
    folder = need_shared("yara")
    sources = {str(path.relative_to(folder)): path.read_text("utf-8") for path in sorted(folder.rglob("*.yar*"))}
    sources |= builtin_rules()
    engine, rules = Engine(sources), plain(sources)
    contents = matches = 0
    with tarfile.open(
        fileobj=io.BytesIO(zstandard.ZstdDecompressor().stream_reader(shells.read_bytes()).read())
    ) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is None:
                continue
            content = stream.read()
            expected = by_yara(rules, content)
            assert said(engine.match(content)) == expected, member.name
            contents += 1
            matches += len(expected)
    print(f"{contents} contents, {matches} matches")
    assert contents > 80
    assert matches > 100


LETTERS = st.text("abcAB", min_size=1, max_size=8)
TEXTS = st.builds(
    lambda text, nocase, width, full: f'"{text}"{nocase}{width}{full}',
    LETTERS,
    st.sampled_from(["", " nocase"]),
    st.sampled_from(["", " wide", " ascii", " wide ascii"]),
    st.sampled_from(["", " fullword"]),
)
ATOMS = st.one_of(
    LETTERS,
    st.sampled_from(
        [".", "[ab]", "[^c]", "[a-c]", r"\x61", "(ab|c)", "(abc|bca|)", "a{2}", "b{1,3}", "c+", "a?", "b*", r"\w"]
    ),
)
REGEXES = st.builds(
    lambda atoms, flags, width: f"/abc{''.join(atoms)}/{flags}{width}",
    st.lists(ATOMS, min_size=1, max_size=5),
    st.sampled_from(["", "i", "s", "is"]),
    st.sampled_from(["", " wide", " wide ascii", " nocase"]),
)
HEX = st.lists(
    st.sampled_from(["61", "62", "63", "6?", "?1", "??", "~61", "[0-2]", "[1]", "( 61 | 62 63 )", "/* } */"]),
    max_size=8,
).map(lambda parts: "{ 61 62 63 " + " ".join(parts) + " 61 }")
STRINGS = st.lists(st.one_of(TEXTS, REGEXES, HEX), min_size=1, max_size=4)


def conditions(count: int) -> st.SearchStrategy[str]:
    string = st.integers(0, count - 1).map("$s{}".format)
    leaf = st.one_of(
        string,
        string.map("{} at 0".format),
        string.map("{} in (0..3)".format),
        st.builds(
            lambda name, sign, least: f"#{name[1:]} {sign} {least}",
            string,
            st.sampled_from([">", "==", "<", ">=", "!="]),
            st.integers(0, 2),
        ),
        string.map(lambda name: f"@{name[1:]} < 3"),
        st.sampled_from(
            ["any of them", "all of them", "none of them", "50% of them", "2 of ($s*)", "0 of them", "2 of ($s0, $s0)"]
        ),
        st.sampled_from(
            ["filesize < 9", "filesize >= 5", "uint8(0) == 0x61", "uint16be(0) == 0x6162", "not uint16(1) == 0x6261"]
        ),
        st.sampled_from(
            [
                "uint32(0) != 1",
                "for any of them : ( $ at 0 )",
                "for all of them : ( # == 0 )",
                "defined @s0",
                "p",
                "true",
                "false",
            ]
        ),
        st.sampled_from(["for any i in (0..2) : ( uint8(i) == 0x62 )", "any of (p, p)", "1 + 1 of them"]),
    )
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.builds("({} and {})".format, inner, inner),
            st.builds("{} or {}".format, inner, inner),
            st.builds("not ({})".format, inner),
        ),
        max_leaves=6,
    )


@st.composite
def sources(draw: st.DrawFn) -> str:
    strings = draw(STRINGS)
    text = "\n".join(f"$s{at} = {value}" for at, value in enumerate(strings))
    kind = draw(st.sampled_from(["", "private ", "global ", "global private "]))
    first = f"{kind}rule p {{ strings: $s0 = {strings[0]} condition: {draw(st.sampled_from(['$s0', 'not $s0', '#s0 < 2', 'filesize > 3']))} }}"
    used = " or ".join(f"$s{at}" for at in range(len(strings)))
    return f"{first}\nrule r {{ strings: {text} condition: ({draw(conditions(len(strings)))}) or ({used} and false) }}"


CONTENTS = st.lists(
    st.one_of(
        st.text("abcAB", max_size=8).map(str.encode),
        st.text("abcAB", max_size=8).map(lambda text: wide(text.encode())),
        st.sampled_from([b"abc", b"\0", b" ", wide(b"abc")]),
    ),
    max_size=6,
).map(b"".join)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(sources(), st.lists(CONTENTS, min_size=1, max_size=6))
def test_random_rules(source: str, contents: list[bytes]) -> None:
    try:
        rules = plain({"one": source, "two": "rule z { condition: filesize == 0 }"})
    except (yara.Error, yara.SyntaxError):
        return
    engine = Engine({"one": source, "two": "rule z { condition: filesize == 0 }"})
    for content in contents:
        assert said(engine.match(content)) == by_yara(rules, content), source


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("rule/**/r//x\n{condition:/* } */true}", id="comments"),
        pytest.param(
            "rule r { strings: $a = { 61 /* } */ 62 // }\n 63 64 } condition: $a }", id="brace-in-hex-comment"
        ),
        pytest.param('rule r { meta: a = "condition: }" strings: $a = "}abcd{" condition: $a }', id="brace-in-text"),
        pytest.param(r'rule r { strings: $a = "a\"bc\\d\x65" condition: $a }', id="escapes"),
        pytest.param(r"rule r { strings: $a = /a\/bcd[\]x]e/ condition: $a }", id="regex-escapes"),
        pytest.param('rule r { strings: $a = "abcd" condition: ((((($a))))) }', id="parentheses"),
        pytest.param('rule r { strings: $ = "abcd" $ = "efgh" condition: all of them }', id="no-names"),
        pytest.param('rule r { strings: $a = "abcd" private condition: $a and not !a!=4 }', id="length-sign"),
        pytest.param('rule r { strings: $a = "äbcdé" nocase condition: $a }', id="unicode"),
        pytest.param('rule r { strings: $a = "abcd" condition: not not $a or not 1 == 2 and $a }', id="not-binds-late"),
        pytest.param("global rule g { condition: filesize < 4 } rule r { condition: true }", id="global"),
        pytest.param("private rule x_1 { condition: true } rule r { condition: any of (x_*) }", id="rule-set"),
        pytest.param('rule r { strings: $a = "abcd" xor condition: $a }', id="xor"),
        pytest.param('rule r { strings: $a = "abcdef" base64 base64wide condition: $a }', id="base64"),
        pytest.param('import "pe" rule r { condition: not pe.number_of_sections == 3 or pe.is_pe == 0 }', id="pe"),
        pytest.param('import "hash" rule r { condition: hash.md5(0, filesize) != "x" }', id="hash"),
    ],
)
def test_strange_texts(source: str) -> None:
    engine, rules = Engine({"a": source, "b": source}), plain({"a": source, "b": source})
    samples = [
        b"",
        b"abc",
        b"abcd",
        b"abcdefgh",
        b"}abcd{",
        b'a"bc\\de',
        b"a/bcd]e",
        "ÄbcdéäBCDé".encode(),
        b"MZ" + bytes(80),
    ]
    samples += [bytes(byte ^ 9 for byte in b"abcd"), base64.b64encode(b"xabcdefy"), wide(base64.b64encode(b"abcdef"))]
    for content in [*samples, b"".join(samples)]:
        assert said(engine.match(content)) == by_yara(rules, content)


def test_a_subset_of_the_files() -> None:
    three = {name: f'rule {name} {{ strings: $a = "{name}{name}" condition: $a }}' for name in ("abcd", "bcda", "cdab")}
    engine = Engine(three)
    content = b"abcdabcd bcdabcda cdabcdab"
    assert [one.rule for one in engine.match(content)] == ["abcd", "bcda", "cdab"]
    assert [one.rule for one in engine.match(content, only=frozenset(("bcda", "cdab")))] == ["bcda", "cdab"]
    assert engine.match(content, only=frozenset()) == []


@given(st.text("abc\\[](){}|*+?^$.-,012x", max_size=12))
def test_any_regex_is_read_or_refused(body: str) -> None:
    try:
        choices = choices_of(String("$a", "regex", body))
    except NotUnderstood:
        return
    assert choices is None or all(choice.data for choice in choices)


def test_little_to_search_is_searched_without_a_filter_until_it_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scanner.engine._PLAIN_SECONDS", 0.05)
    sources = dict(builtin_rules())
    engine, rules = Engine(sources, little=True), plain(sources)
    web_shell = b"<?php eval(base64_decode($_POST['x'])); system($_GET['c']); ?>"
    contents = [web_shell, b"nothing at all", *(b"padding %d " % number * 40_000 + web_shell for number in range(60))]
    states = []
    for content in contents:
        states.append(engine.prefilter)
        assert said(engine.match(content)) == by_yara(rules, content)
    assert states[0] is False
    assert states[-1] is True
    assert by_yara(rules, web_shell)
