# Streams: framing, order, usage, errors inside.

use Test::Nginx::Socket 'no_plan';
use MoeTest;

moe_plan();
moe_puppet('a');

our $hi = '"messages":[{"role":"user","content":"Tell me a story."}]';

run_tests();

__DATA__

=== TEST 1: headers
--- no_http2
--- fields
"stream":true,"max_tokens":2
--- response_headers
Content-Type: text/event-stream
Cache-Control: no-cache
X-Accel-Buffering: no
Transfer-Encoding: chunked
! Content-Length
! Content-Encoding
--- response_headers_like
X-Request-Id: [0-9a-f]{32}
--- sse
done = 1



=== TEST 2: role chunk first, finish chunk last, then [DONE]
--- fields
"stream":true,"max_tokens":6,"temperature":0,"ignore_eos":true
--- sse
done = 1
roles.0 = "assistant"
chunks.0.choices.0.delta = {"role":"assistant","content":"","refusal":null}
chunks.0.choices.0.finish_reason = null
chunks.0.choices.0.logprobs = null
chunks.0.object = "chat.completion.chunk"
chunks.0.system_fingerprint ~ ^fp_
chunks.0.usage absent
chunks.-1.choices.0.delta = {}
chunks.-1.choices.0.finish_reason = "length"
usage = null
--- check eval
sub { my ($d) = @_;
      my %id = map { $_->{id} . $_->{created} . $_->{model} => 1 } @{$d->{chunks}};
      Test::More::is(scalar keys %id, 1, 'id, created and model are one'); }



=== TEST 3: usage chunk
--- fields
"stream":true,"max_tokens":4,"ignore_eos":true,"stream_options":{"include_usage":true}
--- sse
done = 1
chunks.0.usage = null
chunks.-1.choices = []
usage.completion_tokens = 4
usage.prompt_tokens > 2
usage.prompt_tokens_details.cached_tokens exists



=== TEST 4: include_usage false
--- fields
"stream":true,"max_tokens":4,"stream_options":{"include_usage":false}
--- sse
usage = null
done = 1



=== TEST 5: a stream is the whole reply, in pieces
--- request eval
["POST /v1/chat/completions\n{$::hi,\"temperature\":0,\"max_tokens\":50}",
 "POST /v1/chat/completions\n{$::hi,\"temperature\":0,\"max_tokens\":50,\"stream\":true}",
 "POST /v1/chat/completions\n{$::hi,\"temperature\":0,\"max_tokens\":50,\"stream\":true,\"stream_options\":{}}"]
--- json eval
["object exists", undef, undef]
--- sse eval
[undef, "done = 1", "done = 1"]
--- check eval
{ my $whole; [sub { $whole = $_[0]{choices}[0]{message}{content}; },
    (sub { Test::More::is($_[0]{content}, $whole, 'equal'); }) x 2] }



=== TEST 6: stream false is no stream
--- fields
"stream":false,"max_tokens":2
--- response_headers
Content-Type: application/json
--- json
object = "chat.completion"



=== TEST 7: n choices, interleaved by index
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- chat
{"stream":true,"n":3,"messages":[{"role":"user","content":"tokens=3 delay=250 finish=length"}]}
--- sse
done = 1
roles.0 = "assistant"
roles.1 = "assistant"
roles.2 = "assistant"
finishes.0 = "length"
finishes.1 = "length"
finishes.2 = "length"
order = "012012012"



=== TEST 8: n streamed equals n whole
--- request eval
["POST /v1/chat/completions\n{$::hi,\"temperature\":1.2,\"seed\":8,\"n\":3,\"max_tokens\":25}",
 "POST /v1/chat/completions\n{$::hi,\"temperature\":1.2,\"seed\":8,\"n\":3,\"max_tokens\":25,\"stream\":true}"]
--- json eval
["object exists", undef]
--- sse eval
[undef, "done = 1"]
--- check eval
{ my @t; [sub { @t = map { $_->{message}{content} } @{$_[0]{choices}} },
          sub { Test::More::is_deeply([map { $_[0]{contents}{$_} } 0 .. 2], \@t, 'equal') }] }



