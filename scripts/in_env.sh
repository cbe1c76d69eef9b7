#!/usr/bin/env bash
# Runs Python, with the arguments given, in the environment for development.
set -euo pipefail

self=${BASH_SOURCE[0]}
while [[ -L $self ]]; do # macOS came without readlink -f for long
    link=$(readlink "$self")
    [[ $link == /* ]] || link=$(dirname "$self")/$link
    self=$link
done
python=$("$(dirname "$self")/prepare_env.sh" dev)
exec "$python" "$@"
