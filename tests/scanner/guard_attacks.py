"""The other side of test_guards.py: a program that locks itself down and then tries to break out.

    python -I guard_attacks.py '{"attack": "read_file", "guards": "all", ...}'

It prints one JSON line: `broke` (it got what it wanted), `said` (what it got, or the error), `guards` (those not active).
`guards` in the order chooses which guards are on: `all`, `none`, or one family, to show that each holds by itself.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from scanner.guards import Guard, Limits, landlock, lock_down, process, seccomp
from scanner.guards.base import call, prctl
from scanner.guards.numbers import MACHINES, numbers

LIBC = ctypes.CDLL(None, use_errno=True)
LIMITS = Limits(memory_bytes=256 << 20, cpu_seconds=60, processes=8)
NUMBERS = numbers(os.uname().machine) if os.uname().machine in MACHINES else {}
STACK_FLOOR = process.stack_floor()
ANONYMOUS, GROWSDOWN = 0x20, 0x100
INT80_GETPID = bytes.fromhex("b814000000cd80c3")  # mov eax, 20; int 0x80; ret


@dataclass
class Scene:
    """What the test made for the attack, and what the parser may hold before it is locked."""

    folder: str = ""
    secret: str = ""
    tcp_port: int = 0
    udp_port: int = 0
    abstract: str = ""
    victim: int = 0
    disk: int = -1
    log: int = -1
    old_socket: socket.socket | None = None
    code: mmap.mmap | None = None
    maps: list[str] = field(default_factory=list)
    victim_address: int = 0
    filtered: bool = False


def raw(name_or_number: int, *words: int) -> int:
    """A system call as hostile machine code would make it. Raises `OSError`."""
    result: int = LIBC.syscall(ctypes.c_long(name_or_number), *[ctypes.c_ulong(word & (1 << 64) - 1) for word in words])
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def known(name: str) -> int:
    return NUMBERS[name]


def checked(result: int) -> int:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


# --- paths


def read_file(scene: Scene) -> object:
    return Path(scene.secret).read_text()


def read_environ(scene: Scene) -> object:
    return len(Path(f"/proc/{scene.victim}/environ").read_bytes())


def write_file(scene: Scene) -> object:
    return Path(scene.folder, "made-by-attack").write_text("x")


def append_file(scene: Scene) -> object:
    with Path(scene.secret).open("a") as stream:
        return stream.write("")


def remove_file(scene: Scene) -> object:
    Path(scene.folder, "removable").touch()
    Path(scene.folder, "removable").unlink()
    return "removed"


def unlink_file(scene: Scene) -> object:
    Path(scene.folder, "victim-file").unlink()
    return "removed"


def list_folder(scene: Scene) -> object:
    return len(os.listdir(scene.folder))


def stat_file(scene: Scene) -> object:
    return Path(scene.secret).stat().st_size


def stat_file_in_disguise(scene: Scene) -> object:
    """The filter must let fstat through, which glibc spells as newfstatat with an empty path; this path is not empty."""
    path, found = ctypes.create_string_buffer(scene.secret.encode()), ctypes.create_string_buffer(256)
    at_cwd, at_empty_path = -100, 0x1000
    raw(known("newfstatat"), at_cwd, ctypes.addressof(path), ctypes.addressof(found), at_empty_path)
    return "found"


def reopen_disk(scene: Scene) -> object:
    handle = os.open(f"/proc/self/fd/{scene.disk}", os.O_RDWR)
    return os.pwrite(handle, b"x", 0)


def write_disk(scene: Scene) -> object:
    return os.write(scene.disk, b"x")


def map_disk_writable(scene: Scene) -> object:
    mmap.mmap(scene.disk, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)[:1] = b"x"
    return "written"


def fill_log(scene: Scene) -> object:
    for _ in range(64):
        os.write(scene.log, bytes(16 << 10))
    return os.fstat(scene.log).st_size


# --- network


def tcp_connect(scene: Scene) -> object:
    with socket.socket() as one:
        one.connect(("127.0.0.1", scene.tcp_port))
    return "connected"


def tcp_connect_old_socket(scene: Scene) -> object:
    assert scene.old_socket
    scene.old_socket.connect(("127.0.0.1", scene.tcp_port))
    return "connected"


def tcp_listen(scene: Scene) -> object:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1] > 0


def tcp_bind(scene: Scene) -> object:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 1))
    return "bound"


def udp_send(scene: Scene) -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        return one.sendto(b"x", ("127.0.0.1", scene.udp_port))


def abstract_connect(scene: Scene) -> object:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect("\0" + scene.abstract)
    return "connected"


def make_socket_pair(scene: Scene) -> object:
    return len(socket.socketpair())


# --- programs and machine code


def execute(scene: Scene) -> object:
    os.execv("/bin/echo", ["/bin/echo", '{"broke": true, "said": "executed", "guards": []}'])


def fork_and_execute(scene: Scene) -> object:
    return subprocess.run(["/bin/true"], check=True).returncode


def executable_memory(scene: Scene) -> object:
    return len(mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC))


def memory_made_executable(scene: Scene) -> object:
    memory = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return checked(LIBC.mprotect(address, 4096, 5))


def disk_made_executable(scene: Scene) -> object:
    return len(mmap.mmap(scene.disk, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC))


def foreign_architecture(scene: Scene) -> object:
    """The filter knows x86_64 numbers; 32-bit calls have others. Kills the process when guarded."""
    assert scene.code
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(scene.code)))()


def x32_call(scene: Scene) -> object:
    return raw(0x40000000 + 39)


# --- memory, time and other amounts


def eat_memory(scene: Scene) -> object:
    return len(b"x" * (2 * LIMITS.memory_bytes))


def eat_memory_in_worker(scene: Scene) -> object:
    child = os.fork()
    if child == 0:
        try:
            eat_memory(scene)
        except MemoryError:
            os._exit(7)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise MemoryError
    return "eaten"


def eat_small_pieces(scene: Scene) -> object:
    return len([bytes(64 << 10) for _ in range(2 * LIMITS.memory_bytes >> 16)])


def eat_private_disk(scene: Scene) -> object:
    """Private copies of a disk's pages."""
    view = mmap.mmap(scene.disk, 2 * LIMITS.memory_bytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    return len(view)


def shared_memory(scene: Scene) -> object:
    return len(mmap.mmap(-1, 2 * LIMITS.memory_bytes))


def stack_like_memory(scene: Scene) -> object:
    flags = mmap.MAP_PRIVATE | ANONYMOUS | GROWSDOWN
    return raw(known("mmap"), 0, 2 * LIMITS.memory_bytes, 3, flags, -1, 0) != 0


def remap_stack(scene: Scene) -> object:
    """To its present size, which is harmless where it works."""
    stack = next(line for line in scene.maps if line.endswith("[stack]"))
    start = int(stack.split("-")[0], 16)
    assert start >= STACK_FLOOR
    return raw(known("mremap"), start, 4096, 4096, 0, 0) != 0


def memory_file(scene: Scene) -> object:
    return os.memfd_create("x") > 0


def raise_own_limit(scene: Scene) -> object:
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, resource.RLIM_INFINITY))
    return "raised"


