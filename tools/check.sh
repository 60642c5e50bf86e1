#!/bin/sh
# Every check, fast ones first. The static ones all run, so one round shows all that is wrong;
# the tests run last, and only when nothing else failed.
set -u
cd "$(dirname "$0")/.."
bin=.venv/bin
failed=

check() {
    name=$1
    shift
    printf '== %s\n' "$name"
    "$@" </dev/null || failed="$failed, $name"
}

generated() {
    work=$(mktemp -d)
    tools/proto.sh "$work" && diff -r -u -x __pycache__ mesh/wire/v1 "$work"
    status=$?
    rm -rf "$work"
    [ $status -eq 0 ] || echo "mesh/wire/v1 is not what proto/ gives: run make proto"
    return $status
}

check "ruff check" $bin/ruff check --quiet
check "ruff format" $bin/ruff format --check --quiet
check "layers" $bin/lint-imports --no-logo
check "buf lint" $bin/buf lint proto
check "buf format" $bin/buf format proto --diff --exit-code
# Against a committed image, not a git branch: a CI clone may hold only one commit.
check "buf breaking" $bin/buf breaking proto --against proto/baseline.binpb
check "generated code" generated
check "mypy" $bin/mypy
check "pyright" $bin/pyright

if [ -n "$failed" ]; then
    printf '\ncheck: FAILED: %s (tests not run)\n' "${failed#, }" >&2
    exit 1
fi
printf '== tests\n'
exec $bin/python -m pytest "$@" </dev/null
