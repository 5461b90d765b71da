# Configuration: what nginx -t refuses and where it says so, contexts,
# defaults and inheritance.

use Test::Nginx::Socket 'no_plan';
use MoeTest;

moe_plan();
run_tests();

__DATA__

=== TEST 1: moe_pass to a socket by its path
--- config
location / { moe_pass unix:$TEST_NGINX_MOE_ENGINE; }
--- fields
"max_tokens":1
--- json
object = "chat.completion"



=== TEST 2: moe_pass without an argument
--- config
location / { moe_pass; }
--- must_die
--- error_log
invalid number of arguments in "moe_pass" directive in



=== TEST 3: moe_pass twice
--- config
location / { moe_pass engine; moe_pass engine; }
--- must_die
--- error_log
"moe_pass" directive is duplicate in
nginx.conf:



=== TEST 4: moe_pass in server
--- config
moe_pass engine;
--- must_die
--- error_log
"moe_pass" directive is not allowed here in



=== TEST 5: moe_pass to an address that is not a socket
--- config
location / { moe_pass 127.0.0.1:8000; }
--- must_die
--- error_log
server "127.0.0.1:8000" in upstream "127.0.0.1" is not "unix:"
nginx.conf:



=== TEST 6: moe_pass to an upstream with a server that is not a socket
--- http_config
upstream mixed { server unix:/tmp/a.sock; server 127.0.0.1:8000; }
--- config
location / { moe_pass mixed; }
--- must_die
--- error_log
server "127.0.0.1:8000" in upstream "mixed" is not "unix:"
nginx.conf:



=== TEST 7: moe_pass to an upstream that is not there
--- config
location / { moe_pass nobody; }
--- must_die
--- error_log
nobody
nginx.conf:



=== TEST 8: moe_models names an upstream that is not there
--- config
location / { moe_pass engine; moe_models nobody; }
--- must_die
--- error_log
nobody
nginx.conf:



=== TEST 9: moe_models twice
--- config
location / { moe_pass engine; moe_models engine; moe_models engine; }
--- must_die
--- error_log
"moe_models" directive is duplicate in



=== TEST 10: moe_models without an argument
--- config
location / { moe_pass engine; moe_models; }
--- must_die
--- error_log
invalid number of arguments in "moe_models" directive in



=== TEST 11: moe_next_upstream has no such case
--- config
location / { moe_pass engine; moe_next_upstream error http_500; }
--- must_die
--- error_log
invalid value "http_500" in



=== TEST 12: moe_next_upstream twice the same case is a warning
--- config
location / { moe_pass engine; moe_next_upstream error error; }
--- fields
"max_tokens":1
--- json
object exists
--- error_log
duplicate value "error" in



=== TEST 13: moe_next_upstream_tries is a number
--- config
location / { moe_pass engine; moe_next_upstream_tries few; }
--- must_die
--- error_log
"moe_next_upstream_tries" directive invalid number in



=== TEST 14: moe_next_upstream_timeout is a time
--- config
location / { moe_pass engine; moe_next_upstream_timeout soon; }
--- must_die
--- error_log
"moe_next_upstream_timeout" directive invalid value in



=== TEST 15: moe_connect_timeout is a time
--- config
location / { moe_pass engine; moe_connect_timeout soon; }
--- must_die
--- error_log
"moe_connect_timeout" directive invalid value in



=== TEST 16: moe_queue_timeout is a time
--- config
location / { moe_pass engine; moe_queue_timeout -1; }
--- must_die
--- error_log
"moe_queue_timeout" directive invalid value in



=== TEST 17: moe_first_token_timeout is a time
--- config
location / { moe_pass engine; moe_first_token_timeout 1x; }
--- must_die
--- error_log
"moe_first_token_timeout" directive invalid value in



=== TEST 18: moe_token_timeout twice
--- config
location / { moe_pass engine; moe_token_timeout 1s; moe_token_timeout 2s; }
--- must_die
--- error_log
"moe_token_timeout" directive is duplicate in



