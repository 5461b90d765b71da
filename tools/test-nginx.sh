#!/bin/bash
#
# test-nginx.sh [-j] [SUITE] [FILE...]: the Test::Nginx suites (t/[0-9]*.t), or
# the files named, against SUITE's nginx: system (Debian's own, the default),
# trixie or sid, which are unpacked under build/nginx.  A real engine with the
# demo model runs meanwhile.  With -j three files run side by side, which the
# live tests (t/live-*.t) can, as each has an nginx of its own, and they wait
# more than they compute.
#
# TEST_NGINX_USE_HUP, TEST_NGINX_RANDOMIZE, TEST_NGINX_USE_HTTP2 and
# TEST_NGINX_USE_VALGRIND (give it the lifecycle files) are Test::Nginx's own
# modes, TEST_NGINX_BINARY and TEST_NGINX_LOAD_MODULES its own names for another
# nginx than the system's.  Exit code 3: the suite cannot be had here.

set -eu

cd "$(dirname "$0")/.."

jobs=1
[ "${1:-}" != -j ] || { jobs=3; shift; }

suite=${1:-system}
[ $# = 0 ] || shift

build=${BUILD:-build}

tools/unpack-suite.sh $build/nginx perl || {
    echo "test-nginx: Test::Nginx (libtest-nginx-perl) is needed" >&2
    exit 1
}

if [ "$suite" = system ]; then
    nginx=${TEST_NGINX_BINARY:-$(PATH=$PATH:/usr/sbin command -v nginx)}
    src=/usr/share/nginx/src

else
    tools/unpack-suite.sh $build/nginx "$suite" || exit 3
    nginx=$PWD/$build/nginx/$suite/nginx
    src=$build/nginx/$suite/src

    # for HTTP/3, which the system's nginx does not have

    ! tools/unpack-suite.sh $build/nginx curl \
        || export TEST_NGINX_CURL_HTTP3=$PWD/$build/nginx/curl/curl
fi

version=$($nginx -v 2>&1 | sed 's,.*/\([0-9.]*\).*,\1,')
module=$build/nginx-$version/objs/ngx_http_moe_module.so
make -s $module NGINX_SRC=$src BUILD=$build
make -s engine $build/t/moe-puppet BUILD=$build


# a Unix socket's path has room for 107 bytes

dir=$(mktemp -d "${TMPDIR:-/tmp}/moe-t.XXXXXX")
engine=

finish() {
    [ -z "$engine" ] || { kill $engine 2>/dev/null; wait $engine; } || true
    rm -rf "$dir"
}

trap finish EXIT
trap 'exit 130' INT TERM

$build/moe-engine serve -m models/demo --model-name demo --threads 1 \
    --kv-memory 200m --socket "$dir/engine.sock" >"$dir/engine.log" 2>&1 &
engine=$!

for i in $(seq 300); do
    [ ! -S "$dir/engine.sock" ] || break
    kill -0 $engine 2>/dev/null || { cat "$dir/engine.log" >&2; exit 1; }
    sleep 0.1
done

port() {
    perl -MIO::Socket::INET -e 'for (1 .. 50) {
        my $p = 20000 + int rand 12000;
        next unless IO::Socket::INET->new(LocalAddr => "127.0.0.1",
                        LocalPort => $p, Listen => 1, ReuseAddr => 1);
        print $p; last }'
}

export TEST_NGINX_BINARY=$nginx
export TEST_NGINX_LOAD_MODULES=${TEST_NGINX_LOAD_MODULES-$PWD/$module}
export TEST_NGINX_SERVROOT=$dir/servroot
export TEST_NGINX_PORT=${TEST_NGINX_PORT:-$(port)}
export TEST_NGINX_LOG_LEVEL=${TEST_NGINX_LOG_LEVEL:-info}
export TEST_NGINX_MOE_ENGINE=$dir/engine.sock
export TEST_NGINX_PUPPET=$PWD/$build/t/moe-puppet
export TEST_NGINX_MOE_PROGRAM=$PWD/$build/moe-engine
export TEST_NGINX_MOE_ROOT=$PWD
export PERL5LIB=$PWD/$build/nginx/perl/lib:$PWD/t/lib${PERL5LIB:+:$PERL5LIB}

[ $# != 0 ] || set -- t/[0-9]*.t

# valgrind's findings fail the run

if [ -n "${TEST_NGINX_USE_VALGRIND:-}" ]; then
    export TEST_NGINX_USE_VALGRIND="--leak-check=full --num-callers=40
        --show-possibly-lost=no --keep-debuginfo=yes
        --suppressions=$PWD/t/valgrind.suppress
        --log-file=$dir/valgrind.%p"
    TEST_NGINX_USE_VALGRIND=$(echo $TEST_NGINX_USE_VALGRIND)
fi

echo "== $suite: $($nginx -v 2>&1)"
rc=0
prove -j $jobs "$@" || rc=$?

for log in "$dir"/valgrind.*; do
    [ -s "$log" ] || continue
    grep -v '^==[0-9]*== $' "$log" >&2
    rc=1
done

if ! kill -0 $engine 2>/dev/null; then
    echo "test-nginx: the engine has ended" >&2
    tail -n 20 "$dir/engine.log" >&2
    rc=1
fi

[ $rc = 0 ] || tail -n 5 "$dir/engine.log" >&2

exit $rc
