# /health: only what makes tokens is healthy.

use Test::Nginx::Socket 'no_plan';
use MoeTest;

moe_plan();
moe_puppet('a');
moe_puppet('loading', '--loading', 420);
moe_puppet('deaf', '--deaf');
moe_puppet('halves', '--halves');
run_tests();

__DATA__

=== TEST 1: a real engine, by a probe through its scheduler
--- request
GET /health
--- response_headers
Content-Type: application/json
--- json
status = "ok"
engines # 1
engines.0.status = "ok"
engines.0.engine ~ ^unix:
engines.0.ranks = 1
engines.0.ranks_up = 1



=== TEST 2: loading
--- config
location / { moe_pass unix:$TEST_NGINX_LOADING_SOCK; }
--- request
GET /health
--- error_code: 503
--- json
status = "loading"
engines.0.status = "loading"
engines.0.progress = 0.42



=== TEST 3: nobody there
--- config
location / { moe_pass unix:$TEST_NGINX_NONE_SOCK; }
--- request
GET /health
--- error_code: 503
--- json
status = "unavailable"
engines.0.status = "unreachable"
--- ignore_alerts



=== TEST 4: an engine that does not answer the probe
--- config
location / { moe_pass unix:$TEST_NGINX_DEAF_SOCK; }
--- request
GET /health
--- error_code: 503
--- json
status = "unavailable"
engines.0.status = "stuck"
--- timeout: 15



=== TEST 5: one of several is enough, each is listed
--- http_config
upstream all {
    server unix:$TEST_NGINX_NONE_SOCK;
    server unix:$TEST_NGINX_LOADING_SOCK;
    server unix:$TEST_NGINX_A_SOCK;
}
--- config
location / { moe_pass all; }
--- request
GET /health
--- json
status = "ok"
engines # 3
engines.0.status = "unreachable"
engines.1.status = "loading"
engines.2.status = "ok"
--- ignore_alerts



=== TEST 6: moe_models says which are asked
--- http_config
upstream one { server unix:$TEST_NGINX_LOADING_SOCK; }
upstream two { server unix:$TEST_NGINX_A_SOCK; }
--- config
location / { moe_pass one; moe_models two; }
--- request
GET /health
--- json
engines # 1
status = "ok"



=== TEST 7: servers that are down are not asked
--- http_config
upstream all { server unix:$TEST_NGINX_NONE_SOCK down; server unix:$TEST_NGINX_A_SOCK; }
--- config
location / { moe_pass all; }
--- request
GET /health
--- json
engines # 1
status = "ok"



=== TEST 8: a request while the model is loading
--- config
location / { moe_pass unix:$TEST_NGINX_LOADING_SOCK; }
--- completion
{"prompt":"status=503 retry=1 code=model-loading"}
--- error_code: 503
--- response_headers
Retry-After: 1



=== TEST 9: HEAD
--- config
location / { moe_pass unix:$TEST_NGINX_NONE_SOCK; }
--- request
HEAD /health
--- error_code: 503
--- response_body
--- ignore_alerts



=== TEST 10: a client that does not wait for the probe
--- config
location / { moe_pass unix:$TEST_NGINX_DEAF_SOCK; }
--- request
GET /health
--- abort
--- timeout: 300ms
--- ignore_response
--- wait: 0.2



=== TEST 11: steps in two halves: whether some are, how many were, what it brings
--- config
location / { moe_pass unix:$TEST_NGINX_HALVES_SOCK; }
--- request
GET /health
--- json
status = "ok"
engines.0.halves.now = true
engines.0.halves.share = 0.412
engines.0.halves.gain = 1.08