=== TEST 19: moe_send_timeout is a time
--- config
location / { moe_pass engine; moe_send_timeout never; }
--- must_die
--- error_log
"moe_send_timeout" directive invalid value in



=== TEST 20: moe_park_timeout is a time
--- config
location / { moe_pass engine; moe_park_timeout ""; }
--- must_die
--- error_log
"moe_park_timeout" directive invalid value in



=== TEST 21: moe_keepalive_interval is a time
--- config
location / { moe_pass engine; moe_keepalive_interval 5q; }
--- must_die
--- error_log
"moe_keepalive_interval" directive invalid value in



=== TEST 22: moe_buffer_size is too small
--- config
location / { moe_pass engine; moe_buffer_size 1k; }
--- must_die
--- error_log
"moe_buffer_size" directive must be between 4k and 1g in



=== TEST 23: moe_buffer_size is no size
--- config
location / { moe_pass engine; moe_buffer_size big; }
--- must_die
--- error_log
"moe_buffer_size" directive invalid value in



=== TEST 24: moe_max_response is no size
--- config
location / { moe_pass engine; moe_max_response 1t; }
--- must_die
--- error_log
"moe_max_response" directive invalid value in



=== TEST 25: moe_lane_size in a location
--- config
location / { moe_pass engine; moe_lane_size 1m; }
--- must_die
--- error_log
"moe_lane_size" directive is not allowed here in



=== TEST 26: moe_lane_size out of range
--- http_config
moe_lane_size 4k;
--- config
location / { moe_pass engine; }
--- must_die
--- error_log
"moe_lane_size" directive must be between 64k and 1g in



=== TEST 27: moe_lane_size at its least
--- http_config
moe_lane_size 64k;
--- fields
"max_tokens":1
--- json
object exists



=== TEST 28: moe_max_tokens 0
--- config
location / { moe_pass engine; moe_max_tokens 0; }
--- must_die
--- error_log
"moe_max_tokens" directive must be between 1 and 2147483647 in



=== TEST 29: moe_max_prompt_tokens is no number
--- config
location / { moe_pass engine; moe_max_prompt_tokens 1k; }
--- must_die
--- error_log
"moe_max_prompt_tokens" directive invalid number in



=== TEST 30: moe_default of a parameter that is not known
--- config
location / { moe_pass engine; moe_default colour 3; }
--- must_die
--- error_log
"moe_default colour 3" is of no known parameter in



=== TEST 31: moe_default out of range
--- config
location / { moe_pass engine; moe_default temperature 2.5; }
--- must_die
--- error_log
"moe_default temperature 2.5" is out of range in



=== TEST 32: moe_default that is no number
--- config
location / { moe_pass engine; moe_default top_p high; }
--- must_die
--- error_log
"moe_default top_p high" is not a number in



=== TEST 33: moe_default that is no integer
--- config
location / { moe_pass engine; moe_default top_k 1.5; }
--- must_die
--- error_log
"moe_default top_k 1.5" is not an integer in



=== TEST 34: moe_default max_tokens 0
--- config
location / { moe_pass engine; moe_default max_tokens 0; }
--- must_die
--- error_log
"moe_default max_tokens 0" is out of range in



=== TEST 35: moe_default with one argument
--- config
location / { moe_pass engine; moe_default temperature; }
--- must_die
--- error_log
invalid number of arguments in "moe_default" directive in



=== TEST 36: moe_model_alias twice the same name
--- config
location / {
    moe_pass engine;
    moe_model_alias gpt-4 demo;
    moe_model_alias gpt-4 other;
}
--- must_die
--- error_log
duplicate model alias "gpt-4" in



=== TEST 37: moe_model_alias with an empty name
--- config
location / { moe_pass engine; moe_model_alias "" demo; }
--- must_die
--- error_log
"moe_model_alias" directive has a name that is empty or too long in



