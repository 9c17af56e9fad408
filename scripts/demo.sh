#!/usr/bin/env bash
# The main job on this machine: installs what is needed, then runs scripts/demo.py (its options can be given here).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/setup.sh
source "$root/scripts/setup.sh"
setup_environment "$root"
exec "$root/.venv/bin/python" "$root/scripts/demo.py" "$@"
