#!/bin/bash
#
# gpu_check.sh [-e] DIR [PART...]
#
# Checks and measures the GPU backend on this machine, which needs a GPU, nvcc,
# a C compiler and python3, but no network; where jansson, PCRE2, utf8proc,
# OpenSSL or cmocka are not installed, build/gpu-deps (tools/gpu_pack.sh).
# Writes DIR/gpu.json, DIR/gpu.md and DIR/gpu.log.
#
# Parts, all of them without PART; none stops the others:
#
#   build     the engine and its tests, for this GPU
#   kernels   every operation against its plain C twin, bit for bit
#   memcheck racecheck initcheck synccheck
#             compute-sanitizer's tools on the same, small
#   nccl      experts spread by NCCL, where libnccl.so.2 is to be found: with
#             one rank, and with two on one GPU where it is 2.30 or later
#   models    whole models against the plain set; goldens; drafts
#   ceilings  the device's copy and matrix rates, by PyTorch where it is there
#   bench     the operations, beside the device's copy
#   engine    moe-engine bench on random weights: SHAPE (small-deepseek2) and
#             TYPE (bf16) of tools/bench/shapes.c, batches up to BATCH (64)
#
# All together may take half an hour; a part that is named needs build before
# it, then or earlier.
#
# -e: no GPU; the kernels run on the processor, to test this script.  Its
# figures mean nothing, and it says so.
#
# The last line counts parts; exits with 0 where none failed.

set -u

root=$(cd "$(dirname "$0")/.." && pwd)
cuda=1

if [ "${1:-}" = -e ]; then
    cuda=simt
    shift
fi

if [ $# -lt 1 ]; then
    sed -n '3,/^$/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi

mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
shift
all="build kernels memcheck racecheck initcheck synccheck models nccl ceilings
     bench engine"
parts=${*:-$all}

cd "$root"
bin=build/cuda-$cuda
tsv=$(mktemp)
work=$(mktemp -d)
trap 'rm -rf "$tsv" "$work"' EXIT
: > "$out/gpu.log"

jobs=$(nproc)
make=(make -j"$jobs" CUDA=$cuda)

if [ -d build/gpu-deps ]; then
    PATH=$PATH:$root/build/gpu-deps/bin
    make+=(CFLAGS="-I$root/build/gpu-deps/include"
           LDFLAGS="-L$root/build/gpu-deps/lib -Wl,-rpath,$root/build/gpu-deps/lib")
fi

# what the GPU's own instructions are called, in nvcc's words
if [ $cuda = 1 ]; then
    cap=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null \
          | head -1 | tr -d .)
    case $cap in
    90)  cap=90a ;;
    '')  echo "gpu_check.sh: nvidia-smi shows no GPU" | tee -a "$out/gpu.log" ;;
    esac
    make+=(CUDA_ARCH="${cap:-90a}")
fi


# part NAME LIMIT COMMAND...: its result, seconds and log
part() {
    local name=$1 limit=$2 begin rc what
    shift 2

    echo "== $name" | tee -a "$out/gpu.log"
    begin=$(date +%s.%N)
    timeout -k 10 "$limit" "$@" >"$work/log" 2>&1
    rc=$?
    cat "$work/log" >>"$out/gpu.log"

    # a test that finds no device skips, which is not passing here
    if [ $rc = 77 ]; then
        what=skipped
    elif [ $rc != 0 ] || grep -q '^\[  SKIPPED \]' "$work/log"; then
        what=failed
        tail -15 "$work/log"
    else
        what=passed
    fi

    printf '%s\t%s\t%s\t%s\n' "$name" "$what" "$rc" \
        "$(echo "$(date +%s.%N) $begin" | awk '{printf "%.1f", $1 - $2}')" \
        >>"$tsv"
    echo "   $what"
}


do_build() {
    "${make[@]}" engine $bin/t/test_cuda $bin/t/test_cuda_rows \
        $bin/t/test_cuda_model $bin/t/test_golden $bin/t/test_mtp \
        $bin/t/test_ep_nccl $bin/bench-gpu $bin/shapes
}


