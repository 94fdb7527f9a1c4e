#!/usr/bin/env bash
# One door to the project: it makes the virtual environment it needs (.venv beside this file), then serves, tests
# or checks. The second time nothing is installed. Delete .venv to begin again.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
venv="$root/.venv"
base_python="${DYNHAT_PYTHON:-python3}"

usage() {
  cat <<'END'
Usage: ./run.sh COMMAND [ARGUMENTS]

  serve [OPTIONS]        run the daemon (options: ./run.sh serve --help)
  test  [PYTEST OPTIONS] run the tests; without options all of them, in two processes
  check                  lint, format, types, import contracts and tests
  bench [OPTIONS]        run the benchmarks
  help                   this text

DYNHAT_PYTHON names the Python to build the environment with (python3; 3.10 or newer).
A torch >= 2.1 that this Python already has, such as a Jetson's own build, is kept and used.
END
}

fail() {
  echo "run.sh: $*" >&2
  exit 2
}

# fingerprint EXTRAS: what the environment was made from; changes when it has to be made again.
fingerprint() {
  {
    cat "$root/pyproject.toml" "$root/constraints.txt" "$root"/dynhat_runtime/native/csrc/* 2>/dev/null
    "$venv/bin/python" -I -S -c 'import sys; print(sys.version)' 2>/dev/null || echo "no environment"
    echo "$base_python $root $1"
  } | sha256sum | cut -d ' ' -f 1
}

stamp_of() { echo "$venv/dynhat-$1.stamp"; }

# is_ready serve|dev: the environment is complete and up to date.
is_ready() {
  local stamp
  stamp="$(stamp_of "$1")"
  [[ -f "$stamp" && "$(<"$stamp")" == "$(fingerprint "$1")" ]]
}

# need serve|dev: an environment that can do that. One process installs at a time; the others wait for it.
need() {
  is_ready "$1" && return
  (
    if command -v flock >/dev/null; then flock 9; fi
    is_ready "$1" || install "$1"
  ) 9<"$root/run.sh"
}

install() {
  check_python
  rm -f "$(stamp_of serve)" "$(stamp_of dev)"
  local own_torch own_numpy
  own_torch="$(own_version torch)"
  own_numpy="$(own_version numpy)"
  make_venv "$own_torch"
  write_constraints "$own_torch" "$own_numpy"
  echo "run.sh: installing into $venv (the first time takes minutes)" >&2
  if [[ -z "$own_torch" ]]; then
    pip_install "$(grep '^torch==' "$root/constraints.txt")"
  fi
  if [[ "$1" == dev ]]; then
    pip_install --editable "$root[dev]"
    fingerprint dev >"$(stamp_of dev)"
  else
    pip_install --editable "$root"
  fi
  fingerprint serve >"$(stamp_of serve)" # dev holds all that serve needs
}

check_python() {
  command -v "$base_python" >/dev/null || fail "$base_python not found: install Python 3.10 or newer, or set DYNHAT_PYTHON"
  "$base_python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$base_python" --version 2>&1) is too old: set DYNHAT_PYTHON to Python 3.10 or newer"
}

# own_version PACKAGE: the version the base Python has of it, or nothing. A torch older than 2.1 counts as none.
own_version() {
  "$base_python" - "$1" <<'END'
import re
import sys
from importlib.metadata import PackageNotFoundError, version

name = sys.argv[1]
if sys.prefix != sys.base_prefix:  # a virtual environment's packages cannot be seen from another
    sys.exit()
try:
    found = version(name)
except PackageNotFoundError:
    sys.exit()
major, minor = (int(number) for number in re.findall(r"\d+", found)[:2])
is_early = re.match(r"2\.1(\.0)?(a|b|rc|\.dev)", found)
if name != "torch" or ((major, minor) >= (2, 1) and not is_early):
    print(found)
END
}

# make_venv OWN_TORCH: an environment of the right kind, kept when there is one already and it works.
make_venv() {
  local kind=plain
  [[ -n "$1" ]] && kind="with the machine's torch"
  local label
  label="$kind, $("$base_python" --version 2>&1)"
  if [[ -f "$venv/dynhat-kind" && "$(<"$venv/dynhat-kind")" == "$label" ]] &&
    "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    return
  fi
  local options=(--clear)
  [[ -n "$1" ]] && options+=(--system-site-packages)
  "$base_python" -m venv "${options[@]}" "$venv" ||
    fail "could not make $venv: on Debian and Ubuntu install python3-venv"
  echo "$label" >"$venv/dynhat-kind"
}

# write_constraints OWN_TORCH OWN_NUMPY: the tested versions. The machine's torch is pinned to what it is, and a
# numpy 1 beside it stays a numpy 1, which that torch was built against.
write_constraints() {
  if [[ -z "$1" ]]; then
    cp "$root/constraints.txt" "$venv/constraints.txt"
    return
  fi
  {
    echo "torch==$1"
    [[ "$2" == 1.* ]] && echo "numpy<2"
    grep -v -e '^torch==' "$root/constraints.txt" | { [[ "$2" == 1.* ]] && grep -v '^numpy==' || cat; }
  } >"$venv/constraints.txt"
}

# A jetson-stats built by root from source installs a system service: take the wheel.
pip_install() {
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --only-binary jetson-stats --constraint "$venv/constraints.txt" "$@"
}

run_serve() {
  need serve
  exec "$venv/bin/dynhat" serve "$@" # exec: signals reach the daemon itself
}

run_test() {
  need dev
  cd "$root"
  # All of them in two processes: half of the tests wait. A file's tests share what they set up.
  [[ $# -gt 0 ]] || set -- --numprocesses 2 --dist loadfile
  "$venv/bin/python" -m pytest "$@"
}

run_check() {
  need dev
  cd "$root"
  "$venv/bin/ruff" check .
  "$venv/bin/ruff" format --check .
  "$venv/bin/lint-imports"
  # Types are checked beside the tests, and told last.
  local types checker tested=0 typed=0
  types="$(mktemp)"
  "$venv/bin/mypy" >"$types" 2>&1 &
  checker=$!
  run_test || tested=$?
  wait "$checker" || typed=$?
  cat "$types"
  rm -f "$types"
  return $((tested ? tested : typed))
}

run_bench() {
  need dev
  cd "$root"
  exec "$venv/bin/python" benchmarks/run.py "$@"
}

command="${1:-help}"
[[ $# -gt 0 ]] && shift
case "$command" in
  serve) run_serve "$@" ;;
  test) run_test "$@" ;;
  check) run_check "$@" ;;
  bench) run_bench "$@" ;;
  help | -h | --help) usage ;;
  *)
    usage >&2
    fail "no command '$command'"
    ;;
esac
