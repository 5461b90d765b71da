#!/bin/bash
#
# units.sh TEST...: runs unit tests.  Those that only compute run side by
# side, one a processor; those that start processes and meet deadlines come
# after them, one at a time.  What a test writes is shown when it has ended.

set -u

alone='test_(ep|rank|run|serve|supervise)[a-z_]*$'

# begin with these, so that none of them ends long after the rest
longest='test_(cuda_model|fair|golden|property)$'

run() {
    local out rc=0

    out=$($1 2>&1) || rc=$?
    printf '== %s\n%s\n' "$1" "$out"
    [ $rc = 0 ] || printf 'FAILED (%d): %s\n' $rc "$1"

    return $rc
}

export -f run

calm=$(printf '%s\n' "$@" | grep -E "$longest"
       printf '%s\n' "$@" | grep -Ev "$alone|$longest")
rc=0

[ -z "$calm" ] || xargs -P "$(nproc)" -I{} bash -c 'run {} || exit 255' \
    <<<"$calm" || rc=1

for t in $(printf '%s\n' "$@" | grep -E "$alone"); do
    [ $rc = 0 ] || break
    run $t || rc=1
done

exit $rc
