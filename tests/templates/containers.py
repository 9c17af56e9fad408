"""Containers, as far as a machine without Docker has them: a network of two hosts, and in each a read-only root, user
1000 without capabilities, temporary folders that run no programs, and a shared one.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.namespaces import INTERFACE, Machine, two_machines
from tests.support.paths import REPOSITORY
from tests.support.training_runs import Command

SHARED = "/srv"
"""Where containers see the shared folder: the file's /shared is not there on every machine."""
INSIDE = """
set -eu
name=$1 network=$2 shared=$3 shm=$4 interpreter=$5 environment=$6 repository=$7; shift 7
hostname "$name"
mount --make-rprivate /
mount --bind "$network/hosts" /etc/hosts
mount --bind "$network/resolv.conf" /etc/resolv.conf
mount --bind "$shared" /srv
# Python and the repository may be in folders that are hidden below.
mount -t tmpfs none /run
for path in "$interpreter" "$repository" "$environment"; do
    mkdir -p "/run/keep$path"
    mount --bind "$path" "/run/keep$path"
done
for folder in /root /home /tmp; do mount -t tmpfs -o noexec,nosuid,nodev,mode=1777 none $folder; done
for path in "$interpreter" "$repository" "$environment"; do
    mkdir -p "$path"
    mount --bind "/run/keep$path" "$path"
done
mkdir /home/ray
mount -t tmpfs -o noexec,nosuid,nodev,mode=0700,uid=1000,gid=1000 none /home/ray
mount -t tmpfs -o "noexec,nosuid,nodev,mode=1777,size=$shm" none /dev/shm
mount -o remount,bind,ro /
cd /home/ray
exec setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
"""


@dataclass(frozen=True)
class Host:
    """One of the two."""

    machine: Machine
    name: str
    network: Path
    shared: Path

    def words(self, words: Sequence[str], *, env: Mapping[str, str], shm: str = "64m") -> list[str]:
        """The command, in a container on this host with nothing but ``env`` in its environment."""
        variables = {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "HOME": "/home/ray", "PYTHONUNBUFFERED": "1"} | dict(
            env
        )
        inside = ["env", "-i", *(f"{key}={value}" for key, value in variables.items())]
        inside += [word.replace("/shared", SHARED) for word in words]
        places = [self.name, str(self.network), str(self.shared), shm]
        places += [sys.base_prefix, sys.prefix, str(REPOSITORY)]
        apart = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--uts"]
        return self.machine.on([*apart, "bash", "-c", INSIDE, "container", *places, *inside])

    def run(self, words: Sequence[str], *, env: Mapping[str, str], seconds: float = 300) -> str:
        """What the command prints, which has to succeed."""
        done = subprocess.run(self.words(words, env=env), capture_output=True, text=True, check=False, timeout=seconds)
        assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
        return done.stdout

    @contextlib.contextmanager
    def running(self, words: Sequence[str], *, env: Mapping[str, str], shm: str = "64m") -> Iterator[Command]:
        """The command in the background; at the end it is killed, and all that it has started."""
        command = Command(self.words(words, env=env, shm=shm))
        try:
            yield command
        finally:
            # The first process of the container: with it goes everything in there.
            for first in psutil.Process(command.process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    first.kill()
            command.process.wait(30)


@contextlib.contextmanager
def two_hosts(folder: Path, names: tuple[str, str]) -> Iterator[tuple[Host, Host]]:
    """Two hosts that know each other by name; skips the test where that is not allowed here."""
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with two_machines() as machines:
        addresses = [f"{machine.address} {name}" for machine, name in zip(machines, names, strict=True)]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *addresses, ""]), "utf-8")
        (folder / "resolv.conf").write_text("", "utf-8")  # a server that does not answer would be asked first
        hosts = [Host(machine, name, folder, shared) for machine, name in zip(machines, names, strict=True)]
        for machine in machines:
            # Ray finds its address by the way out.
            words = machine.on(["ip", "route", "add", "default", "dev", INTERFACE])
            subprocess.run(words, check=True, timeout=30)
        probe = subprocess.run(
            hosts[0].words(["python", "-c", "import tecogan_dist"], env={}),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if probe.returncode:
            pytest.skip(f"needs mounts, and a repository that user 1000 can read: {probe.stderr.strip()[-300:]}")
        yield hosts[0], hosts[1]
