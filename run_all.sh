#!/usr/bin/env bash
# The whole pipeline: ./run_all.sh CONFIG [--from STAGE] [--only STAGE] [--redo STAGE] [--set key=value] [--rehearse] [--nproc N]
# Without CONFIG it says what there is to say. The environment: see scripts/prepare_env.sh.
set -euo pipefail

self=${BASH_SOURCE[0]}
while [[ -L $self ]]; do # macOS came without readlink -f for long
    link=$(readlink "$self")
    [[ $link == /* ]] || link=$(dirname "$self")/$link
    self=$link
done
trap 'echo "rlhf: interrupted" >&2; exit 130' INT # until the stages have an answer of their own
root=$(CDPATH= cd -- "$(dirname "$self")" && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

python=$("$root/scripts/prepare_env.sh")
extras=$(trap '' INT; "$python" -m rlhf.config.extras "$@")
if [[ -n $extras && $python == "$root/.venv/bin/python" ]]; then
    # shellcheck disable=SC2086  # several words
    "$root/scripts/prepare_env.sh" $extras >/dev/null
fi
export PATH=$(dirname "$python"):$PATH  # what else the environment has, such as ninja
exec "$python" -m rlhf run "$@"