=== TEST 38: moe_ignore_client_abort is a flag
--- config
location / { moe_pass engine; moe_ignore_client_abort yes; }
--- must_die
--- error_log
invalid value "yes" in "moe_ignore_client_abort" directive, it must be "on" or "off" in



=== TEST 39: moe_early_body is a flag
--- config
location / { moe_pass engine; moe_early_body 1; }
--- must_die
--- error_log
invalid value "1" in "moe_early_body" directive, it must be "on" or "off" in



=== TEST 40: moe_status of a format that is not known
--- config
location / { moe_pass engine; }
location /status { moe_status xml; }
--- must_die
--- error_log
invalid format "xml", it must be "json", "prometheus", "experts" or "heat" in



=== TEST 41: moe_status twice
--- config
location / { moe_pass engine; }
location /status { moe_status; moe_status; }
--- must_die
--- error_log
"moe_status" directive is duplicate in



=== TEST 42: moe_status in server
--- config
moe_status;
--- must_die
--- error_log
"moe_status" directive is not allowed here in



=== TEST 43: moe_engine in a location
--- config
location / { moe_pass engine; moe_engine { } }
--- must_die
--- error_log
"moe_engine" directive is not allowed here in



=== TEST 44: moe_engine without anything
--- http_config
moe_engine { }
--- must_die
--- error_log
moe_engine
nginx.conf:



=== TEST 45: moe_engine with a name that is not known
--- http_config
moe_engine { colour red; }
--- must_die
--- error_log
colour
nginx.conf:



=== TEST 46: every directive of http is inherited by a location
--- http_config
moe_default       temperature 0;
moe_default       max_tokens 2;
moe_model_alias   alias demo;
moe_queue_timeout 10s;
--- fields
"model":"alias"
--- json
usage.completion_tokens = 2
choices.0.finish_reason = "length"



=== TEST 47: moe_default is inherited one by one
--- http_config
moe_default  max_tokens 3;
--- config
moe_default  temperature 0;
location / { moe_pass engine; moe_default top_k 5; }
--- fields
"user":"x"
--- json
usage.completion_tokens = 3



=== TEST 48: a location's moe_default wins over the server's
--- config
moe_default  max_tokens 3;
location / { moe_pass engine; moe_default max_tokens 4; }
--- fields
"ignore_eos":true
--- json
usage.completion_tokens = 4



=== TEST 49: the request wins over moe_default
--- config
moe_default  max_tokens 3;
location / { moe_pass engine; }
--- fields
"max_tokens":2
--- json
usage.completion_tokens = 2



=== TEST 50: moe_max_tokens caps what the request asks for
--- config
location / { moe_pass engine; moe_max_tokens 3; }
--- fields
"max_tokens":100,"ignore_eos":true
--- json
usage.completion_tokens = 3
choices.0.finish_reason = "length"



=== TEST 51: moe_max_prompt_tokens refuses longer prompts
--- config
location / { moe_pass engine; moe_max_prompt_tokens 10; }
--- request eval
["POST /v1/completions\n{\"prompt\":\"" . "word " x 50 . "\"}",
 "POST /v1/completions\n{\"prompt\":\"word\",\"max_tokens\":1}"]
--- error_code eval
[400, 200]
--- json eval
["error.type = \"invalid_request_error\"", "usage.completion_tokens = 1"]



=== TEST 52: moe_pass in "if"
--- config
location / {
    if ($http_x_moe) { moe_pass engine; }
    root html;
}
--- more_headers
X-Moe: 1
--- fields
"max_tokens":1
--- json
object exists



=== TEST 53: moe_pass within limit_except
--- config
location / {
    limit_except GET { deny all; }
    moe_pass engine;
}
--- request
GET /v1/models
--- json
data.0.id = "demo"



=== TEST 54: a configuration without moe_pass is left alone
--- http_config
--- config
location / { return 200 "nothing\n"; }
--- request
GET /
--- response_body
nothing
--- response_headers
! X-Request-Id
