#!/bin/sh
#
# sse.sh: what an SSE event costs the nginx worker, beside the bare ceiling of
# the same bytes written by a C program to the same number of sockets, in
# turn; and what an idle stream costs in memory.  The engine is moe-puppet,
# which emits as fast as it is asked to.
#
#     make bench-sse
#
# STREAMS=1000 TICK=20 SECONDS_=5 ROUNDS=5 IDLE=10000 change the load.

set -eu

cd "$(dirname "$0")/../.."

root=$(pwd)
dir=$root/build/bench/sse
port=${PORT:-18480}
streams=${STREAMS:-1000}
tick=${TICK:-20}
seconds=${SECONDS_:-5}
rounds=${ROUNDS:-5}
idle=${IDLE:-10000}

rm -rf "$dir"
mkdir -p "$dir"

for f in load ceiling; do
    ${CC:-cc} -O2 -Wall -Wextra -Werror -D_GNU_SOURCE -o "$dir/sse_$f" \
        "tools/bench/sse_$f.c"
done

ulimit -n 40000 2>/dev/null || ulimit -n "$(ulimit -Hn)"

cat >"$dir/nginx.conf" <<EOF
load_module $root/build/ngx_http_moe_module.so;
$([ "$(id -u)" != 0 ] || echo "user root;")
worker_processes 1;
worker_rlimit_nofile 40000;
pid $dir/nginx.pid;
error_log $dir/error.log;
events { worker_connections 30000; }
http {
    access_log off;
    client_body_temp_path $dir/body;
    proxy_temp_path $dir/proxy;
    fastcgi_temp_path $dir/fastcgi;
    uwsgi_temp_path $dir/uwsgi;
    scgi_temp_path $dir/scgi;
    connection_pool_size 256;
    request_pool_size 8k;
    client_header_buffer_size 512;
    server {
        listen 127.0.0.1:$port backlog=16384;
        location / {
            moe_pass unix:$dir/engine.sock;
            moe_first_token_timeout 1h;
            moe_keepalive_interval 1h;
        }
    }
}
EOF

build/t/moe-puppet --socket "$dir/engine.sock" &
puppet=$!
nginx -p "$dir/" -c "$dir/nginx.conf" -e "$dir/error.log"
trap 'kill $puppet $(cat "$dir/nginx.pid") 2>/dev/null || true' EXIT
sleep 0.5
worker=$(pgrep -P "$(cat "$dir/nginx.pid")")

prompt="tokens=100000000 delay=$tick tick=$tick"
: >"$dir/nginx"
: >"$dir/ceiling"

for round in $(seq "$rounds"); do
    "$dir/sse_load" "$port" "$streams" "$seconds" "$worker" \
        "$dir/sample" "$prompt" >>"$dir/nginx"

    "$dir/sse_ceiling" $((port + round)) "$streams" $((tick * 1000)) \
        "$dir/sample" &
    ceiling=$!
    sleep 0.3
    "$dir/sse_load" $((port + round)) "$streams" "$seconds" "$ceiling" \
        - go >>"$dir/ceiling"
    wait "$ceiling" || true
done

# idle streams in a worker that has had none before

kill -HUP "$(cat "$dir/nginx.pid")"
sleep 1.5
worker=$(pgrep -n -P "$(cat "$dir/nginx.pid")")
"$dir/sse_load" "$port" "$idle" 2 "$worker" - \
    "tokens=2 first=3600000" >"$dir/idle"

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

echo
echo "SSE, one worker, $streams streams, one event a stream every $tick ms;"
echo "medians of $rounds rounds of $seconds s, nginx and ceiling in turn"
echo
printf '| %-22s | %10s | %12s | %12s |\n' "" events/s "us an event" bytes
printf '|%s|%s:|%s:|%s:|\n' ------------------------ ----------- \
    ------------- -------------
for who in nginx ceiling; do
    printf '| %-22s | %10s | %12s | %12s |\n' "$who" \
        "$(cut -d' ' -f2 "$dir/$who" | median)" \
        "$(cut -d' ' -f3 "$dir/$who" | median)" \
        "$(cut -d' ' -f4 "$dir/$who" | median)"
done
echo
paste -d' ' "$dir/nginx" "$dir/ceiling" | awk '{ print $3 / $8 }' | median \
    | sed 's/.*/ratio of processor time an event, round by round: &/'
cut -d' ' -f5 "$dir/idle" \
    | sed "s/.*/idle stream, $idle in one worker: & KB/"
