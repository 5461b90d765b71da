#!/bin/bash
#
# test-source.sh: builds nginx from its own source as the README says, with the
# module in it (--add-module=) and beside it (--add-dynamic-module=), and runs
# some suites against each.

set -eu

cd "$(dirname "$0")/.."

top=$PWD
build=${BUILD:-build}
suites="t/01-conf.t t/02-endpoints.t t/05-stream.t t/16-demo.t"

tools/unpack-suite.sh $build/nginx source || {
    [ $? = 3 ] && echo "skipped  nginx from source" && exit 0
    exit 1
}

# what the suites use of nginx
with="--with-compat --with-http_ssl_module --with-http_v2_module
      --with-http_auth_request_module --with-http_realip_module"

for how in module dynamic-module; do
    dir=$top/$build/nginx/$how
    echo "== --add-$how=$top"

    rm -rf "$dir"
    cp -r $build/nginx/source/src "$dir"

    (cd "$dir" && ./configure $with --add-$how="$top" \
        && make -j"$(nproc)") >"$dir.log" 2>&1 \
        || { tail -n 40 "$dir.log" >&2; exit 1; }

    export TEST_NGINX_BINARY=$dir/objs/nginx
    export TEST_NGINX_LOAD_MODULES=

    [ $how = module ] \
        || TEST_NGINX_LOAD_MODULES=$dir/objs/ngx_http_moe_module.so

    tools/test-nginx.sh system $suites
done
