#!/bin/sh
# Write requirements/*.txt. Arguments go to uv pip compile, for example --upgrade.
set -eu
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
[ -x "$uv" ] || uv=$(command -v uv)

# No header and no index options: no address and no machine path may enter the files.
pin() {
    out=$1
    shift
    "$uv" pip compile -q --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url -o "requirements/$out.txt" "$@" >/dev/null
}

pin uv "$@" requirements/uv.in
pin dev "$@" pyproject.toml requirements/build.in requirements/dev.in
# The smaller sets take the versions of the largest one.
pin runtime -c requirements/dev.txt pyproject.toml requirements/build.in
pin bench -c requirements/dev.txt pyproject.toml requirements/build.in requirements/bench.in
if grep -n '://' requirements/*.txt; then
    echo "pins: an address got into the requirements" >&2
    exit 1
fi
