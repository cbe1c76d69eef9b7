#!/usr/bin/env bash
# Runs Python, with the arguments given, in the environment for development.
set -euo pipefail

python=$("$(dirname "${BASH_SOURCE[0]}")/prepare_env.sh" dev)
exec "$python" "$@"
