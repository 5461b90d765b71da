#!/bin/bash
#
# test-suites.sh [-f] [SUITE...]: the Test::Nginx suites against several
# nginx at once, as they wait more than they compute.  A suite that cannot be
# unpacked here is counted and skipped; "system", Debian's own, never is.
# With -f in the other modes: reload instead of restart, blocks in random
# order, HTTP/2, and the lifecycle blocks under valgrind on "system".

set -u

cd "$(dirname "$0")/.."

modes=plain full=
[ "${1:-}" != -f ] || { modes="hup randomize http2" full=1; shift; }
[ $# != 0 ] || set -- system trixie sid

build=${BUILD:-build}
logs=$build/t/logs
lifecycle="t/05-stream.t t/09-upstream.t t/11-health.t t/14-abort.t"

make -s engine $build/t/moe-puppet BUILD=$build || exit 1
tools/unpack-suite.sh $build/nginx perl || exit 1
tools/unpack-suite.sh $build/nginx curl
mkdir -p $logs

run() {
    local suite=$1 mode=$2 files=

    case $mode in
    hup)       export TEST_NGINX_USE_HUP=1 ;;
    randomize) export TEST_NGINX_RANDOMIZE=1 ;;
    http2)     export TEST_NGINX_USE_HTTP2=1 ;;
    valgrind)  export TEST_NGINX_USE_VALGRIND=1 TEST_NGINX_TIMEOUT=60
               files=$lifecycle ;;
    esac

    tools/test-nginx.sh $suite $files >$logs/$suite-$mode 2>&1
    echo $? >$logs/$suite-$mode.rc
}

failed=0 passed=0 skipped=0 files=0

report() {
    local suite=$1 mode=$2

    case $(cat $logs/$suite-$mode.rc) in
    0) passed=$((passed + 1))
       echo "ok       $suite $mode: $(grep '^== ' $logs/$suite-$mode)" \
            "$(grep '^Files=' $logs/$suite-$mode | cut -d, -f1-3)"
       grep '\. skipped: ' $logs/$suite-$mode
       files=$((files + $(grep -c '\. skipped: ' $logs/$suite-$mode))) ;;
    3) if [ $suite = system ]; then
           failed=$((failed + 1))
       else
           skipped=$((skipped + 1))
       fi
       echo "skipped  $suite $mode: $(tail -n 1 $logs/$suite-$mode)" ;;
    *) failed=$((failed + 1))
       echo "FAILED   $suite $mode, all of it in $logs/$suite-$mode:"
       grep -v '^ok \|^$' $logs/$suite-$mode | tail -n 60 ;;
    esac
}

# the slowest beside all others

slow=
[ -z "$full" ] || { run system valgrind & slow=$!; }

for mode in $modes; do
    pids=

    for suite in "$@"; do
        run $suite $mode &
        pids="$pids $!"
    done

    wait $pids

    for suite in "$@"; do
        report $suite $mode
    done
done

[ -z "$full" ] || { wait $slow; report system valgrind; }

echo "nginx suites: $passed passed, $failed failed, $skipped skipped," \
     "$files files skipped"
[ $failed = 0 ]
