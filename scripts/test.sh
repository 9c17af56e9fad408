#!/usr/bin/env bash
# Lint, types, import contracts and all tests; arguments go to pytest (-m "not slow" for the quick ones).
# Three files of tests at a time, since many wait for processes to start or to be missed; the longest come first. -n 0
# runs them in one process (for a debugger).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/setup.sh
source "$root/scripts/setup.sh"
setup_environment "$root"
cd "$root"
bin=$root/.venv/bin
echo "== lint";      "$bin/ruff" check .; "$bin/ruff" format --check --quiet .
echo "== types";     "$bin/mypy"
echo "== contracts"; "$bin/lint-imports" --no-logo
echo "== tests";     exec "$bin/python" -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@"
