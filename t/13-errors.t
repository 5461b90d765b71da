# conf/moe_errors.conf: nginx's own errors as OpenAI's error object.
# Zones have names of their own: a reload keeps one of the same name.

use Test::Nginx::Socket 'no_plan';
use MoeTest;

moe_plan();
moe_puppet('a');

&Test::Nginx::Util::add_block_preprocessor(sub {
    my ($block) = @_;
    $block->set_value('config',
        "include \$TEST_NGINX_MOE_ROOT/conf/moe_errors.conf;\n"
        . $block->config);
});

run_tests();

__DATA__

=== TEST 1: 401
--- early
--- config
location / { auth_basic x; auth_basic_user_file /dev/null; moe_pass engine; }
--- fields
"max_tokens":1
--- error_code: 401
--- response_headers
Content-Type: application/json
WWW-Authenticate: Basic realm="x"
--- json
error.type = "authentication_error"
error.code = "invalid_api_key"
error.param = null
error.message ~ .



=== TEST 2: 403
--- early
--- config
location / { deny all; moe_pass engine; }
--- fields
"max_tokens":1
--- error_code: 403
--- response_headers_like
X-Request-Id: [0-9a-f]{32}
--- json
error.type = "permission_error"
--- error_log
access forbidden by rule



=== TEST 3: 413
--- early
--- config
location / { client_max_body_size 100; moe_pass engine; }
--- request eval
"POST /v1/completions\n" . "x" x 1000
--- error_code: 413
--- response_headers_like
X-Request-Id: [0-9a-f]{32}
--- json
error.code = "request_too_large"
error.type = "invalid_request_error"



=== TEST 4: 429
--- early
--- http_config
limit_req_zone $server_name zone=r429:64k rate=1r/m;
--- config
limit_req_status 429;
location / { limit_req zone=r429; moe_pass engine; }
--- request eval
["POST /tokenize\n{\"prompt\":\"a\"}", "POST /tokenize\n{\"prompt\":\"a\"}"]
--- error_code eval
[200, 429]
--- json eval
["count exists", "error.type = \"rate_limit_error\"\nerror.code = \"rate_limit_exceeded\""]



=== TEST 5: 502
--- config
location / { moe_pass unix:$TEST_NGINX_NONE_SOCK; }
--- completion
{"prompt":"a"}
--- error_code: 502
--- json
error.type = "server_error"
--- ignore_alerts



=== TEST 6: 503 by limit_conn's and limit_req's default
--- early
--- http_config
limit_req_zone $server_name zone=r503:64k rate=1r/m;
--- config
location / { limit_req zone=r503; moe_pass engine; }
--- request eval
["POST /tokenize\n{\"prompt\":\"a\"}", "POST /tokenize\n{\"prompt\":\"a\"}"]
--- error_code eval
[200, 503]
--- json eval
["count exists", "error.code = \"unavailable\""]



=== TEST 7: what the module says itself keeps its own message
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request eval
["POST /v1/completions\n{bad", "GET /v1/completions", "GET /nothing",
 "POST /v1/completions\n{\"prompt\":\"status=503 retry=4 code=full message=No_room\"}",
 "POST /v1/completions\n{\"prompt\":\"status=400 code=x message=Own\"}",
 "POST /v1/completions\n{\"prompt\":\"a\",\"temperature\":9}"]
--- error_code eval
[400, 405, 404, 503, 400, 400]
--- json eval
["error.code = \"invalid_json\"", "error.code = \"method_not_allowed\"",
 "error.code = \"unknown_url\"", "error.message = \"No room\"",
 "error.message = \"Own\"", "error.param = \"temperature\""]



=== TEST 8: Retry-After of a full queue
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"status=503 retry=4"}
--- error_code: 503
--- response_headers
Retry-After: 4



=== TEST 9: the queue's time-out
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_queue_timeout 100ms; }
--- completion
{"prompt":"start=5000"}
--- error_code: 503
--- response_headers
Retry-After: 1
--- json
error.type = "server_error"



=== TEST 10: no token in time
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_first_token_timeout 100ms; }
--- completion
{"prompt":"first=5000"}
--- error_code: 504
--- json
error.type = "server_error"
--- error_log
made no token in time



=== TEST 11: a malformed request line
--- config
location / { moe_pass engine; }
--- raw_request eval
"GET /v1/models HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n"
--- error_code: 400



=== TEST 12: every page of the file is JSON
--- early
--- config
location = /s { return 200; }
location / { moe_pass engine; }
location /400 { return 400; }
location /403 { return 403; }
location /404 { return 404; }
location /405 { return 405; }
location /500 { return 500; }
location /502 { return 502; }
location /503 { return 503; }
location /504 { return 504; }
--- request eval
[map "GET /$_", qw(400 403 404 405 500 502 503 504)]
--- error_code eval
[400, 403, 404, 405, 500, 502, 503, 504]
--- json eval
[("error.message ~ .\nerror.type ~ _error\$\nerror.param = null\nerror.code ~ .") x 8]
