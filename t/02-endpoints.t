# Endpoints, methods, the headers of replies.

use Test::Nginx::Socket 'no_plan';
use MoeTest;

moe_plan();
moe_puppet('two', '--model', 'one', '--model', 'team/two');
run_tests();

__DATA__

=== TEST 1: POST /v1/chat/completions
--- fields
"max_tokens":1
--- response_headers_like
Content-Type: application/json
Content-Length: \d+
X-Request-Id: [0-9a-f]{32}
--- json
object = "chat.completion"



=== TEST 2: POST /v1/completions
--- completion
{"prompt":"Once","max_tokens":1}
--- json
object = "text_completion"



=== TEST 3: POST /tokenize
--- tokenize
{"prompt":"Hello"}
--- json
count > 0



=== TEST 4: POST /detokenize
--- detokenize
{"tokens":[5,6]}
--- json
prompt exists



=== TEST 5: GET /v1/models
--- request
GET /v1/models
--- response_headers_like
Content-Type: application/json
X-Request-Id: [0-9a-f]{32}
--- json
object = "list"
data # 1
data.0.id = "demo"
data.0.object = "model"
data.0.created > 1000000000
data.0.owned_by ~ .



=== TEST 6: GET /v1/models/{id}
--- request
GET /v1/models/demo
--- json
id = "demo"
object = "model"



=== TEST 7: a model that is not there
--- request
GET /v1/models/gpt-4
--- error_code: 404
--- json
error.type = "invalid_request_error"
error.code = "model_not_found"



=== TEST 8: several names, one with a slash
--- config
location / { moe_pass unix:$TEST_NGINX_TWO_SOCK; }
--- request eval
["GET /v1/models", "GET /v1/models/team/two", "GET /v1/models/team%2Ftwo"]
--- json eval
["data # 2\ndata.0.id = \"one\"\ndata.1.id = \"team/two\"",
 "id = \"team/two\"", "id = \"team/two\""]



=== TEST 9: aliases are listed where what they stand for is served
--- config
location / {
    moe_pass engine;
    moe_model_alias gpt-4 demo;
    moe_model_alias gpt-5 nobody;
}
--- request eval
["GET /v1/models", "GET /v1/models/gpt-4"]
--- json eval
["data # 2\ndata.1.id = \"gpt-4\"", "id = \"gpt-4\""]



=== TEST 10: an alias in a request
--- config
location / { moe_pass engine; moe_model_alias gpt-4 demo; }
--- fields
"model":"gpt-4","max_tokens":1
--- json
model = "gpt-4"



=== TEST 11: an unknown path
--- request
GET /v1/unknown
--- error_code: 404
--- response_headers_like
X-Request-Id: [0-9a-f]{32}
--- json
error.code = "unknown_url"
error.type = "invalid_request_error"
error.param = null



=== TEST 12: paths are matched whole
--- early
--- request eval
["GET /v1/models/", "POST /v1/chat/completions/\n{}", "GET /healthy",
 "POST /v1/chat/completion\n{}", "GET /", "GET /v1"]
--- error_code eval
[404, 404, 404, 404, 404, 404]
--- json eval
[("error exists") x 6]



=== TEST 13: GET where POST is meant
--- early
--- request eval
["GET /v1/chat/completions", "GET /v1/completions", "GET /tokenize",
 "GET /detokenize", "PUT /v1/chat/completions\n{}", "DELETE /tokenize",
 "HEAD /v1/completions"]
--- error_code eval
[405, 405, 405, 405, 405, 405, 405]
--- response_headers eval
[("Allow: POST, OPTIONS") x 7]
--- json eval
[("error.code = \"method_not_allowed\"") x 6, undef]



=== TEST 14: POST where GET is meant
--- early
--- request eval
["POST /v1/models\n{}", "POST /v1/models/demo\n{}", "POST /health\n{}",
 "DELETE /v1/models/demo"]
--- error_code eval
[405, 405, 405, 405]
--- response_headers eval
[("Allow: GET, HEAD, OPTIONS") x 4]
--- json eval
[("error.code = \"method_not_allowed\"") x 4]



=== TEST 15: OPTIONS; no CORS by default
--- request eval
["OPTIONS /v1/chat/completions", "OPTIONS /v1/models", "OPTIONS /health"]
--- error_code eval
[204, 204, 204]
--- response_headers eval
["Allow: POST, OPTIONS\n!Access-Control-Allow-Origin",
 "Allow: GET, HEAD, OPTIONS\n!Access-Control-Allow-Origin",
 "Allow: GET, HEAD, OPTIONS\n!Access-Control-Allow-Origin"]
--- response_body eval
["", "", ""]



=== TEST 16: OPTIONS of what does not exist
--- request
OPTIONS /nothing
--- error_code: 404



=== TEST 17: CORS by nginx's own means
--- config
location / {
    add_header  Access-Control-Allow-Origin * always;
    moe_pass    engine;
}
--- request eval
["OPTIONS /v1/chat/completions", "GET /v1/models", "GET /nothing"]
--- error_code eval
[204, 200, 404]
--- response_headers eval
[("Access-Control-Allow-Origin: *") x 3]



=== TEST 18: HEAD
--- request eval
["HEAD /v1/models", "HEAD /health"]
--- error_code eval
[200, 200]
--- response_body eval
["", ""]
--- response_headers eval
["Content-Type: application/json", "Content-Type: application/json"]



=== TEST 19: a query string does not matter
--- request
POST /v1/chat/completions?api-version=2024-02-01
{"messages":[{"role":"user","content":"Hi"}],"max_tokens":1}
--- json
object exists



=== TEST 20: an escaped path is the same path
--- request
GET /v1/%6dodels
--- json
object = "list"



=== TEST 21: a location in front of the endpoints, by rewrite
--- config
location /openai/ {
    rewrite ^/openai(/.*)$ $1 break;
    moe_pass engine;
}
--- request
GET /openai/v1/models
--- json
object = "list"



=== TEST 22: every request has another id, the reply's own id has it too
--- request eval
["POST /v1/chat/completions\n{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":1}",
 "POST /v1/chat/completions\n{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":1}"]
--- json eval
["id ~ ^chatcmpl-[0-9a-f]{32}\$", "id ~ ^chatcmpl-[0-9a-f]{32}\$"]
--- check eval
{ no strict 'refs'; my $last; my $f = sub {
    my ($doc, $body, $name) = @_;
    Test::More::isnt($doc->{id}, $last, "$name - another id");
    $last = $doc->{id}; }; [$f, $f] }



=== TEST 23: nginx's own errors have a request id too
--- config
location / { deny all; moe_pass engine; }
--- request
GET /v1/models
--- error_code: 403
--- response_headers_like
X-Request-Id: [0-9a-f]{32}
--- error_log
access forbidden by rule



=== TEST 24: a body with GET is read and forgotten
--- no_http2
--- request eval
"GET /v1/models\n" . "x" x 30000
--- json
object = "list"



=== TEST 25: keep-alive: one connection after another, also after errors
--- pipelined_requests eval
["GET /v1/models", "GET /nothing", "POST /tokenize\n{\"prompt\":\"a\"}",
 "POST /tokenize\n{bad", "GET /health"]
--- error_code eval
[200, 404, 200, 400, 200]
--- json eval
["object exists", "error exists", "count exists", "error exists",
 "status = \"ok\""]



=== TEST 26: HTTP/1.0 without a Host
--- raw_request eval
"GET /v1/models HTTP/1.0\r\n\r\n"
--- json
object = "list"



=== TEST 27: the last characters of methods matter
--- raw_request eval
"POSTS /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
--- error_code: 405
