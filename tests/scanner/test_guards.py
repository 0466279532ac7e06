"""Each guard against real attacks, each attack also without the guard, and the parser's own work under all guards."""

from __future__ import annotations

import array
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scanner.guards import Limits, landlock
from tests.need import need_root

HERE = Path(__file__).resolve().parent
PLAIN_USER = 1000
GUARDS = (
    *("no-new-privileges", "network-namespace", "unprivileged-user", "user-namespace", "empty-root", "capabilities"),
    *("parent-death", "core-dumps", "memory", "cpu", "written-bytes", "open-files", "processes"),
    *("landlock-files", "landlock-tcp", "landlock-scope", "seccomp"),
)


class Stage:
    """What attacks aim at: a file, listeners, a process, a disk; and the means to run one attack."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o777)
        self.secret = folder / "secret"
        self.secret.write_text("secret")
        self.secret.chmod(0o666)
        (folder / "victim-file").touch()
        disk = folder / "disk"
        disk.touch()
        os.truncate(disk, 1 << 30)  # holes, which a private mapping fills
        disk.chmod(0o666)
        self.disk = os.open(disk, os.O_RDONLY)
        self.log = os.open(folder / "log", os.O_RDWR | os.O_CREAT)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0kumomori-test-{os.getpid()}")
        self.abstract.listen()
        self.victim = subprocess.Popen(["sleep", "60"])

    def close(self) -> None:
        for one in (self.tcp, self.udp, self.abstract):
            one.close()
        os.close(self.disk)
        os.close(self.log)
        self.victim.kill()
        self.victim.wait()

    def scene(self) -> dict[str, object]:
        return {
            "folder": str(self.folder),
            "secret": str(self.secret),
            "tcp_port": self.tcp.getsockname()[1],
            "udp_port": self.udp.getsockname()[1],
            "abstract": self.abstract.getsockname()[1:].decode(),
            "victim": self.victim.pid,
            "disk": self.disk,
            "log": self.log,
        }

    def attack(self, name: str, guards: str, user: int = 0, **limits: int) -> dict[str, Any]:
        """The report of the attack, or `{"status": n}` if the attacker died."""
        order = {"attack": name, "guards": guards, "user": user, "limits": limits, "scene": self.scene()}
        with subprocess.Popen(
            [sys.executable, "-I", str(HERE / "guard_attacks.py"), json.dumps(order)],
            env={},
            stdout=subprocess.PIPE,
            pass_fds=(self.disk, self.log),
            process_group=0,
        ) as attacker:
            assert attacker.stdout
            line = attacker.stdout.readline()
            try:
                os.killpg(attacker.pid, signal.SIGKILL)  # what it forked, too
            except ProcessLookupError:
                pass
            status = attacker.wait()
        return json.loads(line) if line else {"status": status}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    need_root()
    made = Stage(tmp_path)
    yield made
    made.close()


# attack: each family of guards that stops it, by itself
BLOCKED = {
    "read_file": ["all", "seccomp", "landlock", "isolate"],
    "read_environ": ["all", "seccomp", "landlock", "isolate"],
    "write_file": ["all", "seccomp", "landlock", "isolate"],
    "append_file": ["all", "seccomp", "landlock", "isolate"],
    "unlink_file": ["all", "seccomp", "landlock", "isolate"],
    "list_folder": ["all", "seccomp", "landlock", "isolate"],
    "stat_file": ["all", "seccomp", "isolate"],
    "stat_file_in_disguise": ["all", "isolate"],
    "reopen_disk": ["all", "seccomp", "landlock", "isolate"],
    "fill_log": ["all", "limits"],
    "tcp_connect": ["all", "seccomp", "landlock", "isolate"],
    "tcp_connect_old_socket": ["all", "seccomp", "landlock"],
    "tcp_listen": ["all", "seccomp"],
    "tcp_bind": ["all", "seccomp", "landlock"],
    "udp_send": ["all", "seccomp", "isolate"],
    "abstract_connect": ["all", "seccomp", "landlock", "isolate"],
    "make_socket_pair": ["all", "seccomp"],
    "execute": ["all", "seccomp", "landlock", "isolate"],
    "fork_and_execute": ["all", "seccomp", "landlock", "isolate"],
    "executable_memory": ["all", "seccomp"],
    "memory_made_executable": ["all", "seccomp"],
    "disk_made_executable": ["all", "seccomp"],
    "eat_memory": ["all", "limits"],
    "eat_memory_in_worker": ["all", "limits"],
    "eat_small_pieces": ["all", "limits"],
    "eat_private_disk": ["all", "limits"],
    "shared_memory": ["all", "seccomp"],
    "stack_like_memory": ["all", "seccomp"],
    "remap_stack": ["all", "seccomp"],
    "memory_file": ["all", "seccomp"],
    "raise_own_limit": ["all", "seccomp"],
    "open_many": ["all", "limits"],
    "fork_many": ["all", "processes"],
    "kill_victim": ["all", "seccomp", "landlock", "isolate"],
    "kill_group": ["all", "seccomp"],
    "trace_victim": ["all", "seccomp", "landlock", "isolate"],
    "read_victim_memory": ["all", "seccomp", "landlock", "isolate"],
    "open_victim": ["all", "seccomp"],
    "new_session": ["all", "seccomp"],
    "new_group": ["all", "seccomp"],
    "change_root": ["all", "seccomp", "capabilities"],
    "change_user": ["all", "seccomp", "capabilities", "isolate"],
    "mount": ["all", "seccomp", "capabilities"],
    "new_user_namespace": ["all", "seccomp"],
    "disarm_parent_death": ["all", "seccomp"],
    "become_dumpable": ["all", "seccomp"],
    "is_dumpable": ["all", "core"],
}
# Refused by the kernel anyway, or without meaning when nothing guards.
ALWAYS_BLOCKED = ("write_disk", "map_disk_writable", "sweep", "modern_clone", "clone_into_namespace")


@pytest.mark.parametrize("attack", BLOCKED)
def test_attack_works_without_guards(stage: Stage, attack: str) -> None:
    report = stage.attack(attack, "none")
    assert report.get("broke"), report


@pytest.mark.parametrize(
    ("attack", "guards"),
    [pytest.param(attack, guards, id=f"{attack}-{guards}") for attack, rows in BLOCKED.items() for guards in rows],
)
def test_attack_fails_under(stage: Stage, attack: str, guards: str) -> None:
    report = stage.attack(attack, guards)
    assert report.get("broke") is False, report
    assert stage.victim.poll() is None
    assert stage.secret.read_text() == "secret"
    if guards == "all":
        assert not report["guards"], "a guard that this machine has must be active"


@pytest.mark.parametrize("attack", [*BLOCKED, *ALWAYS_BLOCKED])
def test_attack_fails_for_a_plain_user(stage: Stage, attack: str) -> None:
    report = stage.attack(attack, "all", PLAIN_USER)
    assert report.get("broke") is False, report
    assert not report["guards"]
    assert stage.victim.poll() is None


@pytest.mark.parametrize("attack", ALWAYS_BLOCKED)
def test_attack_fails(stage: Stage, attack: str) -> None:
    report = stage.attack(attack, "all")
    assert report.get("broke") is False, report


def test_clone3_sends_the_c_library_to_clone(stage: Stage) -> None:
    assert "not implemented" in stage.attack("modern_clone", "all")["said"]
    assert "not permitted" in stage.attack("clone_into_namespace", "all")["said"]
    assert "Invalid argument" in stage.attack("clone_into_namespace", "none")["said"]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="other machines have no calls of a second architecture")
@pytest.mark.parametrize("attack", ["foreign_architecture", "x32_call"])
def test_foreign_calls_kill(stage: Stage, attack: str) -> None:
    assert stage.attack(attack, "seccomp") == {"status": -signal.SIGSYS}
    assert stage.attack(attack, "all") == {"status": -signal.SIGSYS}
    assert stage.attack(attack, "none") != {"status": -signal.SIGSYS}


def test_processor_time_ends(stage: Stage) -> None:
    assert stage.attack("spin", "all", cpu_seconds=1) == {"status": -signal.SIGXCPU}


@pytest.mark.slow
def test_processor_time_ends_for_those_who_do_not_listen(stage: Stage) -> None:
    assert stage.attack("spin_deaf", "all", cpu_seconds=1) == {"status": -signal.SIGKILL}


def test_forks_are_counted_for_a_plain_user(stage: Stage) -> None:
    report = stage.attack("fork_many", "all", PLAIN_USER)
    assert "temporarily unavailable" in report["said"], report


# --- the parser's own work


@pytest.mark.parametrize("user", [0, PLAIN_USER], ids=["root", "plain-user"])
def test_work_goes_on(tmp_path: Path, user: int) -> None:
    need_root()
    for name, content in (("disk", bytes(4096) + b"kumomori" + bytes(4096)), ("more", b"arrived".ljust(8192))):
        (tmp_path / name).write_bytes(content)
    ours, theirs = socket.socketpair()
    with (tmp_path / "disk").open("rb") as disk, (tmp_path / "more").open("rb") as more, ours, theirs:
        handles = (theirs.fileno(), disk.fileno())
        worker = subprocess.Popen(
            [sys.executable, "-I", str(HERE / "guard_work.py"), *map(str, handles), str(user)],
            env={},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=handles,
        )
        theirs.close()
        if ours.recv(16) == b"more":
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [more.fileno()]))
            ours.sendmsg([b"disk"], [rights])
        outcome = json.loads(worker.communicate()[0])
    assert not outcome.pop("guards")
    assert outcome
    assert {name: said for name, said in outcome.items() if said != "ok"} == {}


# --- the bond to the parent

PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-I", "-c", sys.argv[1], sys.argv[2], str(os.getpid())], env={})
time.sleep(60)
"""
CHILD = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from scanner.guards import Limits, die_with_parent, lock_down
if LOCKED:
    lock_down(Limits(256 << 20, 60), parent_pid=int(sys.argv[2]))
