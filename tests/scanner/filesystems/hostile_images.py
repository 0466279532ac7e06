"""Small images to be damaged, made without root, and batches of damage run in processes of their own."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.scanner.filesystems.machine import ENVIRONMENT, make_ext, run

REPOSITORY = Path(__file__).resolve().parents[3]
MIB = 1 << 20


@dataclass(frozen=True)
class Kind:
    """One sort of image; `checksums` says whether damage to its metadata can always be noticed."""

    words: str
    block: int
    checksums: bool
    size: int = 12 * MIB
    dirty: bool = False


KINDS = {
    "ext4": Kind("-t ext4 -J size=4", 4096, checksums=True, size=16 * MIB),
    "ext4-1k": Kind("-t ext4 -J size=1", 1024, checksums=True),
    "ext4-ea-inode": Kind("-t ext4 -O ea_inode,^has_journal -I 256", 4096, checksums=True),
    "inline-data": Kind("-t ext4 -O inline_data,^has_journal -I 512", 4096, checksums=True),
    "bigalloc": Kind("-t ext4 -O bigalloc,^has_journal -C 16384", 4096, checksums=True, size=16 * MIB),
    "dirty-journal": Kind("-t ext4 -J size=4", 4096, checksums=True, size=16 * MIB, dirty=True),
    "ext2": Kind("-t ext2", 4096, checksums=False),
    "ext3-1k": Kind("-t ext3 -J size=1", 1024, checksums=False),
    "ext4-no-csum": Kind("-t ext4 -O ^metadata_csum,uninit_bg,^has_journal", 1024, checksums=False),
    "inline-no-csum": Kind("-t ext4 -O inline_data,^metadata_csum,^has_journal -I 256", 4096, checksums=False),
    "dirty-no-csum": Kind("-t ext3 -J size=1", 1024, checksums=False, dirty=True),
}


@dataclass
class Outcome:
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


def build_tree(root: Path) -> None:
    """About 150 files: directories in directories, attributes, links, holes, fragments."""
    dice = random.Random(4)
    root.mkdir()
    for folder in range(6):
        here = root / ("/".join(f"level {level}" for level in range(folder)) or ".") / f"folder {folder}"
        here.mkdir(parents=True)
        for number in range(20):
            (here / f"file {number}").write_bytes(dice.randbytes(dice.choice([0, 30, 100, 900, 5_000, 20_000])))
        (here / "short link").symlink_to("file 1")
        (here / "long link").symlink_to("x/" * 60)
        os.link(here / "file 3", root / f"hard link {folder}")
        for number in range(1 + folder):
            os.setxattr(here / "file 2", b"user.key %d" % number, dice.randbytes(12 * folder))
    wide = root / "wide"
    wide.mkdir()
    for number in range(60):
        (wide / f"a long name that fills the directory {number:03d}{'.' * 60}").write_bytes(b"%d" % number)
    with (root / "fragments").open("wb") as stream:
        for number in range(60):
            stream.seek(number * 8192)
            stream.write(b"fragment %d" % number)


def build_image(kind: Kind, folder: Path) -> tuple[Path, list[Path]]:
    """The image, and the other images whose content is right if the end of the journal is lost."""
    folder.mkdir(exist_ok=True)
    tree = folder / "tree"
    build_tree(tree)
    image = make_ext(folder / "image", kind.size, ["-b", str(kind.block), *kind.words.split()], tree)
    shutil.rmtree(tree)
    if not kind.dirty:
        return image, []
    return _with_journal(image, folder, kind)


def _with_journal(image: Path, folder: Path, kind: Kind) -> tuple[Path, list[Path]]:
    """Two transactions of changes in the journal only, made with debugfs: what differs between images is a transaction."""
    states = [image.with_name(f"state{number}") for number in range(3)]
    states[0].write_bytes(image.read_bytes())
    # debugfs does not count links: the changes say so themselves
    first = b'mkdir "new folder"\nrm "wide/a long name that fills the directory 003' + b"." * 60 + b'"\n'
    second = b'ln "folder 0/file 1" "new folder/linked"\nset_inode_field "folder 0/file 1" links_count 2\n'
    second += b'unlink "hard link 2"\nset_inode_field "level 0/level 1/folder 2/file 3" links_count 1\nrm fragments\n'
    for number, change in enumerate((first, second)):
        before, after = states[number], states[number + 1]
        after.write_bytes(before.read_bytes())
        run("debugfs", "-w", "-f", "/dev/stdin", after, stdin=change)
        old, new = before.read_bytes(), after.read_bytes()
        blocks = [
            at // kind.block
            for at in range(kind.block, len(new), kind.block)
            if new[at : at + kind.block] != old[at : at + kind.block] and at != 1024
        ]
        content = folder / "transaction"
        content.write_bytes(b"".join(new[block * kind.block : (block + 1) * kind.block] for block in blocks))
        numbers = ",".join(map(str, blocks))
        checked = "-c -v 3" if kind.checksums else ""
        run(
            "debugfs",
            "-w",
            "-f",
            "/dev/stdin",
            image,
            stdin=f"journal_open {checked}\njournal_write -b {numbers} {content}\njournal_close\n".encode(),
        )
    return image, states


def damage(image: Path, states: list[Path], first: int, count: int, how: str, outcome: Outcome) -> None:
    """Run a batch in a process with little memory; a crash of that process is an outcome, too."""
    words = [sys.executable, "-m", "tests.scanner.filesystems.mutation_worker", str(image), str(first), str(count), how]
    done = subprocess.run(
        [*words, *map(str, states)],
        capture_output=True,
        timeout=max(120, count * 2),
        env=ENVIRONMENT,
        cwd=REPOSITORY,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-4:]
        outcome.broken.append(f"the process died ({done.returncode}) after {said}")
        return
    result = json.loads(done.stdout)
    outcome.counts.update(result["outcomes"])
    outcome.broken += result["broken"]


def damage_kind(name: str, folder: Path, mutations: int, truncations: int, first: int = 0) -> Outcome:
    """Mutations and truncations of one kind of image, seeds from `first` on."""
    kind = KINDS[name]
    image, states = build_image(kind, folder)
    outcome = Outcome()
    how = "checksums" if kind.checksums else "plain"
    for start in range(0, mutations, 500):
        damage(image, states, first + start, min(500, mutations - start), how, outcome)
    damage(image, states, first, truncations, "truncate", outcome)
    return outcome
