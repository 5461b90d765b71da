#!/bin/sh
#
# surge.sh: what becomes of requests when many times more come than the engine
# can do: nginx, an engine with the model that ships, and an open-loop client,
# all on this machine.  What the rows are: tools/bench/surge_load.c.
#
#     make bench-surge
#
# SECONDS_=60 TIMES=40 RUNNING=16 QUEUE=256 MAY=10 change the load.

set -eu

cd "$(dirname "$0")/../.."

root=$(pwd)
dir=$root/build/bench/surge
port=${PORT:-18490}
may=${MAY:-10}

rm -rf "$dir"
mkdir -p "$dir"

${CC:-cc} -O2 -Wall -Wextra -Werror -D_GNU_SOURCE -o "$dir/surge_load" \
    tools/bench/surge_load.c -lm

ulimit -n 40000 2>/dev/null || ulimit -n "$(ulimit -Hn)"

cat >"$dir/nginx.conf" <<EOF
load_module $root/build/ngx_http_moe_module.so;
$([ "$(id -u)" != 0 ] || echo "user root;")
worker_processes 1;
daemon off;
pid $dir/nginx.pid;
error_log $dir/error.log;
events { worker_connections 16384; }
http {
    access_log off;
    client_body_temp_path $dir/body;
    proxy_temp_path $dir/proxy;
    fastcgi_temp_path $dir/fastcgi;
    uwsgi_temp_path $dir/uwsgi;
    scgi_temp_path $dir/scgi;
    keepalive_requests 1000000;
    server {
        listen 127.0.0.1:$port backlog=4096;
        location / {
            moe_pass           unix:$dir/engine.sock;
            moe_key            \$http_x_key;
            moe_priority       \$http_x_class;
            moe_queue_timeout  ${may}s;
        }
        location = /status { moe_status; }
    }
}
EOF

# in one session, so that the scheduler has no groups to share among

nginx=${NGINX:-nginx}
master=
engine=

finish() {
    [ -z "$master" ] || { kill $master && wait $master; } || true
    [ -z "$engine" ] || { kill $engine && wait $engine; } || true
}

trap finish EXIT
trap 'exit 130' INT TERM

build/moe-engine serve -m models/demo --threads 1 --kv-memory 200m \
    --max-running "${RUNNING:-16}" --queue "${QUEUE:-256}" \
    --socket "$dir/engine.sock" >"$dir/engine.log" 2>&1 &
engine=$!

i=0
until grep -q " ready model=" "$dir/engine.log"; do
    i=$((i + 1))
    [ $i -lt 300 ] || { cat "$dir/engine.log" >&2; exit 1; }
    sleep 0.1
done

$nginx -p "$dir" -e "$dir/error.log" -c "$dir/nginx.conf" &
master=$!
worker=

until [ -n "$worker" ]; do
    sleep 0.1
    worker=$(cat "/proc/$master/task/$master/children")
done

rank=$(cat "/proc/$engine/task/$engine/children")

rc=0
"$dir/surge_load" "$port" "${SECONDS_:-60}" "${TIMES:-40}" "$may" "$engine" \
    ${rank%% *} ${worker%% *} || rc=$?

! grep -E "\[(alert|crit|emerg)\]" "$dir/error.log" || rc=1

exit $rc
