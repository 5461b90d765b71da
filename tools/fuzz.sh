#!/bin/sh
#
# fuzz.sh SECONDS TARGET...: runs each libFuzzer target from what it found in
# earlier runs (build/fuzz/corpus) and stops at the first finding.

set -eu

seconds=$1
shift

for target in "$@"; do
    name=$(basename "$target")
    corpus=$(dirname "$target")/../corpus/$name
    mkdir -p "$corpus"
    echo "== $name"
    "$target" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=20 \
        -verbosity=0 -print_final_stats=0 \
        -artifact_prefix="$corpus/../$name-" "$corpus"
done
