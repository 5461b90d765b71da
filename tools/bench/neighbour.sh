#!/bin/sh
# neighbour.sh MODEL [TIMES]: the engine on all cores but beside one busy
# process, against one thread beside the same and against all cores alone.
# Prints tokens/s of one stream, in turn, and the medians' ratios.  Below 1.00
# of one thread the pool is no good neighbour.

set -eu

model=${1:?usage: neighbour.sh MODEL [TIMES]}
times=${2:-5}
engine=${ENGINE:-build/moe-engine}
threads=${THREADS:-$(nproc)}
busy=
tmp=$(mktemp -d)

trap 'test -z "$busy" || kill "$busy" 2>/dev/null; rm -r "$tmp"' EXIT

decode() {
    "$engine" bench -m "$model" --batch 1 --prompt 16 --tokens "${TOKENS:-64}" \
        --threads "$1" | sed -n 's/^| 1 | [^|]*| *\([0-9.]*\).*/\1/p'
}

begin_busy() {
    sh -c 'while :; do :; done' &
    busy=$!
}

end_busy() {
    kill "$busy"
    wait "$busy" 2>/dev/null || true
    busy=
}

median() {
    sort -n "$1" | sed -n "$(((times + 1) / 2))p"
}

i=0
while [ "$i" -lt "$times" ]; do
    decode "$threads" >>"$tmp/alone"
    begin_busy
    decode 1 >>"$tmp/one"
    decode "$threads" >>"$tmp/all"
    end_busy
    i=$((i + 1))
done

alone=$(median "$tmp/alone")
one=$(median "$tmp/one")
all=$(median "$tmp/all")

echo "| threads | beside | tokens/s |"
echo "|---:|---|---:|"
echo "| $threads | nobody | $alone |"
echo "| 1 | a busy process | $one |"
echo "| $threads | a busy process | $all |"
awk -v a="$all" -v o="$one" -v n="$alone" 'BEGIN {
    printf "\n%.2f times one thread, %.2f times all cores alone\n", a / o,
           a / n }'
