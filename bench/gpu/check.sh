#!/usr/bin/env bash
# What is to be seen on a machine with a GPU and without a network, in 8 minutes at most:
#
#   bash bench/gpu/check.sh [--device cpu] [PART...]     # build tests demo dense jobs peer
#
# The machine's own torch, transformers, triton, nvcc, cmake, ninja, scikit-build-core, pytest and
# hypothesis are used. What it lacks lies in wheels/ (fetch.sh). Every part has its own time limit and
# prints as it goes; what it leaves is in $OUT. With --device cpu the script itself is tried.
set -u
cd "$(dirname "$0")/../.."
DEVICE=cuda
if [ "${1:-}" = --device ]; then DEVICE=$2; shift 2; fi
PYTHON=${PYTHON:-python3}
OUT=${OUT:-$(mktemp -d)}
SITE=${SITE:-/tmp/glinthawk-site}
export PYTHONUNBUFFERED=1 PYTHONPATH=$SITE HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

say() { echo "=== $(date +%T) $*"; }

part_build() {
    [ "$DEVICE" = cuda ] && nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
    lscpu | grep -E 'Model name|^CPU\(s\)'
    lscpu | grep -oE 'amx_[a-z0-9]+|avx512_bf16' | sort -u | tr '\n' ' '
    free -g | sed -n 2p
    if [ ! -e "$SITE/.built" ]; then
        local pip="$PYTHON -m pip install -q --no-index --no-deps --no-compile --target $SITE"
        $pip --upgrade wheels/*.whl && timeout 120 $pip --no-build-isolation . || return
        touch "$SITE/.built"
    fi
    (cd /tmp && $PYTHON -c "import torch, transformers, triton, glinthawk._native as native
print(torch.__version__, transformers.__version__, triton.__version__, native.__file__)")
}

# A GPU's error outlives what caused it: each file has a process of its own, four at a time.
part_tests() {
    grep -lE 'mark\.gpu' -r tests --include='test_*.py' | sort | xargs -P 4 -I{} bash -c '
        log=$1/$(basename {}).log
        timeout 150 $0 -m pytest -m "$2" -o addopts= -o filterwarnings= -p no:cacheprovider -q -rfE \
            --tb=short {} > "$log" 2>&1
        echo "{}: rc $?, $(tail -1 "$log")"; grep -E "^(FAILED|ERROR)" "$log" | cut -c1-200' \
        "$PYTHON" "$OUT" "$([ "$DEVICE" = cuda ] && echo gpu || echo "not gpu and not matrix and not chaos")"
}

answer() {
    local name=$1; shift
    timeout 60 $PYTHON -m glinthawk run -m demo -i examples/prompts.jsonl -o "$OUT/$name.jsonl" \
        --restart --quiet "$@" 2>&1 | tail -3 | cut -c1-200
}

part_demo() {
    answer cpu --device cpu --tier1-kv 1GiB
    answer alone --device "$DEVICE" --tier1-kv 1GiB
    answer worker --device "$DEVICE" --tier2 local:1 --worker-kv 1GiB
    answer hybrid --device "$DEVICE" --tier1-kv 8MiB --tier2 local:1 --worker-kv 1GiB
    $PYTHON bench/gpu/compare.py "$OUT/cpu.jsonl" "$OUT"/{alone,worker,hybrid}.jsonl
}

figures() { $PYTHON -m bench gpu "$1" --device "$DEVICE" 2>&1 | grep -vi 'loading weights' | cut -c1-600; }
part_dense() { figures dense; }
part_jobs() { figures jobs; }
part_peer() { figures peer; }

declare -A LIMITS=([build]=150 [tests]=160 [demo]=100 [dense]=60 [jobs]=150 [peer]=70)
BEGUN=$SECONDS
for part in "${@:-build tests demo dense jobs peer}"; do
    for name in $part; do
        left=$((480 - (SECONDS - BEGUN)))
        limit=${LIMITS[$name]:?no such part: $name}
        [ $left -lt 20 ] && { say "$name: no time left"; continue; }
        say "$name"
        export -f "part_$name" say answer figures
        export DEVICE PYTHON OUT SITE
        timeout $((limit < left ? limit : left)) bash -c "part_$name"
        say "$name: rc $?"
    done
done
say "end; logs in $OUT"
