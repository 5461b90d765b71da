#!/bin/sh
#
# ep.sh: two replicas, two expert-parallel ranks and one engine with two
# threads beside each other, on real models' shapes with random weights in 4
# bits.  What the columns are: tools/bench/ep.c.
#
#     make bench-ep
#
# ep.sh overlap: whole steps and steps in halves, of two ranks of one thread
# each over MPI, on two hosts that are network namespaces; for each of RATES the
# wire between them lets so much through, for none what it can.
#
#     make bench-overlap
#
# SHAPES="olmoe-1b-7b" REPEATS=1 BATCHES="2 8" RATES="none 1gbit" change it, and
# DELAY=100us where the kernel has netem.  A shape takes as
# much disk as its weights, twice while they are made, and memory for them.

set -eu

cd "$(dirname "$0")/../.."

dir=${DIR:-build/bench/ep}
mkdir -p "$dir"

${CC:-cc} -O2 -Wall -Wextra -Werror -o "$dir/shapes" tools/bench/shapes.c -lm

sed -n 's/^model name.*: /processor: /p' /proc/cpuinfo | sort | uniq -c

# a model, and what the wire lets through
overlap() {
    case $2,${DELAY:-} in
    none,) TWO_HOSTS_WIRE= ;;
    none,*) TWO_HOSTS_WIRE="netem delay $DELAY" ;;
    *,) TWO_HOSTS_WIRE="tbf rate $2 burst 32kb latency 1s" ;;
    *) TWO_HOSTS_WIRE="netem delay $DELAY rate $2" ;;
    esac

    echo "$1, wire: ${TWO_HOSTS_WIRE:-as fast as it is}"
    export TWO_HOSTS_WIRE OMPI_ALLOW_RUN_AS_ROOT=1 \
           OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1

    # shellcheck disable=SC2086
    "$PWD/t/tools/two-hosts.sh" run "moe-bench-$$" \
        -np 2 -host 10.77.77.1:1,10.77.77.2:1 --bind-to none \
        "$PWD/build/bench-overlap" "$(realpath "$1")" "${REPEATS:-3}" \
        ${BATCHES:-8 16 32 64}
    echo
}

for shape in ${SHAPES:-deepseek-v2-lite olmoe-1b-7b}; do
    if [ ! -d "$dir/$shape" ]; then
        "$dir/shapes" "$shape" q4_0 "$dir/$shape.gguf"
        build/moe-engine quantize -q -m "$dir/$shape.gguf" -o "$dir/$shape.new"
        mv "$dir/$shape.new" "$dir/$shape"
        rm "$dir/$shape.gguf"
    fi

    if [ "${1:-}" = overlap ]; then
        for rate in ${RATES:-none 1gbit 200mbit}; do
            overlap "$dir/$shape" "$rate"
        done
        continue
    fi

    # shellcheck disable=SC2086
    build/bench-ep "$dir/$shape" ${REPEATS:-3} ${BATCHES:-}
    echo
done
