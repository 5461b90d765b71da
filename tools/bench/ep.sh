#!/bin/sh
#
# ep.sh: two replicas, two expert-parallel ranks and one engine with two
# threads beside each other, on real models' shapes with random weights in 4
# bits.  What the columns are: tools/bench/ep.c.
#
#     make bench-ep
#
# SHAPES="olmoe-1b-7b" REPEATS=1 BATCHES="2 8" change it.  A shape takes as
# much disk as its weights, twice while they are made, and memory for them.

set -eu

cd "$(dirname "$0")/../.."

dir=${DIR:-build/bench/ep}
mkdir -p "$dir"

${CC:-cc} -O2 -Wall -Wextra -Werror -o "$dir/shapes" tools/bench/shapes.c -lm

sed -n 's/^model name.*: /processor: /p' /proc/cpuinfo | sort | uniq -c

for shape in ${SHAPES:-deepseek-v2-lite olmoe-1b-7b}; do
    if [ ! -d "$dir/$shape" ]; then
        "$dir/shapes" "$shape" q4_0 "$dir/$shape.gguf"
        build/moe-engine quantize -q -m "$dir/$shape.gguf" -o "$dir/$shape.new"
        mv "$dir/$shape.new" "$dir/$shape"
        rm "$dir/$shape.gguf"
    fi

    # shellcheck disable=SC2086
    build/bench-ep "$dir/$shape" ${REPEATS:-3} ${BATCHES:-}
    echo
done
