#!/usr/bin/env bash
# Prints the Python to run with, ready to be used; everything else goes to stderr.
#
#   scripts/prepare_env.sh [EXTRA...]      extras of pyproject.toml, such as dev or gpu
#
# PYTHON=, else an active virtual or conda environment, is used as it is. Otherwise .venv is made and
# filled with the versions in constraints.txt; what is installed already is not installed again.
set -euo pipefail
trap 'exit 130' INT # run_all.sh has a line for it

root=$(CDPATH= cd -- "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) # not pwd -P: a .venv that is there knows itself by this name
venv=$root/.venv

fail() {
    local IFS=' '
    echo "error: $*" >&2
    exit 2
}

as_it_is() { # PYTHON EXTRA...
    local python=$1 missing IFS=,
    command -v "$python" >/dev/null || fail "$python: no such Python; set PYTHON to the path of one"
    shift
    missing=$(trap '' INT; "$python" "$root/scripts/missing_requirements.py" "$@") || exit 2
    [[ -z $missing ]] || fail "$python lacks $missing; install with '$python -m pip install -c" \
        "constraints.txt -e .[$*]', or deactivate that environment to have .venv made"
    command -v "$python"
}

fits() { # PYTHON MODULE
    "$1" -c "import sys, $2; sys.exit(not (3, 11) <= sys.version_info < (3, 14))" 2>/dev/null
}

system_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        fits "$candidate" sys && echo "$candidate" && return
    done
    fail "no Python 3.11, 3.12 or 3.13 found; install one, or set PYTHON to one that has this project's requirements"
}

make_venv() {
    fits "$venv/bin/python" pip && return
    local python
    python=$(system_python) || exit 2
    echo "Making .venv with $("$python" --version)" >&2
    "$python" -m venv --clear "$venv" >&2 ||
        fail "$python cannot make a virtual environment; install its venv module (Debian, Ubuntu: apt install python3-venv)"
}

install_into_venv() { # EXTRA...
    local stamp=$venv/.installed version extra output=--progress-bar=on wanted=()
    version=$(cat "$root/pyproject.toml" "$root/setup.py" "$root/constraints.txt" <(echo "$root") | cksum)
    for extra in base "$@"; do
        grep -qxF "$version $extra" "$stamp" 2>/dev/null || wanted+=("$extra")
    done
    [[ ${#wanted[@]} -gt 0 ]] || return 0
    echo "Installing ${wanted[*]} into .venv (minutes, the first time)" >&2
    [[ -t 2 ]] || output=-qq
    local IFS=, target=$root
    [[ $# -eq 0 ]] || target+="[$*]"
    "$venv/bin/python" -m pip install "$output" -c "$root/constraints.txt" -e "$target" >&2 ||
        fail "could not install into .venv; see the messages above, then run the same command again"
    printf "$version %s\n" "${wanted[@]}" >>"$stamp"
}

if [[ -n ${PYTHON:-} ]]; then
    as_it_is "$PYTHON" "$@"
elif [[ -n ${VIRTUAL_ENV:-} && $VIRTUAL_ENV != "$venv" ]]; then
    as_it_is "$VIRTUAL_ENV/bin/python" "$@"
elif [[ -n ${CONDA_PREFIX:-} && -z ${VIRTUAL_ENV:-} ]]; then
    as_it_is "$CONDA_PREFIX/bin/python" "$@"
else
    make_venv
    install_into_venv "$@"
    echo "$venv/bin/python"
fi
