#!/bin/sh
# Bring .venv to a stage: runtime, dev or bench. Called by make, which keeps the stamps.
#
# Uses uv from PATH, else the pinned uv, for speed; plain pip where uv cannot be had or fails
# (it does not read pip's configuration, so a machine behind a mirror may only work with pip).
set -eu
cd "$(dirname "$0")/.."
stage=$1
python=${PYTHON:-python3}
venv=.venv
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
# pip trusts what the system trusts, a company's own authority included; so should uv.
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}"

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

make_venv() {
    command -v "$python" >/dev/null || die "\`$python\` not found: install Python 3.11 or newer, or run make PYTHON=/path/to/python"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$("$python" --version) is too old: Python 3.11 or newer is needed; name one with make PYTHON=python3.11"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "\`$python\` has no venv module: on Debian or Ubuntu run \`apt-get install python3-venv\`, elsewhere install the full Python package, then make again"
    say "creating $venv"
    "$python" -m venv --clear "$venv"
}

find_uv() {
    if [ -x "$venv/bin/uv" ]; then echo "$venv/bin/uv"; return; fi
    if command -v uv; then return; fi
    if "$venv/bin/python" -m pip install -q --require-hashes -r requirements/uv.txt >&2; then
        echo "$venv/bin/uv"
    fi
}

install() {
    if [ -n "$uv" ]; then
        # As pip does: else every short command compiles its imports until something wrote them.
        "$uv" pip install -q --compile-bytecode --python "$venv/bin/python" "$@" && return
        say "uv could not install, trying pip"
    fi
    "$venv/bin/python" -m pip install -q "$@"
}

# A virtual environment that was copied, or whose Python went away, is made anew.
here=$(pwd -P)
prefix=$("$venv/bin/python" -c 'import sys; print(sys.prefix)' 2>/dev/null) || prefix=
[ "$prefix" = "$here/$venv" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv

# uv reads its own variables only; hand it the mirror pip was told to use.
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
uv=$(find_uv)
say "installing requirements/$stage.txt with ${uv:-pip}"
install --require-hashes -r "requirements/$stage.txt"
install --no-deps --no-build-isolation --editable .
