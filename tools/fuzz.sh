#!/bin/sh
#
# fuzz.sh SECONDS TARGET...: runs each libFuzzer target from what it found in
# earlier runs (build/fuzz/corpus) and stops at the first finding.  With 0
# seconds it is a test that gives the same result each time: a fixed seed, a
# fixed number of runs, no corpus.

set -eu

seconds=$1
shift

for target in "$@"; do
    name=$(basename "$target")
    corpus=$(dirname "$target")/../corpus/$name
    mkdir -p "$corpus"
    echo "== $name"

    if [ "$seconds" = 0 ]; then
        how="-seed=1 -runs=20000"
    else
        how="-max_total_time=$seconds $corpus"
    fi

    "$target" -rss_limit_mb=2048 -timeout=20 -verbosity=0 \
        -print_final_stats=0 -artifact_prefix="$corpus/../$name-" $how \
        2>"$corpus.log" || { cat "$corpus.log" >&2; exit 1; }
done