do_kernels() {
    local large=MOE_CUDA_LARGE=1 rounds=20 rc=0 t

    if [ $cuda = simt ]; then
        large=NOTHING=1 rounds=1
    fi

    for t in test_cuda test_cuda_rows; do
        env $large MOE_CUDA_ROUNDS=$rounds $bin/t/$t || rc=1
    done

    return $rc
}


do_sanitizer() {
    local s rc=0 t

    s=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer \
        /usr/local/cuda*/compute-sanitizer/compute-sanitizer 2>/dev/null \
        | head -1)
    if [ -z "$s" ] || [ $cuda = simt ]; then
        echo "no compute-sanitizer"
        return 77
    fi

    for t in test_cuda test_cuda_rows; do
        "$s" --tool "$1" --error-exitcode 9 $bin/t/$t || rc=1
    done

    return $rc
}


do_models() {
    local rc=0

    $bin/t/test_cuda_model || rc=1

    if [ $cuda = 1 ]; then
        MOE_KERNELS=cuda $bin/t/test_golden || rc=1
        MOE_KERNELS=cuda $bin/t/test_mtp || rc=1
    fi

    return $rc
}


do_nccl() {
    local rc=0 version lib

    if [ $cuda = simt ]; then
        $bin/t/test_ep_nccl
        return
    fi

    # where the loader looks, or where PyTorch has its own
    lib=$(python3 -c 'import nvidia.nccl as n; print(list(n.__path__)[0])' \
          2>/dev/null)
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:${lib:+$lib/lib}

    version=$($bin/t/test_ep_nccl version) || {
        echo "$version"
        return 77
    }
    echo "NCCL $version"

    MOE_NCCL_REAL=1 $bin/t/test_ep_nccl || rc=1

    if [ "${version% }" -ge 23000 ]; then
        MOE_NCCL_REAL=2 NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=8 \
            $bin/t/test_ep_nccl || rc=1
    else
        echo "two ranks on one GPU need NCCL 2.30"
    fi

    return $rc
}


do_ceilings() {
    python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || {
        echo "no PyTorch with a GPU"
        return 77
    }

    python3 tools/bench/gpu_ceilings.py >"$work/ceilings.json"
}


do_bench() {
    local size=

    if [ $cuda = simt ]; then
        size=small
    fi

    $bin/bench-gpu $size >"$work/bench.json"
}


do_engine() {
    local shape=${SHAPE:-small-deepseek2} type=${TYPE:-bf16} n=${BATCH:-64}

    if [ $cuda = simt ]; then
        echo "models/demo" >"$work/engine.txt"
        $bin/moe-engine bench -m models/demo --kernels cuda --batch 1 \
            --prompt 4 --tokens 2 >>"$work/engine.txt"
        return
    fi

    $bin/shapes "$shape" "$type" "$work/model.gguf" || return 1
    echo "$shape $type" >"$work/engine.txt"
    $bin/moe-engine bench -m "$work/model.gguf" --kernels cuda --batch "$n" \
        >>"$work/engine.txt"
}


# so that timeout can end them
export -f do_build do_kernels do_sanitizer do_models do_nccl do_ceilings \
          do_bench do_engine
export cuda bin work
declare -p make >"$work/make.sh"

# the report is written anew after each part, in case there is no next one
run() {
    part "$1" "$2" bash -c ". '$work/make.sh'; $3"
    python3 tools/bench/gpu_report.py "$cuda" "$tsv" "$work" "$out" \
        || echo "gpu_check.sh: no report could be written"
}

for p in $parts; do
    case $p in
    build)      run build 500 do_build ;;
    kernels)    run kernels 300 do_kernels ;;
    memcheck|racecheck|initcheck|synccheck)
                run "$p" 240 "do_sanitizer $p" ;;
    models)     run models 400 do_models ;;
    nccl)       run nccl 240 do_nccl ;;
    ceilings)   run ceilings 120 do_ceilings ;;
    bench)      run bench 240 do_bench ;;
    engine)     run engine 500 do_engine ;;
    *)          echo "gpu_check.sh: no part \"$p\"" >&2; exit 2 ;;
    esac
done

awk -F '\t' '{ n[$2]++ }
    END { printf "%d passed, %d failed, %d skipped\n", n["passed"],
          n["failed"], n["skipped"]; exit n["failed"] > 0 }' "$tsv"
