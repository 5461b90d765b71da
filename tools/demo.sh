#!/bin/sh
#
# demo.sh start|stop: nginx on 127.0.0.1:$PORT and an engine with the model
# that the repository ships, both as the invoking user, under build/demo.

set -eu

cd "$(dirname "$0")/.."

root=$(pwd)
dir=$root/build/demo
port=${PORT:-8080}
url=http://127.0.0.1:$port


# a Unix socket's path has room for 107 bytes

sockets() {
    if [ ${#dir} -le 90 ]; then
        echo "$dir"
    else
        echo "${TMPDIR:-/tmp}/ngx_moe-demo-$(id -u)"
    fi
}


alive() {
    pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null
}


stop_one() {
    alive "$1" || { rm -f "$1"; return 0; }
    kill "$pid" 2>/dev/null || true
    for i in $(seq 100); do
        alive "$1" || { rm -f "$1"; return 0; }
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
    rm -f "$1"
}


stop() {
    [ -d "$dir" ] || return 0
    stop_one "$dir/nginx.pid"
    stop_one "$dir/engine.pid"
    rm -f "$(sockets)/engine.sock"
    [ "$(sockets)" = "$dir" ] || rmdir "$(sockets)" 2>/dev/null || true
    rm -rf "$dir"
}


fail() {
    echo "demo: $1" >&2
    [ -z "${2:-}" ] || tail -n 20 "$2" >&2
    stop_one "$dir/nginx.pid"
    stop_one "$dir/engine.pid"
    exit 1
}


# says why nobody can listen there

listen() {
    perl -MIO::Socket::INET -e 'IO::Socket::INET->new(
        LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], Listen => 1,
        ReuseAddr => 1) or do { print $!; exit 1 }' "$1"
}


configuration() {
    sock=$1

    [ "$(id -u)" != 0 ] || echo "user root;"

    cat <<EOF
load_module $root/build/ngx_http_moe_module.so;

worker_processes  2;
pid               $dir/nginx.pid;
error_log         $dir/error.log notice;

events {
    worker_connections  1024;
}

http {
    log_format  moe  '\$remote_addr [\$time_local] "\$request" \$status '
                     'model=\$moe_model prompt=\$moe_prompt_tokens '
                     'completion=\$moe_completion_tokens '
                     'finish=\$moe_finish_reason ttft=\$moe_ttft';

    access_log             $dir/access.log moe;
    client_body_temp_path  $dir/body;
    proxy_temp_path        $dir/proxy;
    fastcgi_temp_path      $dir/fastcgi;
    uwsgi_temp_path        $dir/uwsgi;
    scgi_temp_path         $dir/scgi;

    upstream engine {
        server  unix:$sock;
    }

    server {
        listen  127.0.0.1:$port;

        location / {
            moe_pass  engine;
        }

        location = /status {
            moe_status;
        }
    }
}
EOF
}


start() {
    case $port in
    *[!0-9]*|0*|??????*) port=0 ;;
    esac

    [ "$port" -ge 1 ] && [ "$port" -le 65535 ] \
        || fail "PORT=$PORT is no port, which is a number from 1 to 65535"

    stop

    why=$(listen "$port") \
        || fail "port $port: $why; choose another: make demo PORT=8081"

    mkdir -p "$dir" "$(sockets)"
    chmod 700 "$(sockets)"
    sock=$(sockets)/engine.sock

    configuration "$sock" >"$dir/nginx.conf"

    setsid "$root/build/moe-engine" serve -m "$root/models/demo" \
        --model-name demo --socket "$sock" \
        >"$dir/engine.log" 2>&1 </dev/null &
    echo $! >"$dir/engine.pid"

    nginx -p "$dir/" -c "$dir/nginx.conf" -e "$dir/error.log" \
        || fail "nginx did not start" "$dir/error.log"

    for i in $(seq 300); do
        curl -s -o /dev/null -f "$url/health" && break
        alive "$dir/engine.pid" \
            || fail "the engine did not start" "$dir/engine.log"
        sleep 0.1
    done

    curl -s -o /dev/null -f "$url/health" \
        || fail "the engine is not healthy after 30 seconds" \
                "$dir/engine.log"

    body='{"stream": true, "temperature": 0, "messages": [{"role": "user",
        "content": "'$question'"}]}'

    echo
    echo "\$ curl -N $url/v1/chat/completions -d '{\"stream\": true, ...}'"
    echo
    echo "> $question"
    echo
    curl -sS -N -f "$url/v1/chat/completions" \
        -H 'Content-Type: application/json' -d "$body" \
        | sed -un 's/^data: {/{/p' \
        | jq -j --unbuffered '.choices[0].delta.content // empty'
    echo

    cat <<EOF

ngx_moe is running.

  URL             $url/v1        (an OpenAI client's base_url)
  status          $url/status
  configuration   $dir/nginx.conf
  logs            $dir/access.log, error.log, engine.log
  try             curl -N $url/v1/chat/completions -d '{"stream": true,
                    "messages": [{"role": "user", "content": "Hello"}]}'
  stop            make demo-stop
EOF
}


question="Tell me a story."

case "${1:-}" in
start) start ;;
stop)  stop ;;
*)     echo "usage: demo.sh start|stop" >&2; exit 2 ;;
esac