def open_many(scene: Scene) -> object:
    return len([os.dup(1) for _ in range(1000)])


def fork_many(scene: Scene) -> object:
    children: list[int] = []
    try:
        for _ in range(3 * LIMITS.processes):
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            children.append(child)
        return len(children)
    finally:
        if not scene.filtered:  # else the test ends them, by the process group
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def spin(scene: Scene) -> object:
    end = time.process_time() + 20  # not by the clock: on a busy machine it gets little of a processor
    while time.process_time() < end:
        sum(range(100_000))
    return "spun"


def spin_deaf(scene: Scene) -> object:
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    return spin(scene)


# --- other processes and the system


def kill_victim(scene: Scene) -> object:
    os.kill(scene.victim, signal.SIGTERM)
    return "killed"


def kill_group(scene: Scene) -> object:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    return "killed"


def trace_victim(scene: Scene) -> object:
    seize = 0x4206
    LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    return checked(LIBC.ptrace(seize, scene.victim, None, None))


def read_victim_memory(scene: Scene) -> object:
    here = ctypes.create_string_buffer(16)
    ours = (ctypes.c_size_t * 2)(ctypes.addressof(here), 16)
    theirs = (ctypes.c_size_t * 2)(scene.victim_address, 16)
    LIBC.process_vm_readv.restype = ctypes.c_ssize_t
    return checked(LIBC.process_vm_readv(scene.victim, ours, 1, theirs, 1, 0))


def open_victim(scene: Scene) -> object:
    return os.pidfd_open(scene.victim) > 0


def new_session(scene: Scene) -> object:
    return in_child(os.setsid)


def new_group(scene: Scene) -> object:
    return in_child(lambda: os.setpgid(0, 0))


