#!/usr/bin/env bash
# What only GPUs can show, on a host of 1, 2 or 4 that is had for a short time: as much as fits, the most wanted first.
#
#   benchmarks/gpu_host.sh WORK_DIR RESULT_DIR SECONDS [--tiny]
#
# In the environment of `python3`, or of PYTHON, from the repository's folder. WORK_DIR takes up to 180 GB. Every call leaves
# what it printed in RESULT_DIR/NAME.out; RESULT_DIR/END is there when all have ended. --tiny tries it on a CPU, as 2 GPUs
# or GPUS.
set -uo pipefail
work=$1 results=$2 seconds=$3 tiny=${4:-}
python=${PYTHON:-python3}
export NCCL_NVLS_ENABLE=0 PYTHONUNBUFFERED=1 PYTHONPATH=.:benchmarks${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$work/caches/a" "$results" || exit
rm -f "$results/END"
gpus=$(nvidia-smi -L 2>/dev/null | wc -l)
[ -z "$tiny" ] || gpus=${GPUS:-2}

left() { echo $((seconds - SECONDS)); }

# What is compiled is kept in a folder of this name; calls at the same time need different ones.
cache() { export TORCHINDUCTOR_CACHE_DIR=$work/caches/$1/inductor TRITON_CACHE_DIR=$work/caches/$1/triton; }

# call NAME NEEDS LIMIT COMMAND...: unless fewer than NEEDS seconds are left; ended after LIMIT.
call() {
    local name=$1 needs=$2 limit=$3 began=$SECONDS
    shift 3
    if [ "$(left)" -lt "$needs" ]; then
        echo "$SECONDS s: $name left out, $(left) s left"
        return
    fi
    [ "$limit" -lt "$(left)" ] || limit=$(left)
    echo "$SECONDS s: $name"
    timeout -k 5 "$limit" "$python" "$@" ${tiny:+"$tiny"} >"$results/$name.out" 2>&1
    echo "$SECONDS s: $name ended with $? after $((SECONDS - began)) s"
}

# scaling NAME NEEDS LIMIT CASE...
scaling() {
    local name=$1 needs=$2 limit=$3
    shift 3
    call "$name" "$needs" "$limit" benchmarks/scaling.py "$work" "$results" --budget $((limit * 2 / 3)) ${meanwhile:+--meanwhile "$meanwhile"} --cases "$@"
}

# alone NAME CASE...: into a folder of its own, as the committed ppo_32.json has TRL's figures beside ours.
alone() {
    local name=$1
    shift
    call "$name" 110 900 benchmarks/ppo.py "$work/$name" "$results/$name" --options compiled masked --profile --cases "$@"
}

fine_tuning() {
    call sft 200 330 benchmarks/sft.py "$work/sft" "$results" --rows 32 --cases sft_full --settings \
        "4 rows" "4 rows, budget 0.7" "4 rows, budget 0.5" "2 rows" "4 rows, none again"
}

cache a
case $gpus in
0) echo "no GPU is there" >&2 && exit 2 ;;
1)
    alone alone ppo_32_uneven ppo_32 growth_256_256
    fine_tuning
    alone 13b ppo_13b
    ;;
2)
    (
        cache b && export CUDA_VISIBLE_DEVICES=1
        alone alone ppo_32
        call rollout 150 400 benchmarks/rollout.py "$results"
    ) &
    (
        export CUDA_VISIBLE_DEVICES=0
        [ -n "$tiny" ] || call kernels 60 240 benchmarks/gpu_kernels.py "$results/gpu_kernels.json"
        call tokens 60 240 benchmarks/gpu_tokens.py "$results/gpu_tokens.json"
        alone uneven ppo_32_uneven
    )
    wait
    scaling pipeline 330 700 pipeline_lora_2_zero2
    scaling two 200 600 ppo_13b_lora_2_zero3
    scaling fast_2 300 600 ppo_fast_2 sft_fast_2
    scaling fast_1 200 600 ppo_fast_1 sft_fast_1 ppo_shared_1
    scaling more 200 600 ppo_shared_2 rm_full_2_zero3
    ;;
4)
    meanwhile="on the host's other GPUs scaling.py on one or two, ppo.py and then sft.py on one"
    (cache b && CUDA_VISIBLE_DEVICES=2 scaling fast_1 200 600 ppo_fast_1 sft_fast_1 ppo_shared_1) &
    (cache c && export CUDA_VISIBLE_DEVICES=3 && alone alone ppo_32_uneven ppo_32 growth_256_256 && fine_tuning) &
    CUDA_VISIBLE_DEVICES=0,1 scaling fast_2 200 600 ppo_fast_2 sft_fast_2 ppo_shared_2 rm_full_2_zero3
    wait
    meanwhile=
    scaling fast_4 200 450 ppo_fast_4 sft_fast_4
    scaling four 150 420 rm_full_4_zero3 ppo_13b_lora_4_zero3
    rm -rf "$work"/weights-baichuan2-13b-*
    scaling pipeline 250 900 pipeline_full_4_zero3
    scaling more 100 400 ppo_shared_4 rm_lora_4_zero2
    ;;
esac
touch "$results/END"
echo "$SECONDS s: END"
