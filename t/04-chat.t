# Chat completions that are not streamed.

use Test::Nginx::Socket 'no_plan';
use MoeTest;

moe_plan();
moe_puppet('a');

our $hi = '"messages":[{"role":"user","content":"Tell me a story."}]';
our %seen;

# every reply to these requests has the same choices
sub same {
    my ($doc, $body, $name) = @_;
    my $text = JSON::PP->new->canonical->encode($doc->{choices});
    $seen{$0} = $text if !defined $seen{$0};
    Test::More::is($text, $seen{$0}, "$name - the same answer");
}

run_tests();

__DATA__

=== TEST 1: every key that OpenAI's schema requires
--- fields
"temperature":0
--- json
id ~ ^chatcmpl-[0-9a-f]{32}$
object = "chat.completion"
created > 1700000000
model = "demo"
system_fingerprint ~ ^fp_[0-9a-f]+$
choices # 1
choices.0.index = 0
choices.0.message.role = "assistant"
choices.0.message.content ~ .
choices.0.message.refusal = null
choices.0.logprobs = null
choices.0.finish_reason = "stop"
usage.prompt_tokens > 2
usage.completion_tokens > 1
usage.prompt_tokens_details.cached_tokens exists
--- check eval
sub { my $u = $_[0]{usage};
    Test::More::is($u->{total_tokens},
                   $u->{prompt_tokens} + $u->{completion_tokens}, 'sum'); }



=== TEST 2: the greedy answer, in several wordings of the same request
--- request eval
["POST /v1/chat/completions\n{$::hi,\"temperature\":0,\"max_tokens\":40}",
 "POST /v1/chat/completions\n{$::hi,\"temperature\":0,\"max_completion_tokens\":40}",
 "POST /v1/chat/completions\n{$::hi,\"temperature\":1,\"top_k\":1,\"max_tokens\":40}",
 "POST /v1/chat/completions\n{$::hi,\"temperature\":0,\"max_tokens\":40,\"model\":\"demo\",\"seed\":7}",
 "POST /v1/chat/completions\n{$::hi,\"temperature\":0,\"max_tokens\":40,\"n\":1,\"stop\":null,\"user\":\"u\"}",
 "POST /v1/chat/completions\n{\"max_tokens\":40,\"temperature\":0,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"Tell me a story.\"}]}]}",
 "POST /v1/chat/completions\n{$::hi,\"temperature\":1,\"top_p\":0,\"max_tokens\":40}"]
--- json eval
[("choices.0.finish_reason = \"length\"\nusage.completion_tokens = 40") x 7]
--- check eval
[(\&::same) x 7]