here = os.getpid()
worker = os.fork()
if worker == 0:
    if LOCKED:
        die_with_parent(here)
    os.write(1, b"ready\\n")
    time.sleep(60)
    os._exit(0)
os.write(1, f"{here} {worker}\\n".encode())
time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return " Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "not-locked"])
def test_parser_and_worker_die_with_the_parent(locked: bool) -> None:
    child = CHILD.replace("LOCKED", str(locked))
    with subprocess.Popen(
        [sys.executable, "-I", "-c", PARENT, child, str(HERE.parent.parent)],
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as parent:
        assert parent.stdout
        lines = {parent.stdout.readline(), parent.stdout.readline()} - {"ready\n"}
        pids = [int(word) for word in lines.pop().split()]
        assert all(alive(pid) for pid in pids)
        parent.kill()
        parent.wait()
        end = time.monotonic() + (5 if locked else 0.5)
        while any(alive(pid) for pid in pids) and time.monotonic() < end:
            time.sleep(0.02)
        left = [pid for pid in pids if alive(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert left == ([] if locked else pids)


def run_alone(code: str, *words: str, isolated: bool = True) -> subprocess.CompletedProcess[str]:
    first = f"import sys; sys.path.insert(0, {str(HERE.parent.parent)!r})\n"
    return subprocess.run([sys.executable, "-I", "-c", first + code, *words], capture_output=True, text=True, env={})


def test_an_orphan_ends_at_once() -> None:
    done = run_alone("from scanner.guards import *; lock_down(Limits(1 << 28, 9), parent_pid=1 << 22); print('alive')")
    assert (done.returncode, done.stdout) == (1, "")


# --- systems that lack guards

TELL = """
import json, os
guards = lock_down(Limits(1 << 28, 9), parent_pid=os.getppid())
print(json.dumps({guard.name: [guard.active, guard.detail] for guard in guards}), flush=True)
os._exit(0)  # a thread that wakes while Python ends would load a library, which is forbidden by now
"""


def told(code: str) -> dict[str, tuple[bool, str]]:
    done = run_alone("from scanner.guards import *\n" + code + TELL)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_names_of_the_guards() -> None:
    assert tuple(told("")) == GUARDS


@pytest.mark.parametrize(
    ("code", "missing", "why"),
    [
        pytest.param(
            "import os; real = os.uname(); os.uname = lambda: os.uname_result((*real[:4], 'riscv64'))",
            {"seccomp"},
            "riscv64",
            id="other-architecture",
        ),
        pytest.param(
            "import os; real = os.uname(); os.uname = lambda: os.uname_result((*real[:2], '5.10.0-28-amd64', *real[3:]))",
            {"processes"},
            "5.14",
            id="old-kernel",
        ),
        pytest.param(
            "from scanner.guards import landlock; landlock._CREATE_RULESET = 9999",
            {"landlock-files", "landlock-tcp", "landlock-scope"},
            "no Landlock",
            id="no-landlock",
        ),
        pytest.param(
            "from scanner.guards import seccomp; seccomp.numbers = lambda m: {**numbers(m), 'seccomp': 9999}\n"
            "from scanner.guards.numbers import numbers",
            {"seccomp"},
            "not implemented",
            id="no-seccomp",
        ),
        pytest.param(
            "import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
            {"user-namespace", "empty-root", "processes", "capabilities", "no-new-privileges"}
            | {"landlock-files", "landlock-tcp", "landlock-scope"},
            "thread",
            id="second-thread",
        ),
    ],
)
def test_a_missing_guard_is_told(code: str, missing: set[str], why: str) -> None:
    need_root()
    guards = told(code)
    assert {name for name, (active, _) in guards.items() if not active} == missing
    assert any(why in guards[name][1] for name in missing)


def test_capabilities_that_do_not_suffice_leave_root(tmp_path: Path) -> None:
    """Root in a container without CAP_KILL stays root: else its parent could not end it."""
    need_root()
    guards = told("from scanner.guards import process; process._NEEDED_FOR_NOBODY = 1 << 63\n")
    assert not guards["unprivileged-user"][0]
    assert not guards["processes"][0]
    assert guards["capabilities"][0]
    assert guards["seccomp"][0]


def test_stricter_limits_stay() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64));"
        "resource.setrlimit(resource.RLIMIT_CPU, (5, 5)); from scanner.guards import *; import os\n"
        "lock_down(Limits(1 << 28, 9), parent_pid=os.getppid())\n"
        "print([resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_CORE)])"
    )
    assert run_alone(code).stdout == "[(64, 64), (5, 5), (0, 0)]\n"


@pytest.mark.parametrize(
    ("abi", "expected", "size"),
    [
        pytest.param(1, (0x1FFF, 0, 0), 8, id="5.13"),
        pytest.param(2, (0x3FFF, 0, 0), 8, id="5.19"),
        pytest.param(3, (0x7FFF, 0, 0), 8, id="6.2"),
        pytest.param(4, (0x7FFF, 3, 0), 16, id="6.7"),
        pytest.param(5, (0xFFFF, 3, 0), 16, id="6.10"),
        pytest.param(6, (0xFFFF, 3, 3), 24, id="6.12"),
        pytest.param(99, (0xFFFF, 3, 3), 24, id="of-the-future"),
    ],
)
def test_landlock_rights_by_abi(abi: int, expected: tuple[int, int, int], size: int) -> None:
    rules, length = landlock.attributes(abi)
    assert ((rules.files, rules.network, rules.scoped), length) == (expected, size)


def test_defaults_fit_the_design() -> None:
    assert Limits(1, 1) == Limits(1, 1, open_files=256, processes=64, written_bytes=64 << 10)
    assert resource.RLIMIT_DATA != resource.RLIMIT_AS