=== TEST 9: logprobs in a stream
--- fields
"stream":true,"temperature":0,"max_tokens":5,"logprobs":true,"top_logprobs":2,"ignore_eos":true
--- sse
done = 1
--- check eval
sub { my @l = map { @{$_->{choices}[0]{logprobs}{content} || []} }
          grep { $_->{choices}[0]{logprobs} } @{$_[0]{chunks}};
      Test::More::is(scalar @l, 5, 'one a token');
      Test::More::is(CORE::join('', map { $_->{token} } @l), $_[0]{content}, 'the text');
      Test::More::is(scalar @{$l[0]{top_logprobs}}, 2, 'alternatives'); }



=== TEST 10: a completion's stream
--- completion
{"prompt":"Once upon","stream":true,"max_tokens":6,"temperature":0,"ignore_eos":true,"stream_options":{"include_usage":true}}
--- sse
done = 1
chunks.0.object = "text_completion"
chunks.0.choices.0.text ~ .
chunks.0.choices.0.delta absent
finishes.0 = "length"
usage.completion_tokens = 6



=== TEST 11: a completion's stream is the whole reply
--- request eval
["POST /v1/completions\n{\"prompt\":\"Once upon a time\",\"temperature\":0,\"max_tokens\":40}",
 "POST /v1/completions\n{\"prompt\":\"Once upon a time\",\"temperature\":0,\"max_tokens\":40,\"stream\":true}"]
--- json eval
["object exists", undef]
--- sse eval
[undef, "done = 1"]
--- check eval
{ my $whole; [sub { $whole = $_[0]{choices}[0]{text}; },
              sub { Test::More::is($_[0]{content}, $whole, 'equal'); }] }



=== TEST 12: several prompts and n in one stream
--- completion
{"prompt":["One","Two"],"n":2,"stream":true,"max_tokens":5,"ignore_eos":true}
--- sse
done = 1
finishes.0 = "length"
finishes.1 = "length"
finishes.2 = "length"
finishes.3 = "length"



=== TEST 13: a stop string never shows, not even its beginning
--- fields
"stream":true,"temperature":0,"stop":"can I help"
--- sse
content = "Hello! How "
finishes.0 = "stop"



=== TEST 14: special characters within frames
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"tokens=3 text=\"\\\u2028é","stream":true}
--- sse
done = 1



=== TEST 15: an error in the midst of a stream
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- chat
{"stream":true,"messages":[{"role":"user","content":"tokens=9 fail=3 text=ab delay=20"}]}
--- ignore_alerts
--- aborted
--- sse
done = 0
content = "ababab"
error.type = "server_error"
error.message ~ .
chunks.-1.error exists



=== TEST 16: an error before the first token
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- chat
{"stream":true,"messages":[{"role":"user","content":"status=503 retry=2 code=queue-full"}]}
--- error_code: 503
--- response_headers
Retry-After: 2
Content-Type: application/json
--- json
error.code = "queue-full"



=== TEST 17: the queue's time-out is a status
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_queue_timeout 200ms; }
--- chat
{"stream":true,"messages":[{"role":"user","content":"start=5000"}]}
--- error_code: 503
--- response_headers
Retry-After: 1
--- json
error.code = "queue_timeout"



=== TEST 18: no first token in time
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_first_token_timeout 200ms; }
--- chat
{"stream":true,"messages":[{"role":"user","content":"first=5000"}]}
--- aborted
--- sse
done = 0
error.code = "engine_timeout"
--- error_log
made no token in time



=== TEST 19: no next token in time
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_token_timeout 200ms; }
--- chat
{"stream":true,"messages":[{"role":"user","content":"tokens=9 stall=2 text=ab"}]}
--- aborted
--- sse
content = "abab"
error.code = "engine_timeout"
--- error_log
made no token in time



=== TEST 20: no token in time, not streamed
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_token_timeout 200ms; }
--- completion
{"prompt":"tokens=9 stall=2"}
--- error_code: 504
--- json
error.code = "engine_timeout"
--- error_log
made no token in time



=== TEST 21: keep-alive comments
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_keepalive_interval 100ms; }
--- chat
{"stream":true,"messages":[{"role":"user","content":"tokens=2 first=550 text=ab"}]}
--- sse
comments > 2
comments < 7
content = "abab"
done = 1



