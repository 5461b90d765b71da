# Several engines: balancers, the next one, variables, models of all.

use Test::Nginx::Socket 'no_plan';
use MoeTest;

moe_plan();
moe_puppet('a', '--model', 'red', '--model', 'both');
moe_puppet('b', '--model', 'blue', '--model', 'both');
moe_puppet('refusing', '--refuse', 503);
moe_puppet('silent', '--silent');
moe_puppet('sound', '--sound', '--model', 'red', '--model', 'both');

our $x3 = [("POST /v1/completions\n{\"prompt\":\"tokens=1 text=x\"}") x 3];
our $ok3 = [("choices.0.text = \"x\"") x 3];

run_tests();

__DATA__

=== TEST 1: round robin
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_B_SOCK; }
--- config
location / { moe_pass two; add_header X-Engine $moe_engine; }
--- request eval
[("POST /v1/completions\n{\"prompt\":\"tokens=1\",\"model\":\"both\"}") x 4]
--- error_code eval
[(200) x 4]
--- response_headers_like eval
["X-Engine: .*a.sock.*", "X-Engine: .*b.sock.*", "X-Engine: .*a.sock.*", "X-Engine: .*b.sock.*"]



=== TEST 2: weight
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK weight=3; server unix:$TEST_NGINX_B_SOCK; }
--- config
location / { moe_pass two; add_header X-Engine $moe_engine; }
access_log logs/access.log moe;
--- request eval
[("POST /v1/completions\n{\"prompt\":\"tokens=1\"}") x 4]
--- error_code eval
[(200) x 4]
--- check eval
{ my $n = 0; [((sub { }) x 3), sub { select undef, undef, undef, 0.2;
    open my $f, '<', "$ENV{TEST_NGINX_SERVER_ROOT}/logs/access.log";
    my @a = grep /E=unix:\S+a\.sock/, <$f>;
    Test::More::is(scalar @a, 3, 'three of four'); }] }



=== TEST 3: least_conn, zone, max_conns, hash
--- http_config
upstream lc { zone lc 64k; least_conn; server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_B_SOCK; }
upstream h { hash $moe_model consistent; server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_B_SOCK; }
upstream m { zone m 64k; server unix:$TEST_NGINX_A_SOCK max_conns=1; }
--- config
location /lc/ { rewrite ^/lc(.*) $1 break; moe_pass lc; }
location /h/ { rewrite ^/h(.*) $1 break; moe_pass h; }
location /m/ { rewrite ^/m(.*) $1 break; moe_pass m; }
--- request eval
["POST /lc/v1/completions\n{\"prompt\":\"tokens=1\"}",
 "POST /h/v1/completions\n{\"prompt\":\"tokens=1\",\"model\":\"both\"}",
 "POST /m/v1/completions\n{\"prompt\":\"tokens=1\"}",
 "POST /m/v1/completions\n{\"prompt\":\"tokens=1\"}",
 "POST /m/v1/completions\n{\"prompt\":\"status=503\"}",
 "POST /m/v1/completions\n{\"prompt\":\"tokens=1\"}"]
--- error_code eval
[200, 200, 200, 200, 503, 200]



=== TEST 4: ip_hash and random
--- http_config
upstream i { ip_hash; server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_B_SOCK; }
upstream r { zone r 64k; random two least_conn; server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_B_SOCK; }
--- config
location /i/ { rewrite ^/i(.*) $1 break; moe_pass i; }
location /r/ { rewrite ^/r(.*) $1 break; moe_pass r; }
--- request eval
["POST /i/v1/completions\n{\"prompt\":\"tokens=1\"}",
 "POST /r/v1/completions\n{\"prompt\":\"tokens=1\"}"]
--- error_code eval
[200, 200]



=== TEST 5: an engine that is not there: the next one
--- http_config
upstream two { server unix:$TEST_NGINX_NONE_SOCK; server unix:$TEST_NGINX_A_SOCK; }
--- config
location / { moe_pass two; }
access_log logs/access.log moe;
--- request eval
$::x3
--- error_code eval
[200, 200, 200]
--- json eval
$::ok3
--- access_log eval
[qr/us=502, 200 ua=unix:\S+none.sock, unix:\S+a.sock/]
--- ignore_alerts



=== TEST 6: backup
--- http_config
upstream two { server unix:$TEST_NGINX_NONE_SOCK; server unix:$TEST_NGINX_A_SOCK backup; }
--- config
location / { moe_pass two; }
--- request eval
$::x3
--- error_code eval
[200, 200, 200]
--- json eval
$::ok3
--- ignore_alerts



