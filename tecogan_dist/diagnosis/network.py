"""Bandwidth and latency between machines: plain TCP between their addresses, as gloo, NCCL and Ray use them."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from typing import TypedDict

from tecogan_dist.diagnosis.findings import Finding, not_checked
from tecogan_dist.diagnosis.judging import judge_rates
from tecogan_dist.diagnosis.machines import Machine, Machines

SUBJECT = "network"
ALL_PAIRS = 4
"""Up to so many machines every pair is measured; of more each with the next, all at once, as an all-reduce does it."""
TOKEN_BYTES = 16
PINGS = 50
STREAM_SECONDS = 1.0
BLOCK = bytes(2**20)
WAIT_SECONDS = 60.0
"""After which a listener that nobody spoke to ends."""
LATENCY_WARN = 0.005
"""Seconds for a round trip. Within a building it is below 0.5 ms; from 5 on, machines are in different places, and a
step's hundreds of small messages take longer than its arithmetic."""


class Link(TypedDict):
    bandwidth: float
    """Bytes a second."""
    latency: float
    """Seconds for a round trip; the median."""


def examine_network(machines: Machines) -> list[Finding]:
    """Ends with the machines' listeners gone."""
    there = list(machines.answering)
    if len(there) < 2:
        return [not_checked(SUBJECT, "there is one machine" if len(machines.all) == 1 else "one machine answers")]
    findings: list[Finding] = []
    links: dict[str, Link] = {}
    pairs: dict[str, tuple[str, ...]] = {}
    for distance in range(1, len(there) if len(there) <= ALL_PAIRS else 2):
        for source, target, answer in _round(machines, there, distance):
            name = f"{source.name} to {target.name}"
            if isinstance(answer, str):
                findings.append(
                    Finding(
                        status="fail",
                        subject=SUBJECT,
                        machines=(source.name,),
                        text=f"does not reach {target.name} at {target.address} ({answer})",
                        advice="open all ports between the machines of the cluster (firewall, security group)",
                    )
                )
            else:
                links[name], pairs[name] = answer, (source.name, target.name)
    if not links:
        return findings
    rates = {name: link["bandwidth"] for name, link in links.items()}
    findings += judge_rates(rates, subject=SUBJECT, what="link carries", show=_megabytes, machines=pairs)
    slowest = max(links, key=lambda name: links[name]["latency"])
    latency = links[slowest]["latency"]
    text, figures = f"round trips take {1000 * latency:.2f} ms at most", {"seconds": latency}
    if latency > LATENCY_WARN:
        advice = "put the machines into one zone, in a placement group"
        warning = Finding(
            status="warn", subject=SUBJECT, text=f"{text} ({slowest})", advice=advice, figures=dict(figures)
        )
        return [*findings, warning]
    return [*findings, Finding(status="ok", subject=SUBJECT, text=text, figures=dict(figures))]


def _round(machines: Machines, there: list[Machine], distance: int) -> list[tuple[Machine, Machine, Link | str]]:
    """Each speaks to the one so many places further, all at once: (from, to, link or what went wrong)."""
    token = secrets.token_bytes(TOKEN_BYTES)
    listening = machines.ask_each({machine: (listen, machine.address, token) for machine in there})
    calls, targets, results = {}, {}, list[tuple[Machine, Machine, Link | str]]()
    for number, source in enumerate(there):
        target = there[(number + distance) % len(there)]
        answer = listening.get(target)
        if answer is None or answer.problem is not None:
            results.append((source, target, "it cannot listen there" if answer is None else str(answer.problem)))
        else:
            calls[source], targets[source] = (speak, target.address, answer.value, token), target
    for source, answer in machines.ask_each(calls).items():
        results.append((source, targets[source], answer.value if answer.problem is None else answer.problem))
    return results


def listen(address: str, token: bytes) -> int:
    """Answer one caller that knows the token, on a port of this address that is returned; ends by itself."""
    server = socket.create_server((address, 0))
    threading.Thread(target=_serve, args=(server, token), daemon=True).start()
    return int(server.getsockname()[1])


def _serve(server: socket.socket, token: bytes) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    with server:
        while (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(10)
                    if secrets.compare_digest(_receive(connection, TOKEN_BYTES), token):
                        _answer(connection)
                        return
            except OSError:
                continue


def _answer(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(PINGS):
        connection.sendall(_receive(connection, 1))
    count = 0
    while received := connection.recv(2**20):
        count += len(received)
    connection.sendall(count.to_bytes(8, "big"))


def speak(address: str, port: int, token: bytes) -> Link:
    """The link to a machine that listens. Raises ``OSError``."""
    with socket.create_connection((address, port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(token)
        trips = []
        for _ in range(PINGS):
            started = time.perf_counter()
            connection.sendall(b"?")
            _receive(connection, 1)
            trips.append(time.perf_counter() - started)
        started = time.perf_counter()
        while time.perf_counter() - started < STREAM_SECONDS:
            connection.sendall(BLOCK)
        connection.shutdown(socket.SHUT_WR)
        count = int.from_bytes(_receive(connection, 8), "big")
        return {"bandwidth": count / (time.perf_counter() - started), "latency": sorted(trips)[PINGS // 2]}


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        received = connection.recv(count - len(data))
        if not received:
            raise OSError("the connection was closed")
        data += received
    return data


def _megabytes(rate: float) -> str:
    return f"{rate / 1e6:.0f} MB/s"
