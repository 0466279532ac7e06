"""Excerpts on their way out of the fleet: short, and without secrets. Pure.

A finding may quote what it is about. What looks like a secret in it is replaced, so that no report can be used to log in
anywhere; what is left is enough to see what was found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MOST_TEXT: Final = 1_000  # characters of one excerpt
MASK: Final = "(masked)"
_MOST_DEPTH: Final = 12

# A key that is cut short has no end line: then all that follows is masked.
_PRIVATE_KEY: Final = re.compile(
    r"(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,20}-----).*?(-----END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,20}-----|\Z)",
    re.DOTALL,
)
# Tokens that tell by their beginning whose they are.
_BEGINNINGS: Final = (
    r"gh[pousr]_|github_pat_|glpat-|glptt-|xox[abprs]-|xapp-|[sr]k_(?:live|test)_|sk-|whsec_|npm_|pypi-|dop_v1_|SG\.|hf_|hvs\.|shp[a-z]{2}_|AIza|ya29\.|"
    r"AGE-SECRET-KEY-1"
)
_NAMES: Final = r"(?:pass(?:word|wd|phrase)?|pwd|secret|credential|(?:access|account|api|auth|private|shared|signing)[_-]?(?:access)?[_-]?key|token|\bsig|\bpsk)"
_REPLACED: Final = (
    (_PRIVATE_KEY, rf"\1{MASK}\2"),
    (re.compile(r"(Private-Lines: \d{1,5}).*?(Private-MAC|\Z)", re.DOTALL), rf"\1 {MASK}\2"),
    (re.compile(r"\b(AKIA|ASIA|AGPA|AIDA|AROA|ANPA|ABIA|ACCA)[A-Z0-9]{16}\b"), rf"\1{MASK}"),
    (re.compile(r"(?i)(aws.{0,20}?(?:secret|session).{0,20}?[\"'\s:=]{1,5})[A-Za-z0-9/+=]{30,2000}"), rf"\1{MASK}"),
    (re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]{0,30}://[^\s/:@\"'<>]{0,200}):[^\s@\"'<>]{1,500}@"), rf"\1:{MASK}@"),
    (re.compile(r"(?i)((?:hooks\.slack\.com/services|discord(?:app)?\.com/api/webhooks|webhook\.office\.com/webhookb2)/)[^\s\"'<>]{1,500}"), rf"\1{MASK}"),
    (re.compile(r"(?i)(authorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?digest\s)[^\n]{4,4000}"), rf"\1{MASK}"),
    (re.compile(r"(?i)(\b(?:set-)?cookie2?[\"']?\s{0,3}:\s{0,3})[^\n]{4,4000}"), rf"\1{MASK}"),
    (re.compile(r"(?i)(authorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?[a-z-]{1,20}\s{1,3})[^\s\"',;]{4,4000}"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,4000}"), rf"\1 {MASK}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{5,4000}\.[A-Za-z0-9_-]{5,4000}\.[A-Za-z0-9_-]{0,4000}"), MASK),
    (re.compile(rf"\b({_BEGINNINGS})[A-Za-z0-9_.-]{{10,255}}"), rf"\1{MASK}"),
    (re.compile(r"\$(1|2[abxy]?|5|6|7|y|gy|argon2(?:id|i|d)|sha1|md5)\$[^\s:\"',]{4,500}"), rf"$\1${MASK}"),
    (re.compile(rf"(?i)({_NAMES}[\w-]{{0,20}}\\?[\"']?\s{{0,3}}(?:=>|[=:>]|%3[dD]|,(?=\s{{0,3}}[\"'])|\s{{1,3}}value\s{{0,3}}=)\s{{0,3}})(?:\\[\"'][^\"'\n]{{3,500}}|\"[^\"\n]{{3,500}}|'[^'\n]{{3,500}}|[^\"'\n,;&<]{{3,500}})"), rf"\1{MASK}"),
    (re.compile(rf"(?i)({_NAMES}[\w-]{{0,20}}:\s{{0,3}}[|>][+-]?[ \t]{{0,3}}\n[ \t]{{1,20}})[^\n]{{3,500}}"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b(password|passphrase|requirepass|masterauth|sshpass\s+-p)(\s{1,3})[^\s\"']{6,500}"), rf"\1\2{MASK}"),
    (re.compile(r"(\bsshpass\s{1,3}-p|\bPASS\s{1,3})[^\s\"']{3,500}"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b(identified\s{1,3}by|password)(\s{1,3})'[^'\n]{1,500}'"), rf"\1\2{MASK}"),
    (re.compile(r"(\becho\s{1,3}[\"']?[\w.-]{1,64}:)[^\s\"'|]{3,500}(?=[\"']?\s{0,3}\|[^\n]{0,40}chpasswd)"), rf"\1{MASK}"),
    (re.compile(r"(\becho\s{1,3}[\"']?)[^\s\"'|]{3,500}(?=[\"']?\s{0,3}\|[^\n]{0,40}passwd\s{1,3}--stdin)"), rf"\1{MASK}"),
    (re.compile(r"(?i)(client-key-data[\"']?\s{0,3}:\s{0,3}[\"']?)[^\s\"']{8,4000}"), rf"\1{MASK}"),
    (re.compile(r"(\b(?:docker|podman|helm|oc)\b[^\n]{0,200}?\slogin\b[^\n]{0,100}?\s-p[\s=]{0,3})[^\s\"']{3,500}"), rf"\1{MASK}"),
    (re.compile(r"(\bldap\w{1,20}\b[^\n]{0,200}?\s-w[\s=]{0,3})[^\s\"']{3,500}"), rf"\1{MASK}"),
    (re.compile(r"(\b(?:mysql|mariadb)\w{0,20}\b[^\n]{0,100}?\s-p)[^\s\"']{3,500}"), rf"\1{MASK}"),
    (re.compile(r"(\bcurl\b[^\n]{0,200}?\s(?:-u|--user)[\s=]{0,3}[^\s:]{1,100}:)[^\s\"']{3,500}"), rf"\1{MASK}"),
    (re.compile(r"(?m)^([^:\s]{1,200}:\d{1,5}:[^:\s]{1,100}:[^:\s]{1,100}:)[^\s:]{3,500}$"), rf"\1{MASK}"),
)  # fmt: skip
# What nobody would write by hand is a key of some kind, whatever it stands beside.
_LONG: Final = re.compile(r"[A-Za-z0-9_+=-]{28,}")


def masked(evidence: Any) -> Any:
    """JSON values with every text masked and bounded; keys stay."""
    return _masked(evidence, 0)


def _masked(value: Any, depth: int) -> Any:
    if depth > _MOST_DEPTH:
        return MASK
    if isinstance(value, str):
        return masked_text(value)
    if isinstance(value, Mapping):
        return {key: _masked(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(one, depth + 1) for one in value]
    return value


def masked_text(text: str) -> str:
    for pattern, instead in _REPLACED:
        text = pattern.sub(instead, text)
    text = _LONG.sub(_unless_plain, text)
    if len(text) > MOST_TEXT:  # after masking: a secret that is cut in two would not be known for one
        text = f"{text[:MOST_TEXT]}... ({len(text) - MOST_TEXT:,} more characters)"
    return text


def _unless_plain(found: re.Match[str]) -> str:
    """The word itself if it lacks a kind of character that keys have: so hashes in hexadecimal stay, by which one searches."""
    word = found[0]
    kinds = (str.islower, str.isupper, str.isdigit)
    return MASK if all(sum(map(kind, word)) >= 2 for kind in kinds) else word
