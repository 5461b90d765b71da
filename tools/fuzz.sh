#!/bin/sh
#
# fuzz.sh SECONDS TARGET...: runs each libFuzzer target, from files that are
# nearly right and from what it found in earlier runs (build/fuzz/corpus), and
# stops after the first finding.  With 0 seconds it is a test that gives the same
# result each time: a fixed seed, a fixed number of runs, no corpus.

set -eu

seconds=$1
shift


# parsers of whole formats reach little from nothing: what the tests have, and
# what earlier findings and t/fuzz/seeds have

seeds() {
    rm -rf "$2"
    mkdir -p "$2"
    cp t/fuzz/seeds/"$1"/* "$2" 2>/dev/null || true

    case $1 in
    fuzz_config)
        for f in t/golden/*/config.json; do
            { cat "$f"; printf '\0'; cat models/demo/generation_config.json; } \
                >"$2/$(basename "$(dirname "$f")")"
        done
        ;;
    fuzz_gguf)
        find t/golden/gguf -name '*.gguf' -size -20k -exec cp {} "$2" \;
        ;;
    esac
}


run() {
    name=$(basename "$1")
    dir=$(dirname "$1")/..
    corpus=$dir/corpus/$name
    mkdir -p "$corpus"
    seeds "$name" "$dir/seeds/$name"
    echo "== $name"

    if [ "$seconds" = 0 ]; then
        how="-seed=1 -runs=20000"
    else
        how="-max_total_time=$seconds $corpus"
    fi

    # new findings go to the first directory; seeds are made anew each time
    [ -z "$(ls "$dir/seeds/$name")" ] || how="$how $dir/seeds/$name"

    case $name in
    fuzz_config|fuzz_safetensors|fuzz_packed) how="-dict=t/fuzz/json.dict $how"
    esac

    "$1" -rss_limit_mb=2048 -timeout=20 -verbosity=0 \
        -print_final_stats=0 -artifact_prefix="$corpus/../$name-" $how \
        2>"$corpus.log" || { cat "$corpus.log" >&2; return 1; }
}


# as many at a time as there are cores

while [ $# != 0 ]; do
    pids=

    for i in $(seq "$(nproc)"); do
        [ $# != 0 ] || break
        run "$1" &
        pids="$pids $!"
        shift
    done

    for pid in $pids; do
        wait $pid
    done
done