=== TEST 7: down
--- http_config
upstream two { server unix:$TEST_NGINX_B_SOCK down; server unix:$TEST_NGINX_A_SOCK; }
--- config
location / { moe_pass two; add_header X-Engine $moe_engine; }
--- request eval
$::x3
--- error_code eval
[200, 200, 200]
--- response_headers_like eval
[("X-Engine: .*a.sock.*") x 3]



=== TEST 8: no engine is left
--- http_config
upstream two { server unix:$TEST_NGINX_NONE_SOCK; server unix:$TEST_NGINX_NONE_SOCK.2; }
--- config
location / { moe_pass two; }
--- completion
{"prompt":"tokens=1"}
--- error_code: 502
--- json
error.type = "server_error"
error.message ~ .
--- ignore_alerts



=== TEST 9: moe_next_upstream off
--- http_config
upstream two { server unix:$TEST_NGINX_NONE_SOCK; server unix:$TEST_NGINX_A_SOCK; }
--- config
location / { moe_pass two; moe_next_upstream off; }
--- completion
{"prompt":"tokens=1"}
--- error_code: 502
--- json
error.code = "engine_unavailable"
--- ignore_alerts



=== TEST 10: the queue is full: the next one
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_B_SOCK; }
--- config
location / { moe_pass two; }
access_log logs/access.log moe;
--- completion
{"prompt":"status=503 retry=9"}
--- error_code: 503
--- wait: 0.1
--- response_headers
Retry-After: 9
--- access_log eval
[qr/us=503, 503 /]



=== TEST 11: moe_next_upstream error: overload is not passed on
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_B_SOCK; }
--- config
location / { moe_pass two; moe_next_upstream error timeout; }
access_log logs/access.log moe;
--- completion
{"prompt":"status=503"}
--- error_code: 503
--- wait: 0.1
--- access_log eval
[qr/us=503 ua/]



=== TEST 12: moe_next_upstream_tries
--- http_config
upstream three { server unix:$TEST_NGINX_NONE_SOCK; server unix:$TEST_NGINX_NONE_SOCK.2; server unix:$TEST_NGINX_A_SOCK; }
--- config
location / { moe_pass three; moe_next_upstream_tries 2; }
access_log logs/access.log moe;
--- completion
{"prompt":"tokens=1"}
--- error_code: 502
--- ignore_alerts
--- wait: 0.1
--- access_log eval
[qr/us=502, 502 ua/]



=== TEST 13: an engine that refuses workers: the next one
--- http_config
upstream two { server unix:$TEST_NGINX_REFUSING_SOCK; server unix:$TEST_NGINX_A_SOCK; }
--- config
location / { moe_pass two; }
--- request eval
$::x3
--- error_code eval
[200, 200, 200]
--- json eval
$::ok3
--- ignore_alerts



=== TEST 14: an engine that does not answer the hello: the next one, in time
--- http_config
upstream two { server unix:$TEST_NGINX_SILENT_SOCK; server unix:$TEST_NGINX_A_SOCK; }
--- config
location / { moe_pass two; moe_connect_timeout 200ms; }
--- request eval
$::x3
--- error_code eval
[200, 200, 200]
--- json eval
$::ok3
--- ignore_alerts



=== TEST 15: moe_connect_timeout alone is a 504
--- config
location / { moe_pass unix:$TEST_NGINX_SILENT_SOCK; moe_connect_timeout 200ms; }
--- completion
{"prompt":"tokens=1"}
--- error_code: 504
--- json
error.code = "engine_timeout"
--- ignore_alerts



=== TEST 16: all engines die before they start the job
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_B_SOCK backup; }
--- config
location / { moe_pass two; add_header X-Engine $moe_engine; }
--- completion
{"prompt":"start=200 close=0 tokens=1","stream":true}
--- error_code: 502
--- ignore_alerts
--- error_log
closed with 1 jobs



=== TEST 17: what is wrong with the request is not passed on
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_B_SOCK; }
--- config
location / { moe_pass two; }
access_log logs/access.log moe;
--- completion
{"prompt":"status=400"}
--- error_code: 400
--- wait: 0.1
--- access_log eval
[qr/us=400 ua/]