=== TEST 22: keep-alive comments off
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_keepalive_interval 0; }
--- chat
{"stream":true,"messages":[{"role":"user","content":"tokens=2 first=300 text=ab"}]}
--- sse
comments = 0
done = 1



=== TEST 23: a large stream through a small buffer
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_buffer_size 4k; }
--- completion
{"stream":true,"prompt":"tokens=2000 size=900"}
--- sse
done = 1
--- check eval
sub { Test::More::is(length $_[0]{content}, 1800000, 'all of it'); }



=== TEST 24: a token that is larger than the buffer
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_buffer_size 4k; }
--- completion
{"stream":true,"prompt":"tokens=3 size=15000"}
--- sse
done = 1
--- check eval
sub { Test::More::is(length $_[0]{content}, 45000, 'all of it'); }



=== TEST 25: a client of HTTP/1.0 has the stream until the end of the connection
--- raw_request eval
my $b = "{$::hi,\"stream\":true,\"max_tokens\":3}";
"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: " . length($b) . "\r\n\r\n$b"
--- response_headers
! Transfer-Encoding
Connection: close
--- sse
done = 1



=== TEST 26: keep-alive after a stream
--- pipelined_requests eval
["POST /v1/chat/completions\n{$::hi,\"stream\":true,\"max_tokens\":3}",
 "POST /v1/chat/completions\n{$::hi,\"max_tokens\":3}",
 "POST /v1/chat/completions\n{$::hi,\"stream\":true,\"max_tokens\":3}"]
--- error_code eval
[200, 200, 200]
--- sse eval
["done = 1", undef, "done = 1"]
--- json eval
[undef, "object exists", undef]



=== TEST 27: a first token long after the start is a stream at once
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_first_token_timeout 5s; }
--- completion
{"stream":true,"prompt":"tokens=2 first=300 delay=100 text=ab"}
--- sse
content = "abab"



=== TEST 28: echo in a stream
--- completion
{"prompt":"Once upon","echo":true,"stream":true,"max_tokens":3,"temperature":0}
--- sse
done = 1
content ~ ^Once upon



=== TEST 29: an engine that says what cannot be: type
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"tokens=5 bad=type"}
--- error_code: 502
--- json
error.code ~ engine_(?:lost|unavailable)
--- ignore_alerts
--- error_log
[alert]
closed with 1 jobs: event of no known type



=== TEST 30: an engine that says what cannot be: slot
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"tokens=5 bad=slot"}
--- error_code: 502
--- json
error.code ~ engine_(?:lost|unavailable)
--- ignore_alerts
--- error_log
[alert]
closed with 1 jobs: event for a slot that never was



=== TEST 31: an engine that says what cannot be: twice
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"tokens=5 bad=twice"}
--- error_code: 502
--- json
error.code ~ engine_(?:lost|unavailable)
--- ignore_alerts
--- error_log
[alert]
closed with 1 jobs: STARTED came twice



=== TEST 32: an engine that says what cannot be: choice
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"tokens=5 bad=choice"}
--- error_code: 502
--- json
error.code ~ engine_(?:lost|unavailable)
--- ignore_alerts
--- error_log
[alert]
closed with 1 jobs: DELTA is not possible for its job



=== TEST 33: an engine that says what cannot be: garbage
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"tokens=5 bad=garbage"}
--- error_code: 502
--- json
error.code ~ engine_(?:lost|unavailable)
--- ignore_alerts
--- error_log
[alert]
closed with 1 jobs: DELTA event has an impossible size



=== TEST 34: an engine that says what cannot be: early
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"tokens=5 bad=early"}
--- error_code: 502
--- json
error.code ~ engine_(?:lost|unavailable)
--- ignore_alerts
--- error_log
[alert]
closed with 1 jobs: DELTA came before STARTED



=== TEST 35: an engine that says what cannot be: kick
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"tokens=5 bad=kick"}
--- error_code: 502
--- json
error.code ~ engine_(?:lost|unavailable)
--- ignore_alerts
--- error_log
closed with 1 jobs: peer sent what is no kick



=== TEST 36: frames of a job that is over are dropped
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"tokens=5 bad=late text=a"}
--- json
choices.0.text = "aaaaa"