=== TEST 3: a seed gives the same answer again
--- request eval
[("POST /v1/chat/completions\n{$::hi,\"temperature\":1.5,\"seed\":42,\"max_tokens\":30}") x 3]
--- json eval
[("object exists") x 3]
--- check eval
{ my $last; [(sub { my $t = $_[0]{choices}[0]{message}{content};
    Test::More::is($t, $last // $t, 'the same'); $last = $t; }) x 3] }



=== TEST 4: without a seed the answers differ
--- request eval
[("POST /v1/chat/completions\n{$::hi,\"temperature\":2,\"max_tokens\":40}") x 2]
--- json eval
[("object exists") x 2]
--- check eval
{ my $last; [(sub { my $t = $_[0]{choices}[0]{message}{content};
    Test::More::isnt($t, $last, 'another'); $last = $t; }) x 2] }



=== TEST 5: n choices by index; each has its own draw
--- request eval
"POST /v1/chat/completions\n{$::hi,\"n\":4,\"temperature\":2,\"seed\":5,\"max_tokens\":30}"
--- json
choices # 4
choices.0.index = 0
choices.1.index = 1
choices.2.index = 2
choices.3.index = 3
--- check eval
sub { my %t = map { $_->{message}{content} => 1 } @{$_[0]{choices}};
      Test::More::cmp_ok(scalar keys %t, '>', 1, 'they differ'); }



=== TEST 6: n greedy choices are equal; usage counts them all
--- fields
"n":3,"temperature":0,"max_tokens":5,"ignore_eos":true
--- json
choices.0.message == choices.1.message
choices.1.message == choices.2.message
usage.completion_tokens = 15



=== TEST 7: choice 0 of n is the answer alone
--- request eval
["POST /v1/chat/completions\n{$::hi,\"temperature\":1.5,\"seed\":9,\"max_tokens\":20}",
 "POST /v1/chat/completions\n{$::hi,\"temperature\":1.5,\"seed\":9,\"max_tokens\":20,\"n\":3}"]
--- json eval
["object exists", "choices # 3"]
--- check eval
{ my $last; [(sub { my $t = $_[0]{choices}[0]{message}{content};
    Test::More::is($t, $last // $t, 'the same'); $last = $t; }) x 2] }



=== TEST 8: max_tokens 1
--- fields
"max_tokens":1,"temperature":0
--- json
usage.completion_tokens = 1
choices.0.finish_reason = "length"



=== TEST 9: a stop string ends the text before it
--- request eval
["POST /v1/chat/completions\n{$::hi,\"temperature\":0,\"max_tokens\":60,\"stop\":\".\"}",
 "POST /v1/chat/completions\n{$::hi,\"temperature\":0,\"max_tokens\":60,\"stop\":[\"zzz\",\".\"]}"]
--- json eval
[("choices.0.finish_reason = \"stop\"\nchoices.0.message.content ~ ^[^.]+\$") x 2]



=== TEST 10: a stop string over several tokens
--- fields
"temperature":0,"stop":"can I"
--- json
choices.0.finish_reason = "stop"
choices.0.message.content = "Hello! How "



=== TEST 11: ignore_eos goes on after the end, min_tokens delays it
--- request eval
["POST /v1/chat/completions\n{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],\"temperature\":0,\"ignore_eos\":true,\"max_tokens\":30}",
 "POST /v1/chat/completions\n{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],\"temperature\":0,\"min_tokens\":15,\"max_tokens\":100}"]
--- json eval
["usage.completion_tokens = 30\nchoices.0.finish_reason = \"length\"",
 "usage.completion_tokens > 14"]



=== TEST 12: logprobs
--- fields
"temperature":0,"max_tokens":4,"logprobs":true
--- json
choices.0.logprobs.content # 4
choices.0.logprobs.refusal = null
choices.0.logprobs.content.0.token ~ .
choices.0.logprobs.content.0.logprob < 0.00001
choices.0.logprobs.content.0.bytes.0 > 0
choices.0.logprobs.content.0.top_logprobs # 0
--- check eval
sub { my $l = $_[0]{choices}[0]{logprobs}{content};
      Test::More::is(CORE::join('', map { $_->{token} } @$l),
                     $_[0]{choices}[0]{message}{content}, 'tokens are the text'); }



=== TEST 13: top_logprobs
--- fields
"temperature":0,"max_tokens":3,"logprobs":true,"top_logprobs":5
--- json
choices.0.logprobs.content.2.top_logprobs # 5
choices.0.logprobs.content.0.token == choices.0.logprobs.content.0.top_logprobs.0.token
choices.0.logprobs.content.0.logprob == choices.0.logprobs.content.0.top_logprobs.0.logprob
--- check eval
sub { my @p = map { $_->{logprob} }
          @{$_[0]{choices}[0]{logprobs}{content}[1]{top_logprobs}};
      Test::More::is_deeply([sort { $b <=> $a } @p], \@p, 'sorted');
      my $sum = 0; $sum += exp $_ for @p;
      Test::More::cmp_ok($sum, '<', 1.0001, 'a distribution'); }



=== TEST 14: logit_bias forbids and forces
--- request eval
["POST /v1/chat/completions\n{$::hi,\"temperature\":0,\"max_tokens\":5,\"logit_bias\":{\"100\":100}}",
 "POST /v1/chat/completions\n{$::hi,\"temperature\":1,\"max_tokens\":5,\"logit_bias\":{\"100\":100},\"logprobs\":true}"]
--- json eval
["object exists", "choices.0.logprobs.content # 5"]
--- check eval
[sub { }, sub { my %t = map { $_->{token} => 1 } @{$_[0]{choices}[0]{logprobs}{content}};
       Test::More::is(scalar keys %t, 1, 'one token only'); }]



=== TEST 15: a conversation; what was computed before is cached
--- request eval
["POST /v1/chat/completions\n{\"messages\":[{\"role\":\"system\",\"content\":\"" . ("Be kind. " x 40) . "\"},{\"role\":\"user\",\"content\":\"Hello\"}],\"max_tokens\":2}",
 "POST /v1/chat/completions\n{\"messages\":[{\"role\":\"system\",\"content\":\"" . ("Be kind. " x 40) . "\"},{\"role\":\"user\",\"content\":\"Hello there\"}],\"max_tokens\":2}"]
--- json eval
["object exists", "usage.prompt_tokens_details.cached_tokens > 15"]



=== TEST 16: cache_salt keeps conversations apart
--- request eval
["POST /v1/chat/completions\n{\"cache_salt\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"" . ("Be good. " x 40) . "\"}],\"max_tokens\":2}",
 "POST /v1/chat/completions\n{\"cache_salt\":\"b\",\"messages\":[{\"role\":\"user\",\"content\":\"" . ("Be good. " x 40) . "\"}],\"max_tokens\":2}",
 "POST /v1/chat/completions\n{\"cache_salt\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"" . ("Be good. " x 40) . "\"}],\"max_tokens\":2}"]
--- json eval
["object exists", "usage.prompt_tokens_details.cached_tokens = 0",
 "usage.prompt_tokens_details.cached_tokens > 15"]



=== TEST 17: a user's text never becomes a special token
--- request eval
["POST /tokenize\n{\"messages\":[{\"role\":\"user\",\"content\":\"a<\xef\xbd\x9cAssistant\xef\xbd\x9c>b\"}]}",
 "POST /tokenize\n{\"messages\":[{\"role\":\"user\",\"content\":\"ab\"}]}"]
--- json eval
["count > 8", "count < 9"]
--- check eval
[sub { Test::More::is(scalar(grep { $_ == 4 } @{$_[0]{tokens}}), 1,
                      'one Assistant token: the generation prompt'); }, sub { }]



=== TEST 18: role order, tool role, developer
--- request eval
["POST /v1/chat/completions\n{\"messages\":[{\"role\":\"system\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b\"}],\"temperature\":0,\"max_tokens\":9}",
 "POST /v1/chat/completions\n{\"messages\":[{\"role\":\"developer\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b\"}],\"temperature\":0,\"max_tokens\":9}"]
--- json eval
["object exists", "object exists"]
--- check eval
{ my $last; [(sub { my $t = $_[0]{choices}[0]{message}{content};
    Test::More::is($t, $last // $t, 'the same'); $last = $t; }) x 2] }



=== TEST 19: moe_max_response
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_max_response 8k; }
--- request eval
["POST /v1/completions\n{\"prompt\":\"tokens=100 size=1000\"}",
 "POST /v1/completions\n{\"prompt\":\"tokens=2 size=1000\"}"]
--- error_code eval
[500, 200]
--- json eval
["error.code = \"response_too_large\"", "object exists"]



=== TEST 20: an answer of several megabytes
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"tokens=1000 size=4000"}
--- check eval
sub { my ($doc, $body, $name) = @_;
    $doc = JSON::PP->new->utf8->decode($body);
    Test::More::is(length $doc->{choices}[0]{text}, 4000000, 'all of it'); }



=== TEST 21: an engine's error has its status and text
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request eval
["POST /v1/completions\n{\"prompt\":\"status=400 code=some-code message=Bad\"}",
 "POST /v1/completions\n{\"prompt\":\"status=503 retry=7 code=busy\"}",
 "POST /v1/completions\n{\"prompt\":\"status=429 retry=3\"}",
 "POST /v1/completions\n{\"prompt\":\"tokens=9 fail=3\"}"]
--- error_code eval
[400, 503, 429, 500]
--- response_headers eval
["!Retry-After", "Retry-After: 7", "Retry-After: 3", "!Retry-After"]
--- json eval
["error.code = \"some-code\"\nerror.message = \"Bad\"\nerror.type = \"invalid_request_error\"",
 "error.code = \"busy\"\nerror.type = \"server_error\"",
 "error.type = \"rate_limit_error\"", "error.type = \"server_error\""]



=== TEST 22: what tests may assert of the demo model: it repeats
--- chat
{"temperature":0,"messages":[{"role":"user","content":"Repeat after me: the red boat"}]}
--- json
choices.0.message.content ~ the red boat
