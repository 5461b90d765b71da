# What nginx users expect of nginx's own directives around moe_pass.

use Test::Nginx::Socket 'no_plan';
use MoeTest;
use Time::HiRes ();

moe_plan();
moe_puppet('a', '--model', 'red', '--model', 'blue');
moe_puppet('b', '--model', 'red', '--model', 'blue');

our $one = '{"prompt":"tokens=2 text=ab"}';

run_tests();

__DATA__

=== TEST 1: limit_rate slows a stream, and loses nothing
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; limit_rate 20k; moe_buffer_size 8k; }
--- completion
{"stream":true,"prompt":"tokens=20 size=1500"}
--- sse
done = 1
--- check eval
sub { Test::More::is(length $_[0]{content}, 30000, 'all of it'); }



=== TEST 2: limit_rate with limit_rate_after on a whole reply
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; limit_rate_after 4k; limit_rate 10k; }
--- completion
{"prompt":"tokens=10 size=1000"}
--- json
choices.0.finish_reason = "stop"



=== TEST 3: limit_conn
--- http_config
limit_conn_zone $server_name zone=c:64k;
--- config
limit_conn_status 429;
location / { limit_conn c 1; moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request eval
["POST /v1/completions\n$::one", "POST /v1/completions\n$::one"]
--- error_code eval
[200, 200]



=== TEST 4: limit_req
--- early
--- http_config
limit_req_zone $server_name zone=r:64k rate=1r/m;
--- config
limit_req_status 429;
location / { limit_req zone=r; moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request eval
["POST /v1/completions\n$::one", "POST /v1/completions\n$::one"]
--- error_code eval
[200, 429]



=== TEST 5: moe_early_body: a limit by the model that is named
--- early
--- http_config
limit_req_zone $moe_model zone=m:64k rate=1r/m;
--- config
limit_req_status 429;
moe_early_body on;
location / { limit_req zone=m; moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request eval
["POST /v1/completions\n{\"model\":\"red\",\"prompt\":\"tokens=1\"}",
 "POST /v1/completions\n{\"model\":\"blue\",\"prompt\":\"tokens=1\"}",
 "POST /v1/completions\n{\"model\":\"red\",\"prompt\":\"tokens=1\"}",
 "POST /v1/completions\n{\"model\":\"blue\",\"prompt\":\"tokens=1\"}",
 "GET /v1/models"]
--- error_code eval
[200, 200, 429, 429, 200]



=== TEST 6: without moe_early_body a limit does not see the model
--- http_config
limit_req_zone $moe_model zone=m:64k rate=1r/m;
--- config
limit_req_status 429;
location / { limit_req zone=m; moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request eval
[("POST /v1/completions\n{\"model\":\"red\",\"prompt\":\"tokens=1\"}") x 3]
--- error_code eval
[200, 200, 200]



=== TEST 7: moe_early_body: bodies of all kinds
--- config
moe_early_body on;
client_body_buffer_size 8k;
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request eval
["POST /v1/completions\n{\"user\":\"" . ("x" x 100000) . "\",\"prompt\":\"tokens=2 text=ab\"}",
 "POST /v1/completions\n{bad", "POST /v1/completions\n{}",
 "POST /v1/completions\n$::one"]
--- error_code eval
[200, 400, 400, 200]
--- json eval
["choices.0.text = \"abab\"", "error.code = \"invalid_json\"",
 "error.param = \"prompt\"", "choices.0.text = \"abab\""]



=== TEST 8: moe_early_body chunked, in pieces
--- config
moe_early_body on;
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- raw_request eval
["POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
 "5\r\n{\"pro\r\n", sprintf("%x\r\n%s\r\n0\r\n\r\n", length('mpt":"tokens=2 text=ab"}'), 'mpt":"tokens=2 text=ab"}')]
--- raw_request_middle_delay
0.1
--- json
choices.0.text = "abab"



=== TEST 9: moe_early_body with auth_request
--- config
moe_early_body on;
location / { auth_request /auth; moe_pass unix:$TEST_NGINX_A_SOCK; }
location = /auth { internal; return 204; }
--- completion
{"prompt":"tokens=2 text=ab"}
--- json
choices.0.text = "abab"



=== TEST 10: auth_request lets in
--- config
location / { auth_request /auth; moe_pass unix:$TEST_NGINX_A_SOCK; }
location = /auth { internal; if ($http_authorization != "Bearer k") { return 401; } return 204; }
--- more_headers
Authorization: Bearer k
--- completion
{"prompt":"tokens=2 text=ab"}
--- json
choices.0.text = "abab"



=== TEST 11: auth_request keeps out
--- early
--- config
location / { auth_request /auth; moe_pass unix:$TEST_NGINX_A_SOCK; }
location = /auth { internal; return 401; }
--- completion
{"prompt":"tokens=2 text=ab"}
--- error_code: 401



=== TEST 12: auth_basic
--- config
location / { auth_basic "x"; auth_basic_user_file $TEST_NGINX_SERVER_ROOT/html/users; moe_pass unix:$TEST_NGINX_A_SOCK; }
--- user_files
>>> users
a:{PLAIN}b
--- more_headers
Authorization: Basic YTpi
--- completion
{"prompt":"tokens=2 text=ab"}
--- json
choices.0.text = "abab"



=== TEST 13: an engine that is down: error_page leads to a page
--- config
location / { error_page 502 = @sorry; moe_pass unix:$TEST_NGINX_NONE_SOCK; }
location @sorry { return 503 "sorry\n"; }
--- completion
{"prompt":"tokens=2 text=ab"}
--- error_code: 503
--- response_body
sorry
--- ignore_alerts



=== TEST 14: an engine that is down: error_page leads to another one
--- config
location / { error_page 502 504 = @other; moe_pass unix:$TEST_NGINX_NONE_SOCK; }
location @other { moe_pass unix:$TEST_NGINX_B_SOCK; add_header X-Engine $moe_engine; }
access_log logs/access.log moe;
--- completion
{"prompt":"tokens=2 text=ab"}
--- json
choices.0.text = "abab"
--- response_headers_like
X-Engine: .*b.sock.*
--- wait: 0.1
--- access_log eval
[qr/s=200 us=502 : 200 ua=unix:\S+none.sock : unix:\S+b.sock/]
--- ignore_alerts



=== TEST 15: the same, streamed
--- config
location / { error_page 502 504 = @other; moe_pass unix:$TEST_NGINX_NONE_SOCK; }
location @other { moe_pass unix:$TEST_NGINX_B_SOCK; }
--- completion
{"prompt":"tokens=2 text=ab","stream":true}
--- sse
content = "abab"
done = 1
--- ignore_alerts



=== TEST 16: an engine that is down: error_page leads to proxy_pass
--- http_config
server { listen unix:$TEST_NGINX_SERVER_ROOT/p.sock; location / { return 200 "proxied $request_method $content_length\n"; } }
--- config
location / { error_page 502 = @proxy; moe_pass unix:$TEST_NGINX_NONE_SOCK; }
location @proxy { proxy_pass http://unix:$TEST_NGINX_SERVER_ROOT/p.sock; }
--- completion
{"prompt":"tokens=2 text=ab"}
--- response_body
proxied POST 29
--- ignore_alerts



=== TEST 17: a job that was queued, timed out, then goes to proxy_pass
--- http_config
server { listen unix:$TEST_NGINX_SERVER_ROOT/p.sock; location / { return 200 "proxied\n"; } }
--- config
location / { error_page 503 504 = @proxy; moe_pass unix:$TEST_NGINX_A_SOCK; moe_queue_timeout 200ms; }
location @proxy { proxy_pass http://unix:$TEST_NGINX_SERVER_ROOT/p.sock; }
access_log logs/access.log moe;
--- completion
{"prompt":"start=5000"}
--- response_body
proxied
--- wait: 0.1
--- access_log eval
[qr/us=503 : 200 /]



=== TEST 18: error_page to a uri of another endpoint
--- config
error_page 404 = /v1/models;
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request
GET /nothing
--- error_code: 404
--- json
error.code = "unknown_url"



=== TEST 19: mirror: a copy of every request goes to another engine
--- config
location / { mirror /mirror; moe_pass unix:$TEST_NGINX_A_SOCK; }
location = /mirror { internal; rewrite ^ $request_uri break; moe_pass unix:$TEST_NGINX_B_SOCK; }
location = /status { moe_status; }
--- request eval
["POST /v1/completions\n$::one", "GET /status"]
--- json eval
["choices.0.text = \"abab\"", "fresh: nginx.requests = 2\nfresh: nginx.finished = 2\nnginx.active = 0"]
--- wait: 0.3



=== TEST 20: mirror of a stream to an engine that is down
--- config
location / { mirror /mirror; moe_pass unix:$TEST_NGINX_A_SOCK; }
location = /mirror { internal; rewrite ^ $request_uri break; moe_pass unix:$TEST_NGINX_NONE_SOCK; }
--- completion
{"prompt":"tokens=2 text=ab delay=50","stream":true}
--- sse
content = "abab"
done = 1
--- ignore_alerts



=== TEST 21: split_clients
--- http_config
split_clients $request_id $half { 50% unix:$TEST_NGINX_A_SOCK; * unix:$TEST_NGINX_B_SOCK; }
--- config
location / { moe_pass $half; }
--- request eval
[("POST /v1/completions\n$::one") x 6]
--- error_code eval
[(200) x 6]
--- json eval
[("choices.0.text = \"abab\"") x 6]



=== TEST 22: subrequests are refused with one line
--- config
location / { auth_request /v1/models; empty_gif; }
location /v1/ { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request
GET /
--- error_code: 500
--- error_log
"moe_pass" does not serve subrequests



=== TEST 23: gzip off by default for SSE, on for what is whole
--- config
gzip on; gzip_types application/json; gzip_min_length 1; gzip_http_version 1.0;
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- more_headers
Accept-Encoding: gzip
--- request eval
["POST /v1/completions\n{\"prompt\":\"tokens=2\",\"stream\":true}",
 "POST /v1/completions\n{\"prompt\":\"tokens=200\"}"]
--- error_code eval
[200, 200]
--- response_headers eval
["!Content-Encoding", "Content-Encoding: gzip"]



=== TEST 24: gzip of SSE where it is asked for
--- config
gzip on; gzip_types text/event-stream; gzip_http_version 1.0;
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- more_headers
Accept-Encoding: gzip
--- completion
{"prompt":"tokens=3 delay=20","stream":true}
--- response_headers
Content-Encoding: gzip



=== TEST 25: add_header
--- config
location / {
    moe_pass unix:$TEST_NGINX_A_SOCK;
    add_header X-Mine yes always;
}
--- completion
{"prompt":"tokens=2 text=ab"}
--- response_headers
X-Mine: yes
--- json
choices.0.text = "abab"



=== TEST 26: satisfy any, allow, deny
--- early
--- config
location / { allow 127.0.0.1; deny all; moe_pass unix:$TEST_NGINX_A_SOCK; }
location /closed/ { deny all; moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request eval
["POST /v1/completions\n$::one", "POST /closed/v1/completions\n$::one"]
--- error_code eval
[200, 403]



=== TEST 27: internal rewrite by try_files, X-Accel-Redirect has no part
--- config
location /api/ { rewrite ^/api(/.*)$ /v1$1 last; }
location /v1/ { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request
POST /api/completions
{"prompt":"tokens=2 text=ab"}
--- json
choices.0.text = "abab"



=== TEST 28: named location by try_files
--- config
location / { try_files /nothing @moe; }
location @moe { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"tokens=2 text=ab"}
--- json
choices.0.text = "abab"



=== TEST 29: if within the location, set and return
--- config
location / {
    if ($http_x_block) { return 403; }
    moe_pass unix:$TEST_NGINX_A_SOCK;
}
--- completion
{"prompt":"tokens=2 text=ab"}
--- json
choices.0.text = "abab"



=== TEST 30: post_action
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; post_action @after; }
location @after { return 204; }
--- completion
{"prompt":"tokens=2 text=ab"}
--- json
choices.0.text = "abab"



=== TEST 31: range and conditional requests are not for answers
--- more_headers
Range: bytes=0-3
If-None-Match: *
--- fields
"max_tokens":1
--- error_code: 200
--- response_headers
!Accept-Ranges
--- json
object exists



=== TEST 32: satisfy: lingering close after an error while the body comes
--- early
--- config
location / { deny all; moe_pass engine; }
--- request eval
"POST /v1/completions\n" . "x" x 300000
--- error_code: 403
--- error_log
access forbidden by rule



=== TEST 33: realip and the proxy protocol's address do not matter to an answer
--- config
set_real_ip_from 127.0.0.1;
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- more_headers
X-Real-IP: 10.1.2.3
--- completion
{"prompt":"tokens=2 text=ab"}
--- json
choices.0.text = "abab"



=== TEST 34: a server that listens on a Unix socket
--- http_config
server { listen unix:$TEST_NGINX_SERVER_ROOT/u.sock; location / { moe_pass unix:$TEST_NGINX_A_SOCK; } }
--- config
location / { proxy_pass http://unix:$TEST_NGINX_SERVER_ROOT/u.sock; proxy_http_version 1.1; }
--- completion
{"prompt":"tokens=3 text=ab delay=10","stream":true}
--- sse
content = "ababab"
done = 1