def in_child(action: Callable[[], object]) -> object:
    """A child, as the leader of a group may not leave it."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except PermissionError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise PermissionError("refused")
    return "left"


def change_root(scene: Scene) -> object:
    os.chroot("/")
    return "changed"


def change_user(scene: Scene) -> object:
    os.setresuid(1, 1, 1)
    return "changed"


def mount(scene: Scene) -> object:
    """Makes "/" private, in a mount namespace that is not the host's when it works."""
    call("unshare", 0x00020000)
    private_recursive = 0x40000 | 0x4000
    LIBC.mount.argtypes = (*[ctypes.c_char_p] * 3, ctypes.c_ulong, ctypes.c_char_p)
    return checked(LIBC.mount(None, b"/", None, private_recursive, None))


def new_user_namespace(scene: Scene) -> object:
    return call("unshare", 0x10000000)


def disarm_parent_death(scene: Scene) -> object:
    return prctl(1, 0)


def become_dumpable(scene: Scene) -> object:
    return prctl(4, 1)


def is_dumpable(scene: Scene) -> object:
    if prctl(3) == 0:
        raise PermissionError("not dumpable")
    return "dumpable"


def sweep(scene: Scene) -> object:
    """Every call that is not on the list. All arguments are zero, all answers must be EPERM.

    But uretprobe and uprobe, for which x86_64 kernels do not ask the filter (`seccomp_uprobe_exception`): they send
    SIGILL to whoever is not being probed.
    """
    allowed = set(NUMBERS.values()) - {known("seccomp")} | {335, 336}
    wrong: dict[int, int] = {}
    for number in range(700):
        if number not in allowed:
            ctypes.set_errno(0)
            result = LIBC.syscall(ctypes.c_long(number), *[ctypes.c_ulong(0)] * 6)
            if result != -1 or ctypes.get_errno() != 1:
                wrong[number] = ctypes.get_errno()
    if not wrong:
        raise PermissionError("all refused")
    return wrong


def modern_clone(scene: Scene) -> object:
    return raw(known("clone3"), 0, 0)


def clone_into_namespace(scene: Scene) -> object:
    """CLONE_FS with CLONE_NEWUSER is an invalid pair: EINVAL without a filter, so nothing is forked."""
    return raw(known("clone"), 0x10000000 | 0x200, 0, 0, 0, 0)


ATTACKS: dict[str, Callable[[Scene], object]] = {
    name: made
    for name, made in list(globals().items())
    if callable(made) and getattr(made, "__code__", None) and made.__code__.co_varnames[:1] == ("scene",)
}


# --- which guards


def put_on(chosen: str) -> Sequence[Guard]:
    parent = os.getppid()
    if chosen == "all":
        return lock_down(LIMITS, parent_pid=parent)
    one: dict[str, Callable[[], Sequence[Guard]]] = {
        "none": tuple,
        "seccomp": lambda: (process.no_new_privileges(), seccomp.install(STACK_FLOOR)),
        "landlock": lambda: (process.no_new_privileges(), *landlock.restrict()),
        "isolate": lambda: tuple(process.isolate(1)),
        "capabilities": lambda: (process.capabilities(),),
        "limits": lambda: tuple(process.resource_limits(LIMITS, own_user=False)),
        "processes": lambda: (*process.isolate(1), *process.resource_limits(LIMITS, own_user=True)),
        "core": lambda: (process.core_dumps(),),
    }
    return one[chosen]()


def drop_user(user: int) -> None:
    """After the imports, since the interpreter may be out of that user's reach."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    prctl(4, 1)  # dumpable, as if started by that user


def prepare(order: dict[str, object]) -> Scene:
    scene = Scene(**order["scene"])  # type: ignore[arg-type]
    scene.maps = Path("/proc/self/maps").read_text().splitlines()
    scene.filtered = order["guards"] in {"all", "seccomp"}
    if scene.victim:
        stack = next(line for line in Path(f"/proc/{scene.victim}/maps").read_text().splitlines() if "[stack]" in line)
        scene.victim_address = int(stack.split("-")[1].split()[0], 16) - 16
    scene.old_socket = socket.socket()
    if order["attack"] == "foreign_architecture":
        scene.code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | ANONYMOUS, 7)
        scene.code.write(INT80_GETPID)
    return scene


def main() -> None:
    global LIMITS  # noqa: PLW0603
    order = json.loads(sys.argv[1])
    scene = prepare(order)
    LIMITS = Limits(**{**LIMITS.__dict__, **order.get("limits", {})})
    if order.get("user"):
        drop_user(order["user"])
    guards = put_on(order["guards"])
    try:
        said, broke = ATTACKS[order["attack"]](scene), True
    except (OSError, ValueError, MemoryError, subprocess.SubprocessError) as error:
        said, broke = type(error).__name__ + ": " + (getattr(error, "strerror", None) or str(error)), False
    missing = {guard.name: guard.detail for guard in guards if not guard.active}
    sys.stdout.write(json.dumps({"broke": broke, "said": said, "guards": missing}) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
