"""``tecogan submit``: another command as a job of a Ray cluster."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.spelling import meant
from tecogan_dist.cluster import jobs
from tecogan_dist.cluster.packing import pack
from tecogan_dist.cluster.stopping import STOP_WAIT
from tecogan_dist.commands.parser import CommandParser, judged_elsewhere, whole_number
from tecogan_dist.commands.places import travelling

COMMANDS = ("prepare", "train", "tune", "upscale", "report", "evaluate", "fetch", "export", "convert", "doctor")
"""What can be submitted."""
STOP_SECONDS, MOST_STOP_SECONDS = 600, 86_400
DESCRIPTION = """
Run COMMAND, any other one of tecogan's, as a job of a Ray cluster. This package and small files that are named by
relative paths travel with it; data and outputs are on storage that all nodes share, or on s3:// or gs://. The same
command again goes on where the job before it was stopped.
"""
EPILOG = """
Secrets: Ray shows the values of passed variables to whoever may use the cluster: in 'ray job list', in its logs on each
node, and for a moment in ps. What the cluster has in its own environment (cluster/README.md) is shown nowhere: leave it
to the cluster with --no-secrets.
"""
EXAMPLES = (
    "tecogan submit --follow -- train --config frvsr --data s3://films/store --output s3://films/frvsr "
    "--cluster.workers 2",
    "tecogan submit --address http://127.0.0.1:8265 --no-secrets -- doctor --storage s3://films/doctor --train",
)
SETTINGS = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_JOB_TYPE", "WANDB_MODE", "WANDB_NAME", "WANDB_NOTES", "WANDB_PROJECT"),
    *("WANDB_RUN_GROUP", "WANDB_RUN_ID", "WANDB_TAGS"),
)
"""Variables of storage and W&B that are passed where they are set."""
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "WANDB_API_KEY")
"""Likewise, unless --no-secrets is given."""
FILES = (
    *("AWS_CONFIG_FILE", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    "GOOGLE_APPLICATION_CREDENTIALS",
)
"""Variables about files of this machine, which the cluster does not have."""


KEPT = "a job that was sent goes on without this command, and the same command tells of it"
"""What an interruption leaves."""


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`, and ``SystemExit`` for a followed job that did not succeed: 1 if it
    failed, 130 if it was stopped.
    """
    words = sys.argv[1:] if argv is None else argv
    own, command, arguments = _split(words)
    options = parse(own)
    env = _env(options)
    parsed = _check(command, arguments)
    files = travelling(command, arguments, parsed)
    output = getattr(parsed, "output", None)
    output = None if output is None else str(output)
    client = jobs.connect(options.address)
    address = jobs.shown_address(client)
    there = output and jobs.running_job(client, output=output)
    if there:
        raise UserError(
            f"the job {there} writes to {output} and has not ended: follow it with 'ray job logs --follow --address "
            f"{address} {there}', or stop it first with 'ray job stop --address {address} {there}'."
        )
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "job.zip"
        size = pack(archive, files)
        job = jobs.Job(
            name=options.id or jobs.job_name(command, output),
            command=("python", "-m", f"tecogan_dist.{command}", *arguments),
            archive=archive,
            env=env,
            output=output,
        )
        jobs.submit(client, job)
    _say_what_travelled(files, size, env)
    again = _again(options, address)
    print(f"job {job.name} on {address}: tecogan {shlex.join([command, *arguments])}")
    print(f"  follow: ray job logs --follow --address {address} {job.name}")
    print(f"  stop:   ray job stop --address {address} {job.name}")
    print(f"  resume: {shlex.join([*again, '--', command, *arguments])}", flush=True)
    if options.follow:
        _follow(client, job.name)


