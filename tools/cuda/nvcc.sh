#!/bin/sh
#
# nvcc.sh        the CUDA compiler's path: $NVCC, the one in PATH, the one in
#                /usr/local/cuda, or the one that -i has installed
# nvcc.sh -i     installs the one that is pinned in requirements.txt into
#                build/cuda-toolkit, where there is none: 270 MB, from PyPI by
#                package name through pip's own configuration
# nvcc.sh -l     options to link with its runtime
# nvcc.sh -n     the directory of nccl.h: $NCCL_INCLUDE, the compiler's own, or
#                of the package that is pinned in nccl.txt, which is installed
#                into build/nccl where there is none: 200 MB
#
# Exits with 1 and a line where there is none.

set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
own=$root/build/cuda-toolkit


find_nvcc() {
    for n in "${NVCC:-}" "$(command -v nvcc)" /usr/local/cuda/bin/nvcc \
             "$own/nvidia/cu13/bin/nvcc"
    do
        if [ -n "$n" ] && "$n" --version >/dev/null 2>&1; then
            echo "$n"
            return 0
        fi
    done

    return 1
}


case ${1:-} in

'')
    find_nvcc || {
        echo "nvcc.sh: no CUDA compiler; tools/cuda/nvcc.sh -i" >&2
        exit 1
    }
    ;;

-i)
    find_nvcc >/dev/null || {
        rm -rf "$own"
        echo "nvcc.sh: installing the CUDA compiler"
        python3 -m pip install --quiet --disable-pip-version-check \
            --root-user-action ignore --no-deps --no-compile \
            --require-hashes --target "$own" \
            -r "$root/tools/cuda/requirements.txt" >"$root/build/nvcc.log" \
            2>&1 && find_nvcc >/dev/null || {
            tail -5 "$root/build/nvcc.log" >&2
            exit 1
        }
    }
    ;;

-l)
    # what the compiler itself calls its top, behind wrappers and links
    nvcc=$(find_nvcc)
    top=$("$nvcc" --dryrun x.cu 2>&1 | sed -n 's/^#\$ TOP=//p')

    for d in lib64 lib targets/x86_64-linux/lib; do
        if [ -e "$top/$d/libcudart_static.a" ]; then
            echo "-L$top/$d -lcudart_static -lrt"
            exit 0
        fi
    done

    echo "nvcc.sh: $top has no libcudart_static.a" >&2
    exit 1
    ;;

-n)
    nccl=$root/build/nccl

    for d in "${NCCL_INCLUDE:-}" /usr/include /usr/local/cuda/include \
             "$nccl/nvidia/nccl/include"
    do
        if [ -n "$d" ] && [ -e "$d/nccl.h" ]; then
            echo "$d"
            exit 0
        fi
    done

    rm -rf "$nccl"
    python3 -m pip install --quiet --disable-pip-version-check \
        --root-user-action ignore --no-deps --no-compile --require-hashes \
        --target "$nccl" -r "$root/tools/cuda/nccl.txt" \
        >"$root/build/nccl.log" 2>&1 || {
        tail -5 "$root/build/nccl.log" >&2
        exit 1
    }

    echo "$nccl/nvidia/nccl/include"
    ;;

*)
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
