from __future__ import annotations

import stat

import pytest

from core.files import MemoryFile
from core.findings import Finding
from scanner.detectors.deleted_executable import DeletedExecutable

PATH = b"/$OrphanFiles/12"
ELF = b"\x7fELF\x02\x01\x01"


@pytest.mark.parametrize(
    ("content", "mode", "found"),
    [
        pytest.param(ELF, 0o755, True, id="program"),
        pytest.param(ELF, 0o600, True, id="program-without-x"),
        pytest.param(b"#!/bin/sh\n", 0o700, True, id="script"),
        pytest.param(b"x", 0o010, True, id="group-x"),
        pytest.param(b"log line\n", 0o644, False, id="log"),
        pytest.param(b"\x7fEL", 0o644, False, id="cut-magic"),
    ],
)
def test_deleted_files(content: bytes, mode: int, found: bool) -> None:
    file = MemoryFile(PATH, content, mode=stat.S_IFREG | mode, deleted=True)
    findings = [one for one in DeletedExecutable().inspect(file) if isinstance(one, Finding)]
    assert bool(findings) is found
    if findings:
        assert findings[0].evidence["elf"] is content.startswith(ELF)
        assert findings[0].evidence["mode"] == f"{mode:04o}"


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        pytest.param(MemoryFile(PATH, ELF, deleted=True), True, id="deleted"),
        pytest.param(MemoryFile(b"/bin/sh", ELF), False, id="has-a-name"),
        pytest.param(MemoryFile(PATH, b"", deleted=True), False, id="empty"),
        pytest.param(MemoryFile(PATH, b"x", mode=stat.S_IFDIR | 0o755, deleted=True), False, id="directory"),
        pytest.param(MemoryFile(PATH, b"x", mode=stat.S_IFSOCK | 0o755, deleted=True), False, id="socket"),
    ],
)
def test_wants(file: MemoryFile, wanted: bool) -> None:
    assert DeletedExecutable().wants(file) is wanted