=== TEST 18: moe_pass by the model that is named
--- http_config
upstream red { server unix:$TEST_NGINX_A_SOCK; }
upstream blue { server unix:$TEST_NGINX_B_SOCK; }
map $moe_model $pool { volatile; red red; blue blue; }
--- config
location / { moe_pass $pool; moe_models red blue; add_header X-Engine $moe_engine; }
--- request eval
["POST /v1/completions\n{\"prompt\":\"tokens=1\",\"model\":\"red\"}",
 "POST /v1/completions\n{\"prompt\":\"tokens=1\",\"model\":\"blue\"}",
 "POST /v1/completions\n{\"prompt\":\"tokens=1\",\"model\":\"red\"}"]
--- error_code eval
[200, 200, 200]
--- json eval
["model = \"red\"", "model = \"blue\"", "model = \"red\""]
--- response_headers_like eval
["X-Engine: .*a.sock.*", "X-Engine: .*b.sock.*", "X-Engine: .*a.sock.*"]



=== TEST 19: a variable that names no upstream
--- http_config
map $moe_model $pool { volatile; default nobody; }
--- config
location / { moe_pass $pool; }
--- completion
{"prompt":"tokens=1","model":"other"}
--- error_code: 502
--- json
error.code = "no_engine"
--- error_log
moe_pass: no upstream "nobody"



=== TEST 20: a variable that is empty
--- config
location / { moe_pass $arg_pool; }
--- completion
{"prompt":"tokens=1"}
--- error_code: 502
--- json
error.code = "no_engine"
--- error_log
moe_pass



=== TEST 21: a variable that names a socket
--- config
set $sock $TEST_NGINX_B_SOCK;
location / { moe_pass unix:$sock; }
--- completion
{"prompt":"tokens=1 text=x"}
--- json
model = "blue"



=== TEST 22: a variable that names an address of the network
--- config
set $where 127.0.0.1:80;
location / { moe_pass $where; }
--- completion
{"prompt":"tokens=1"}
--- error_code: 502
--- json
error.code = "no_engine"
--- error_log
moe_pass



=== TEST 23: moe_models: models of all, each once
--- http_config
upstream red { server unix:$TEST_NGINX_A_SOCK; }
upstream blue { server unix:$TEST_NGINX_B_SOCK; }
map $moe_model $pool { volatile; default red; }
--- config
location / { moe_pass $pool; moe_models red blue; }
--- request
GET /v1/models
--- json
data # 3
data.0.id = "red"
data.1.id = "both"
data.2.id = "blue"



=== TEST 24: moe_models: one of the engines is not there
--- http_config
upstream all { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_NONE_SOCK; }
--- config
location / { moe_pass all; }
--- request
GET /v1/models
--- json
data # 2
--- ignore_alerts



=== TEST 25: no engine for /v1/models
--- config
location / { moe_pass unix:$TEST_NGINX_NONE_SOCK; }
--- request
GET /v1/models
--- error_code: 502
--- json
error.code = "engine_unavailable"
--- ignore_alerts



=== TEST 26: a variable without moe_models lists nothing
--- config
set $p engine;
location / { moe_pass $p; }
--- request
GET /v1/models
--- json
data # 0



=== TEST 27: a model that another engine of the upstream has
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_B_SOCK; }
--- config
location / { moe_pass two; }
--- completion
{"prompt":"tokens=1","model":"nobody"}
--- error_code: 404
--- json
error.code = "model_not_found"



=== TEST 28: an upstream that is defined after it is used
--- config
location / { moe_pass later; }
--- http_config
server { listen unix:/tmp/moe-t-$TEST_NGINX_SERVER_PORT.x; location / { moe_pass later; } }
upstream later { server unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"tokens=1 text=x"}
--- json
choices.0.text = "x"



=== TEST 29: keepalive in an upstream is harmless
--- http_config
upstream k { server unix:$TEST_NGINX_A_SOCK; keepalive 4; }
--- config
location / { moe_pass k; }
--- request eval
$::x3
--- error_code eval
[200, 200, 200]
--- json eval
$::ok3



=== TEST 30: an engine that dies in the midst of a whole reply: the next one begins it anew
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_SOUND_SOCK backup; }
--- config
location / { moe_pass two; }
access_log logs/access.log moe;
--- completion
{"prompt":"tokens=4 close=2 text=ab cached=3 logprobs=1","n":2,"logprobs":1}
--- json
model = "red"
choices.0.text = "abababab"
choices.1.text = "abababab"
choices.1.finish_reason = "stop"
choices.0.logprobs.tokens # 4
choices.0.logprobs.text_offset.3 = 6
usage.completion_tokens = 8
usage.prompt_tokens_details.cached_tokens = 3
--- wait: 0.1
--- access_log eval
[qr/M=red S=0 P=7 C=8 K=3 F=stop .* us=502, 200 /]
--- error_log
a.sock" failed: 
--- ignore_alerts