def parse(argv: list[str]) -> argparse.Namespace:
    """This command's own options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser(
        "submit",
        description=DESCRIPTION,
        examples=EXAMPLES,
        usage="tecogan submit [options] -- COMMAND ARGUMENTS...",
        epilog=" ".join(EPILOG.split()),
    )
    add = parser.add_argument
    add("--address", metavar="URL", help="dashboard of the cluster's head (default: $RAY_API_SERVER_ADDRESS, "
        f"$RAY_ADDRESS, else {jobs.DEFAULT_ADDRESS})")  # fmt: skip
    add(
        "--id",
        metavar="NAME",
        help="the job's name, which no other may have had (default: made of the output's)",
    )
    add("--follow", action="store_true", help="show the job's log and end with it: status 0 done, 1 failed, 130 "
        "stopped. Ctrl-C ends only this")  # fmt: skip
    add("--env", nargs="+", action="extend", default=[], metavar="NAME", help="more environment variables to pass, by "
        f"name; passed anyway: {', '.join(SETTINGS)}, and the secrets {', '.join(SECRETS)}")  # fmt: skip
    add("--no-secrets", action="store_true", help="pass no secrets but what --env names: the cluster has its own")
    add("--stop-wait", type=whole_number(1, MOST_STOP_SECONDS), default=STOP_SECONDS, metavar="SECONDS",
        help="how long a job that is asked to stop may take for its last step and a checkpoint before it is killed "
        f"(default {STOP_SECONDS}; Ray's own is 3)")  # fmt: skip
    options = parser.parse_args(argv)
    if options.id is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", options.id):
        raise UserError(
            f"--id {printable(repr(options.id), limit=120)} cannot be a job's name: give up to 100 letters, digits and "
            "_.- beginning with a letter or digit."
        )
    return options


def _split(words: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Our own words, the command and its arguments. Raises :class:`UserError` if there is no command."""
    own, command = list(words), []
    if "--" in words:
        own, command = list(words[: words.index("--")]), list(words[words.index("--") + 1 :])
    if {"-h", "--help", "--version"} & set(own):
        parse(own)
    if not command:
        raise UserError("give the command after --, as in: tecogan submit --follow -- train --config frvsr ...")
    name, *arguments = command
    if name not in COMMANDS:
        raise UserError(f"{name!r} cannot be submitted{meant(name, COMMANDS)} these can: {', '.join(COMMANDS)}.")
    return own, name, arguments


def _check(command: str, arguments: list[str]) -> argparse.Namespace:
    """The arguments as the command itself reads them, so that its mistakes are told before anything is sent."""
    # Imported only now, as tecogan's own names are: a command should not wait for what the others need.
    with judged_elsewhere():
        parsed = importlib.import_module(f"tecogan_dist.commands.{command}").parse(arguments)
    return parsed[0] if isinstance(parsed, tuple) else parsed


def _env(options: argparse.Namespace) -> dict[str, str]:
    """The variables that the job gets. Raises :class:`UserError` for names that cannot be passed."""
    for name in options.env:
        if "=" in name:
            raise UserError(
                f"--env takes names, and a value beside {name.partition('=')[0]} shows in ps: set the variable in the "
                "environment of this command, and give only its name."
            )
        if name not in os.environ:
            raise UserError(f"--env {name}: there is no such variable in the environment of this command: set it.")
    names = [*SETTINGS, *(() if options.no_secrets else SECRETS)]
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    return given | {name: os.environ[name] for name in options.env} | {STOP_WAIT: str(options.stop_wait)}


def _say_what_travelled(files: Sequence[Path], size: int, env: dict[str, str]) -> None:
    print(f"uploaded: {' and '.join(['this package', *map(str, files)])} ({size / 1000:.0f} kB)")
    passed = [name for name in env if name != STOP_WAIT]
    if passed:
        print(f"passed from the environment: {', '.join(passed)}")
    secret = [name for name in passed if name in SECRETS]
    if secret:
        print(
            "note: Ray shows values of passed variables to whoever may use the cluster; one that has its own secrets "
            "needs none of yours (--no-secrets)"
        )
    kept = [name for name in FILES if name in os.environ and name not in env]
    if kept:
        print(f"not passed: {', '.join(kept)}, which is about files of this machine: the cluster needs its own access")


def _again(options: argparse.Namespace, address: str) -> list[str]:
    """This command with the address spelled out, and without a name: it is taken now."""
    words = ["tecogan", "submit", "--address", address]
    words += ["--follow"] if options.follow else []
    words += ["--env", *options.env] if options.env else []
    words += ["--no-secrets"] if options.no_secrets else []
    return words + (["--stop-wait", str(options.stop_wait)] if options.stop_wait != STOP_SECONDS else [])


def _follow(client: jobs.JobClient, name: str) -> None:
    """Show the log until the job ends. Raises ``SystemExit`` unless it succeeded."""
    address = jobs.shown_address(client)

    def write(text: str) -> None:
        print(text, end="", flush=True)

    try:
        end = jobs.follow(client, name, write=write)
    except KeyboardInterrupt:
        print(
            f"\nno longer following; the job goes on: 'ray job logs --follow --address {address} {name}' follows it "
            f"again, 'ray job stop --address {address} {name}' stops it",
            flush=True,
        )
        raise SystemExit(130) from None
    if end.status == "SUCCEEDED":
        print(f"job {name} succeeded")
    elif end.status == "STOPPED":
        print(f"job {name} was stopped")
        raise SystemExit(130)
    else:
        print(f"error: the job {name} failed: {printable(end.reason)}.", file=sys.stderr)
        raise SystemExit(1)
