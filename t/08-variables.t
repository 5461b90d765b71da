# $moe_*: what the access log has of finished, cancelled, failed and refused
# requests.

use Test::Nginx::Socket 'no_plan';
use MoeTest;

moe_plan();
moe_puppet('a');

&Test::Nginx::Util::add_block_preprocessor(sub {
    my ($block) = @_;
    my $config = $block->config;
    $block->set_value('config', "access_log logs/access.log moe;\n" .
        (defined $config && $config !~ /^location \/ \{ moe_pass engine; }/
         ? $config : "location / { moe_pass unix:\$TEST_NGINX_A_SOCK; }\n"));
    $block->set_value('wait', 0.1) if !defined $block->wait;
});

run_tests();

__DATA__

=== TEST 1: a finished completion
--- completion
{"model":"puppet","prompt":"tokens=4 cached=1"}
--- access_log eval
[qr/M=puppet S=0 P=\d+ C=4 K=1 F=stop Q=\d+\.\d{3} T=\d+\.\d{3} O=\d+\.\d{6} E=unix:\S+a\.sock\S* I=[0-9a-f]{32} s=200 us=200 ua=unix:/]



=== TEST 2: a finished stream
--- chat
{"messages":[{"role":"user","content":"tokens=4 delay=10 finish=length"}],"stream":true}
--- access_log eval
[qr/M=puppet S=1 P=\d+ C=4 K=0 F=length Q=/]



=== TEST 3: n choices are summed
--- completion
{"prompt":"tokens=4","n":3}
--- access_log eval
[qr/ C=12 /]



=== TEST 4: the model is what the client asked for
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_model_alias x puppet; }
--- completion
{"model":"x","prompt":"tokens=1"}
--- access_log
M=x S=0



=== TEST 5: one token has no time per token
--- completion
{"prompt":"tokens=1"}
--- access_log eval
[qr/C=1 K=0 F=stop Q=\S+ T=\d\S+ O=- /]



=== TEST 6: no token has no time to the first
--- completion
{"prompt":"tokens=0"}
--- access_log eval
[qr/C=0 K=0 F=\S+ Q=\d\S+ T=- O=- /]



=== TEST 7: times are what they were
--- completion
{"prompt":"tokens=5 start=200 first=200 delay=50"}
--- access_log eval
[qr/Q=0\.[23]\d\d T=0\.[45]\d\d O=0\.0[4-7]\d{4} /]



=== TEST 8: a client that goes in the midst of a stream
--- completion
{"prompt":"tokens=1000 delay=20 stall=4","stream":true}
--- abort
--- timeout: 300ms
--- ignore_response
--- wait: 0.3
--- access_log eval
[qr/M=puppet S=1 P=\d+ C=4 K=0 F=cancelled .* s=(?:200|499) us=499 /]
--- error_log
client prematurely closed connection



=== TEST 9: a client that goes while it waits
--- completion
{"prompt":"tokens=1000 start=5000"}
--- abort
--- timeout: 300ms
--- ignore_response
--- wait: 0.3
--- access_log eval
[qr/S=0 P=\d+ C=0 K=0 F=cancelled Q=- T=- O=- .* s=499 us=499 /]



=== TEST 10: a job that fails in the midst
--- completion
{"prompt":"tokens=9 fail=3 delay=10"}
--- error_code: 500
--- access_log eval
[qr/ C=3 K=0 F=error .* s=500 us=500 /]



=== TEST 11: a job that the engine refuses
--- completion
{"prompt":"status=503"}
--- error_code: 503
--- access_log eval
[qr/ C=0 K=0 F=error Q=- .* s=503 us=503 /]



=== TEST 12: no engine there
--- config
location / { moe_pass unix:$TEST_NGINX_NONE_SOCK; }
--- completion
{"model":"m","prompt":"a"}
--- error_code: 502
--- ignore_alerts
--- access_log eval
[qr/M=m S=0 P=- C=- K=- F=\S+ Q=- T=- O=- E=unix:\S+none.sock\S* I=[0-9a-f]{32} s=502 us=502 /]



=== TEST 13: an engine that goes in the midst
--- completion
{"prompt":"tokens=9 die=3 delay=10"}
--- error_code: 502
--- ignore_alerts
--- access_log eval
[qr/ C=3 K=0 F=error .* s=502 us=502 /]
--- error_log
closed with 1 jobs



=== TEST 14: a wrong request has an id, no engine
--- completion
{"prompt":"a","temperature":9}
--- error_code: 400
--- access_log eval
[qr/S=0 P=- C=- K=- F=- Q=- T=- O=- E=- I=[0-9a-f]{32} s=400 us=- /]



=== TEST 15: a request of something else
--- request
GET /v1/models
--- access_log eval
[qr/M=- S=- P=- C=- K=- F=- Q=- T=- O=- E=- I=[0-9a-f]{32} s=200 /]



=== TEST 16: outside of moe_pass there is nothing
--- config
location / { return 200 "$moe_model|$moe_request_id|$moe_finish_reason\n"; }
--- request
GET /
--- response_body
||
--- access_log
M=- S=- P=- C=- K=- F=- Q=- T=- O=- E=- I=- s=200



=== TEST 17: the queue's time-out is counted
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_queue_timeout 200ms; }
--- completion
{"prompt":"start=5000"}
--- error_code: 503
--- access_log eval
[qr/ C=0 K=0 F=cancelled Q=- .* s=503 us=503 /]



=== TEST 18: an id in the log is the id that the client has
--- completion
{"prompt":"tokens=1"}
--- check eval
sub { my ($doc, $body, $name) = @_;
    select undef, undef, undef, 0.1;
    open my $f, '<', "$ENV{TEST_NGINX_SERVER_ROOT}/logs/access.log";
    my $log = do { local $/; <$f> };
    my ($id) = $body =~ /"id":"cmpl-([0-9a-f]{32})"/;
    Test::More::like($log, qr/I=$id /, "$name - the same"); }



=== TEST 19: what a client says may not forge a line of the log
--- request eval
"POST /v1/completions\n{\"model\":\"a\\nM=forged \\\"x\\u0007\",\"prompt\":\"a\"}"
--- error_code: 404
--- no_access_log eval
[qr/^M=forged/m]
--- access_log eval
[qr/M=a\\x0AM=forged \\x22x\\x07 /]



=== TEST 20: variables in a header, after the body was parsed
--- config
location / {
    moe_pass unix:$TEST_NGINX_A_SOCK;
    add_header X-Model $moe_model always;
    add_header X-Engine $moe_engine;
    add_header X-Prompt $moe_prompt_tokens;
}
--- completion
{"model":"puppet","prompt":"tokens=2"}
--- response_headers_like
X-Model: puppet
X-Engine: unix:.*
X-Prompt: \d+



=== TEST 21: a real engine's counts
--- config
location /v1/ { moe_pass engine; }
--- chat
{"messages":[{"role":"user","content":"Hello"}],"temperature":0}
--- access_log eval
[qr/M=demo S=0 P=4 C=9 K=\d+ F=stop Q=\d+\.\d{3} T=\d+\.\d{3} O=\d\.\d{6} /]