=== TEST 31: the same of a chat, and the first model that the other one serves
--- http_config
upstream two { server unix:$TEST_NGINX_B_SOCK; server unix:$TEST_NGINX_SOUND_SOCK backup; }
--- config
location / { moe_pass two; }
location = /status { moe_status; }
--- request eval
["POST /v1/chat/completions\n{\"messages\":[{\"role\":\"user\",\"content\":\"tokens=3 close=1 text=ab logprobs=0\"}],\"logprobs\":true}",
 "GET /status"]
--- json eval
["model = \"red\"
choices.0.message.content = \"ababab\"
choices.0.logprobs.content # 3
usage.completion_tokens = 3",
 "nginx.active = 0
fresh: nginx.retries = 1
fresh: nginx.finished = 1
fresh: nginx.failed = 0
fresh: nginx.completion_tokens = 4
fresh: nginx.ttft_seconds.count = 1"]
--- ignore_alerts



=== TEST 32: an engine that dies after its last token, before it has said so
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_SOUND_SOCK backup; }
--- config
location / { moe_pass two; }
--- completion
{"prompt":"tokens=2 close=2 text=ab"}
--- json
choices.0.text = "abab"
usage.completion_tokens = 2
--- ignore_alerts



=== TEST 33: an engine that says what cannot be in the midst of a whole reply
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_SOUND_SOCK backup; }
--- config
location / { moe_pass two; }
--- completion
{"prompt":"tokens=2 bad=garbage text=ab"}
--- json
choices.0.text = "abab"
--- ignore_alerts



=== TEST 34: a stream whose engine dies before its header is out
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK max_fails=0; server unix:$TEST_NGINX_SOUND_SOCK backup; }
--- config
location / { moe_pass two; }
--- completion
{"prompt":"close=0 tokens=2 text=ab","stream":true}
--- sse
content = "abab"
done = 1
--- ignore_alerts



=== TEST 35: one whose header is out: an error event, and no other engine
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_SOUND_SOCK backup; }
--- config
location / { moe_pass two; }
--- completion
{"prompt":"first=100 close=1 tokens=2 text=ab","stream":true}
--- aborted
--- sse
content = "ab"
error.code = "engine_lost"
done = 0
--- ignore_alerts



=== TEST 36: moe_next_upstream off, and one engine alone: 502
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_SOUND_SOCK backup; }
--- config
location / { moe_pass two; moe_next_upstream off; }
location /one/ { rewrite ^/one(.*) $1 break; moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request eval
["POST /v1/completions\n{\"prompt\":\"tokens=4 close=2\"}",
 "POST /one/v1/completions\n{\"prompt\":\"tokens=4 close=2\"}"]
--- error_code eval
[502, 502]
--- json eval
[("error.code = \"engine_lost\"") x 2]
--- ignore_alerts



=== TEST 37: an engine that dies in the midst of a mirror's copy
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_SOUND_SOCK backup; }
--- config
location / { mirror /mirror; moe_pass unix:$TEST_NGINX_SOUND_SOCK; }
location = /mirror { internal; rewrite ^ $request_uri break; moe_pass two; }
location = /status { moe_status; }
--- request eval
["POST /v1/completions\n{\"prompt\":\"tokens=4 close=2 text=ab delay=20\"}", "GET /status"]
--- json eval
["choices.0.text = \"abababab\"",
 "fresh: nginx.requests = 2
fresh: nginx.finished = 2
fresh: nginx.retries = 1
nginx.active = 0"]
--- wait: 0.3
--- ignore_alerts



=== TEST 38: moe_next_upstream_timeout: too late for the next one
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_B_SOCK; }
--- config
location / { moe_pass two; moe_next_upstream_timeout 100ms; }
access_log logs/access.log moe;
--- completion
{"prompt":"start=400 status=503"}
--- error_code: 503
--- wait: 0.1
--- access_log eval
[qr/us=503 ua/]



=== TEST 39: and in time
--- http_config
upstream two { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_B_SOCK; }
--- config
location / { moe_pass two; moe_next_upstream_timeout 60s; }
access_log logs/access.log moe;
--- completion
{"prompt":"start=50 status=503"}
--- error_code: 503
--- wait: 0.1
--- access_log eval
[qr/us=503, 503 ua/]
