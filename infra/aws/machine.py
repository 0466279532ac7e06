"""What a machine of a fleet is told at its first start (user data): a shell script without any secret.

It installs a container engine, then a unit of systemd that reads the secrets into memory (tmpfs) and runs `kumomori worker`. A timer
reads them again: the token's file is read by the worker before each use, the password's by libpq for each new connection, so
a changed one counts without a restart.
Sources: EC2 User Guide, "Run commands when you launch an EC2 instance with user data input"; PostgreSQL, "The Password File".
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

SECRETS: Final = "/run/kumomori"
DATA: Final = "/var/lib/kumomori"
USER: Final = "10001:10001"  # of the image
_STOP_SECONDS: Final = 330  # the worker's own grace is 300


@dataclass(frozen=True)
class Machine:
    """`token`, `keys`, `password`: ARNs of secrets. `environment` holds none."""

    region: str
    image: str
    token: str
    keys: str
    password: str
    worker: Sequence[str]
    environment: Mapping[str, str]


def worker_options(fleet: str, console: str, region: str, workers: int) -> list[str]:
    """The arguments of `kumomori`; a test holds them against the command itself."""
    return [
        "worker",
        f"--fleet={fleet}",
        f"--console={console}",
        f"--token-file={SECRETS}/token",
        f"--data={DATA}",
        f"--region={region}",
        f"--workers={workers}",
    ]


def secrets_script(machine: Machine, *, root: str = "", owner: str = USER) -> str:
    """Puts the secrets where the worker reads them, each file whole or not at all. `root` is a folder to do so in, for tests."""
    kept, data = root + SECRETS, root + DATA
    to_pgpass = (
        "import json, sys; "
        'word = json.load(sys.stdin)["password"].replace("\\\\", "\\\\\\\\").replace(":", "\\\\:"); '
        'print("*:*:*:*:" + word)'
    )
    return f"""#!/bin/bash
set -euo pipefail
umask 077
new=$(mktemp -d {root}/run/kumomori-new.XXXXXX)
trap 'rm -rf "$new"' EXIT
secret() {{
  aws secretsmanager get-secret-value --region {machine.region} --secret-id "$1" --query SecretString --output text
}}
secret {shlex.quote(machine.token)} >"$new/token"
secret {shlex.quote(machine.keys)} >"$new/manifest.keys"
secret {shlex.quote(machine.password)} | python3 -c {shlex.quote(to_pgpass)} >"$new/pgpass"
mkdir -p -m 0700 {kept}
chown {owner} {kept} "$new"/*
mv -f "$new"/* {kept}/
ln -sfn {SECRETS}/manifest.keys {data}/manifest.keys
"""


def run_script(machine: Machine) -> str:
    """Fetches the image and becomes the container: no rights, nothing writable but its data, the network of the machine.

    Docker's own filter of system calls forbids new namespaces, in which the parser of hostile disks locks itself up; the
    parser sets a filter of its own that is narrower than Docker's.
    """
    registry = machine.image.partition("/")[0]
    options = [
        "--rm",
        "--name=kumomori",
        "--network=host",
        f"--user={USER}",
        "--read-only",
        "--tmpfs=/tmp:mode=1777",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--security-opt=seccomp=unconfined",
        "--pids-limit=4096",
        f"--volume={DATA}:{DATA}",
        f"--volume={SECRETS}:{SECRETS}:ro",
        f"--env=PGPASSFILE={SECRETS}/pgpass",
        *(f"--env={name}={value}" for name, value in sorted(machine.environment.items())),
    ]
    return f"""#!/bin/bash
set -euo pipefail
export DOCKER_CONFIG=/run/kumomori-docker
mkdir -p -m 0700 "$DOCKER_CONFIG"
aws ecr get-login-password --region {machine.region} | docker login --username AWS --password-stdin {registry}
docker pull --quiet {machine.image}
docker rm --force kumomori >/dev/null 2>&1 || true
exec docker run {shlex.join(options)} {machine.image} {shlex.join(machine.worker)}
"""


UNITS: Final = {
    "kumomori.service": f"""[Unit]
Description=Worker of a Kumomori fleet
Requires=docker.service
Wants=network-online.target
After=docker.service network-online.target

[Service]
ExecStartPre=/usr/local/sbin/kumomori-secrets
ExecStart=/usr/local/sbin/kumomori-run
ExecStop=/usr/bin/docker stop -t {_STOP_SECONDS} kumomori
Restart=always
RestartSec=30
TimeoutStartSec=900
TimeoutStopSec={_STOP_SECONDS + 30}

[Install]
WantedBy=multi-user.target
""",
    "kumomori-secrets.service": """[Unit]
Description=Read the secrets of the Kumomori worker again

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/kumomori-secrets
""",
    "kumomori-secrets.timer": """[Unit]
Description=Read the secrets of the Kumomori worker again

[Timer]
OnBootSec=300
OnUnitActiveSec=300

[Install]
WantedBy=timers.target
""",
}


def user_data(machine: Machine) -> str:
    """At most 16 KiB, as EC2 asks."""
    files = {
        "/usr/local/sbin/kumomori-secrets": secrets_script(machine),
        "/usr/local/sbin/kumomori-run": run_script(machine),
        **{f"/etc/systemd/system/{name}": text for name, text in UNITS.items()},
    }
    written = "".join(f"cat >{path} <<'KUMOMORI_END'\n{text}KUMOMORI_END\n" for path, text in files.items())
    return f"""#!/bin/bash
set -euo pipefail
umask 077
dnf install --assumeyes --quiet docker
mkdir -p -m 0700 {DATA}
chown {USER} {DATA}
{written}chmod 0700 /usr/local/sbin/kumomori-secrets /usr/local/sbin/kumomori-run
systemctl daemon-reload
systemctl enable --now docker.service kumomori-secrets.timer
systemctl enable --now --no-block kumomori.service
"""
