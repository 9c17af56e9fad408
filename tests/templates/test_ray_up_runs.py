"""``ray up cluster/onprem.yaml``, as it is, with real Ray on all its machines; stand-ins for ssh, rsync and Docker.

The stand-in for Docker makes containers of namespaces: process numbers, a home and a temporary folder of their own, the
files that are mounted into them, the image's environment, and the machine's address. All of it runs in namespaces that
end with the test, so that Ray's own ``ray stop``, which the file has Ray call in each container, sees nothing else.

With autoscaler v2 this test fails: one of the two workers never comes. The file chooses the older one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.paths import REPOSITORY
from tests.support.training_runs import Command, short_folder

FILE = REPOSITORY / "cluster" / "onprem.yaml"
ALONE = ["unshare", "--pid", "--fork", "--mount-proc", "--net", "--kill-child"]
HEAD = "192.0.2.10"
NETWORK = f"""
ip link set lo up
ip address add {HEAD}/32 dev lo
ip route add default dev lo src {HEAD}
ip link add probe type veth peer name other && ip link delete probe
echo 1 > /proc/sys/net/ipv4/ip_forward
"""
SSH = """#!/bin/bash
while [[ $1 == -* ]]; do case $1 in -[ioL]) shift 2 ;; *) shift ;; esac; done
export HOST=${1#*@}; shift
export HOME=$HOSTS/$HOST
mkdir -p "$HOME"
echo "export PATH=$HOSTS/bin:$VENV:\\$PATH" > "$HOME/.bash_profile"; touch "$HOME/.bashrc"
echo "$HOST: $*" >> "$HOSTS/log"
exec bash -c "${*//\\/tmp\\/ray_tmp_mount/$HOME/mounts}"
"""
RSYNC = """#!/bin/bash
to=${!#} from=$(($# - 1)); from=${!from%/}
if [[ $to == *@*:* ]]; then  # to a machine
    host=${to%%:*}; path=${to#*:}
    path=${path/#\\/tmp\\/ray_tmp_mount/$HOSTS/${host#*@}/mounts}
    mkdir -p "$(dirname "$path")" && cp -a "$from" "$path"
else  # from a machine into its container
    docker exec -i "${to%%:*}" bash -c "umask 077; cat > ${to#*:}" < "$from"
fi
"""
DOCKER = """#!/bin/bash
container=$HOSTS/$HOST/container
case "$1 $3" in
    *State.Running*) [ -e "$container" ] && echo true ;;
    *Config.Env*) echo '["HOME=/home/ray"]' ;;
    info*) echo "map[runc:{runc}]" ;;
    run*)
        echo "$HOST $*" >> "$HOSTS/containers"
        mounts=
        while [ $# -gt 0 ]; do
            if [ "$1" = -v ]; then
                mounts+="mkdir -p $(dirname "${2#*:}"); touch ${2#*:}; mount --bind '${2%%:*}' ${2#*:}; "
            fi
            shift
        done
        [ "$HOST" = "$HEAD" ] || network=--net
        unshare --pid --fork --mount --mount-proc $network bash -c "
            mkdir -p $HOSTS/tmp $HOSTS/$HOST/tmp; mount --bind $HOSTS/$HOST/tmp $HOSTS/tmp
            mount -t tmpfs none /home; mkdir -p /home/ray
            echo 'export PATH=$HOSTS/bin:$VENV:\\$PATH' > /home/ray/.bash_profile; touch /home/ray/.bashrc
            $mounts sleep infinity & wait" > /dev/null 2>&1 < /dev/null &
        until pgrep -P $! > "$container"; do sleep 0.1; done
        if [ "$network" ]; then  # a link to the head, which forwards
            link=link${HOST##*.} pid=$(cat "$container")
            ip link add "$link" type veth peer name eth0 netns "$pid"
            ip link set "$link" up
            ip route add "$HOST" dev "$link"
            nsenter --target "$pid" --net bash -c "
                ip link set lo up; ip link set eth0 up; ip address add $HOST/32 dev eth0
                ip route add $HEAD dev eth0; ip route add default via $HEAD dev eth0"
        fi
        until nsenter --target "$(cat "$container")" --mount cmp /home/ray/.ray/auth_token "$TOKEN"; do sleep 0.1; done
        echo "$HOST" >> "$HOSTS/have_token" ;;
    exec*)
        shift
        while [[ $1 == -* ]]; do shift; done
        shift
        exec nsenter --target "$(cat "$container")" --pid --mount --net -- \\
            env HOME=/home/ray RAY_AUTH_MODE=token RAY_TMPDIR="$HOSTS/tmp" "$@" ;;
esac
exit 0
"""
STAND_INS = {
    "ssh": SSH,
    "rsync": RSYNC,
    "docker": DOCKER,
    "id": "#!/bin/bash\necho 1000\n",
    "mountpoint": "#!/bin/bash\n",
    "chown": "#!/bin/bash\n",
}
SCRIPT = f"""
{NETWORK}
ray get-auth-token --generate > /dev/null
ray up -y --no-config-cache --use-login-shells {FILE} || exit 1
echo "ray up is through"
status() {{ ray exec --no-config-cache {FILE} 'ray status'; }}
for attempt in $(seq 60); do
    status > "$HOSTS/status" 2>&1
    grep '3 local.cluster.node' "$HOSTS/status" && break
    sleep 2
done
cat "$HOSTS/status"
# As through the tunnel of `ray dashboard`.
export RAY_AUTH_MODE=token
for attempt in $(seq 30); do
    ray list nodes --address http://127.0.0.1:8265 --format json > "$HOSTS/nodes"
    [ "$(grep -o '"state": "ALIVE"' "$HOSTS/nodes" | wc -l)" = 3 ] && break
    sleep 2
done
RAY_AUTH_MODE=disabled ray status --address {HEAD}:6379
echo "without a token: $?"
for address in 127.0.0.1 {HEAD}; do
    bash -c "exec 3<> /dev/tcp/$address/8265" && echo "the dashboard answers at $address"
done
echo "all through"
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_comes_up() -> None:
    try:
        done = subprocess.run([*ALONE, "bash", "-ec", NETWORK], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("needs the unshare command")
    if done.returncode != 0:
        pytest.skip(f"needs process and network namespaces: {done.stderr.strip()}")
    with short_folder() as folder:
        hosts, home = folder / "hosts", folder / "home"
        for name, text in STAND_INS.items():
            path = hosts / "bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        (home / ".ssh").mkdir(parents=True)
        (home / ".ssh" / "tecogan").write_text("a key\n")
        venv = str(Path(sys.executable).parent)
        env = {
            "PATH": f"{hosts / 'bin'}:{venv}:{os.environ['PATH']}",
            "VENV": venv,
            "HEAD": HEAD,
            "HOSTS": str(hosts),
            "HOME": str(home),
            "TOKEN": str(home / ".ray" / "auth_token"),
            "RAY_TMPDIR": str(home),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        run = Command([*ALONE, "bash", "-c", SCRIPT], env=env)
        try:
            run.wait_for("^ray up is through", seconds=300)
            run.wait_for("^all through", seconds=240)
        finally:
            run.kill()
        token = (home / ".ray" / "auth_token").read_text().strip()
        log = (hosts / "log").read_text()
        have_token = {*(hosts / "have_token").read_text().split()}
        nodes = json.loads((hosts / "nodes").read_text())
        containers = dict(line.split(" ", 1) for line in (hosts / "containers").read_text().splitlines())

    # The head and the two workers that are always up, started by the head's autoscaler. The head has no CPUs for work.
    assert run.all("^ 3 local.cluster.node"), run.end
    assert sorted(node["resources_total"].get("CPU", 0) for node in nodes) == [0, os.cpu_count(), os.cpu_count()]
    assert [node["resources_total"].get("CPU", 0) for node in nodes if node["is_head_node"]] == [0]
    assert have_token == {HEAD, "192.0.2.11", "192.0.2.12"}
    assert not run.all("^without a token: 0")
    assert run.all("AuthenticationError")
    assert run.all("^the dashboard answers at 127.0.0.1$")
    assert not run.all(f"^the dashboard answers at {HEAD}$")

    docker = yaml.safe_load(FILE.read_text("utf-8"))["docker"]
    assert set(containers) == {HEAD, "192.0.2.11", "192.0.2.12"}
    for host, words in containers.items():
        for option in docker["run_options"] + docker["head_run_options" if host == HEAD else "worker_run_options"]:
            assert f" {option} " in words
        assert words.endswith(f" --net=host {docker['image']} bash")
    # No command line, of launcher and autoscaler, holds the token.
    assert len(token) >= 32
    assert token not in log
    assert token not in "\n".join(run.lines)
