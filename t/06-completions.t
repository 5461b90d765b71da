# Completions: prompts of all forms, echo, logprobs.

use Test::Nginx::Socket 'no_plan';
use MoeTest;

moe_plan();
moe_puppet('a');
run_tests();

__DATA__

=== TEST 1: every key that OpenAI's schema requires
--- completion
{"prompt":"Once upon a time","temperature":0,"max_tokens":5}
--- json
id ~ ^cmpl-[0-9a-f]{32}$
object = "text_completion"
created > 1700000000
model = "demo"
system_fingerprint ~ ^fp_
choices # 1
choices.0.index = 0
choices.0.text ~ .
choices.0.logprobs = null
choices.0.finish_reason = "length"
usage.completion_tokens = 5
usage.prompt_tokens_details.cached_tokens exists



=== TEST 2: max_tokens is 16 by default
--- completion
{"prompt":"Once upon a time","temperature":0,"ignore_eos":true}
--- json
usage.completion_tokens = 16



=== TEST 3: moe_default max_tokens is before that
--- config
location / { moe_pass engine; moe_default max_tokens 7; }
--- completion
{"prompt":"Once upon a time","temperature":0,"ignore_eos":true}
--- json
usage.completion_tokens = 7



=== TEST 4: text and its ids are the same prompt
--- no_http2
--- request eval
["POST /tokenize\n{\"prompt\":\"Once upon a time\"}",
 "POST /v1/completions\n{\"prompt\":\"Once upon a time\",\"temperature\":0,\"max_tokens\":20}"]
--- json eval
["count > 0", "object exists"]
--- check eval
[sub { $::ids = $_[0]{tokens} }, sub {
    my ($doc, $body, $name) = @_;
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $ENV{TEST_NGINX_SERVER_PORT});
    my $b = JSON::PP->new->encode({prompt => $::ids, temperature => 0, max_tokens => 20});
    print $s "POST /v1/completions HTTP/1.0\r\nContent-Length: " . length($b) . "\r\n\r\n$b";
    my $r = do { local $/; <$s> };
    $r =~ s/.*?\r\n\r\n//s;
    my $other = JSON::PP->new->utf8->decode($r);
    Test::More::is($other->{choices}[0]{text}, $doc->{choices}[0]{text}, 'the same answer');
    Test::More::is($other->{usage}{prompt_tokens}, $doc->{usage}{prompt_tokens}, 'the same length'); }]



=== TEST 5: a list of one is the one
--- request eval
["POST /v1/completions\n{\"prompt\":\"One day\",\"temperature\":0,\"max_tokens\":9}",
 "POST /v1/completions\n{\"prompt\":[\"One day\"],\"temperature\":0,\"max_tokens\":9}"]
--- json eval
[("choices # 1") x 2]
--- check eval
{ my $last; [(sub { my $t = $_[0]{choices}[0]{text};
    Test::More::is($t, $last // $t, 'the same'); $last = $t; }) x 2] }



=== TEST 6: a list of prompts, by index
--- request eval
["POST /v1/completions\n{\"prompt\":[\"One day\",\"The sun\",\"Two\"],\"temperature\":0,\"max_tokens\":9}",
 "POST /v1/completions\n{\"prompt\":\"One day\",\"temperature\":0,\"max_tokens\":9}",
 "POST /v1/completions\n{\"prompt\":\"The sun\",\"temperature\":0,\"max_tokens\":9}",
 "POST /v1/completions\n{\"prompt\":\"Two\",\"temperature\":0,\"max_tokens\":9}"]
--- json eval
["choices # 3\nchoices.2.index = 2", ("choices # 1") x 3]
--- check eval
{ my ($all, $i) = (undef, 0);
  [sub { $all = $_[0] }, (sub { Test::More::is($_[0]{choices}[0]{text},
      $all->{choices}[$i++]{text}, 'equal') }) x 3] }



=== TEST 7: n choices of each prompt lie together
--- completion
{"prompt":["One day","The sun"],"n":2,"temperature":0,"max_tokens":6,"best_of":2}
--- json
choices # 4
choices.0.text == choices.1.text
choices.2.text == choices.3.text
choices.3.index = 3



=== TEST 8: lists of ids
--- completion
{"prompt":[[0,100,200],[0,300]],"temperature":0,"max_tokens":3}
--- json
choices # 2
usage.prompt_tokens = 5



=== TEST 9: mixed text and ids
--- completion
{"prompt":["Once",[0,300]],"temperature":0,"max_tokens":3}
--- json
choices # 2



=== TEST 10: echo
--- completion
{"prompt":"Once upon a","echo":true,"temperature":0,"max_tokens":4}
--- json
choices.0.text ~ ^Once upon a.
usage.completion_tokens = 4



=== TEST 11: echo of nothing more
--- completion
{"prompt":"Once upon a","echo":true,"max_tokens":0}
--- json
choices.0.text = "Once upon a"
usage.completion_tokens = 0
choices.0.finish_reason = "length"



=== TEST 12: logprobs in the form of completions
--- completion
{"prompt":"Once upon a","logprobs":3,"temperature":0,"max_tokens":4,"ignore_eos":true}
--- json
choices.0.logprobs.tokens # 4
choices.0.logprobs.token_logprobs # 4
choices.0.logprobs.top_logprobs # 4
choices.0.logprobs.text_offset # 4
choices.0.logprobs.text_offset.0 = 0
--- check eval
sub { my $l = $_[0]{choices}[0]{logprobs};
      Test::More::is(CORE::join('', @{$l->{tokens}}), $_[0]{choices}[0]{text}, 'the text');
      Test::More::cmp_ok(scalar keys %{$l->{top_logprobs}[0]}, '>=', 3, 'alternatives');
      Test::More::is($l->{text_offset}[1], length $l->{tokens}[0], 'offsets'); }



=== TEST 13: logprobs 0: the tokens alone
--- completion
{"prompt":"Once upon a","logprobs":0,"temperature":0,"max_tokens":3,"ignore_eos":true}
--- json
choices.0.logprobs.tokens # 3
choices.0.logprobs.token_logprobs.0 < 0.00001



=== TEST 14: echo with logprobs gives the prompt's too
--- completion
{"prompt":"Once upon a time","echo":true,"logprobs":2,"max_tokens":0}
--- json
choices.0.logprobs.token_logprobs.0 = null
choices.0.logprobs.top_logprobs.0 = null
choices.0.logprobs.token_logprobs.1 < 0.00001
--- check eval
sub { my $l = $_[0]{choices}[0]{logprobs};
      Test::More::cmp_ok(scalar @{$l->{tokens}}, '>=', 4, 'all of the prompt'); }



=== TEST 15: the prompt's logprobs do not depend on the cache
--- request eval
[("POST /v1/completions\n{\"prompt\":\"" . ("One day Tom had a red ball. " x 10)
 . "\",\"echo\":true,\"logprobs\":1,\"max_tokens\":0}") x 2]
--- json eval
[("object exists") x 2]
--- check eval
{ my $last; [(sub { my $t = JSON::PP->new->canonical->encode($_[0]{choices}[0]{logprobs});
    Test::More::is($t, $last // $t, 'the same'); $last = $t; }) x 2] }



=== TEST 16: what was sampled greedily has the same logprobs as a prompt
--- request eval
["POST /v1/completions\n{\"prompt\":\"Once upon a time\",\"temperature\":0,\"max_tokens\":6,\"logprobs\":0,\"echo\":true}"]
--- json eval
["choices.0.logprobs.tokens exists"]



=== TEST 17: stop and special texts
--- completion
{"prompt":"Once upon a time","temperature":0,"max_tokens":100,"stop":"."}
--- json
choices.0.finish_reason = "stop"
choices.0.text !~ \.



=== TEST 18: an empty prompt
--- completion
{"prompt":"","max_tokens":3,"temperature":0}
--- json
choices.0.text exists



=== TEST 19: no ids: the model's first token alone
--- completion
{"prompt":[[]],"max_tokens":3,"temperature":0}
--- json
usage.prompt_tokens = 1



=== TEST 20: penalties change a greedy answer
--- request eval
["POST /v1/completions\n{\"prompt\":\"One day\",\"temperature\":0,\"max_tokens\":60,\"ignore_eos\":true}",
 "POST /v1/completions\n{\"prompt\":\"One day\",\"temperature\":0,\"max_tokens\":60,\"ignore_eos\":true,\"frequency_penalty\":2}",
 "POST /v1/completions\n{\"prompt\":\"One day\",\"temperature\":0,\"max_tokens\":60,\"ignore_eos\":true,\"repetition_penalty\":1.8}"]
--- json eval
[("usage.completion_tokens = 60") x 3]
--- check eval
{ my $first; [sub { $first = $_[0]{choices}[0]{text} },
   (sub { Test::More::isnt($_[0]{choices}[0]{text}, $first, 'another') }) x 2] }



=== TEST 21: what the module sends to the engine: a request's own values
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"show=1","max_tokens":9,"min_tokens":2,"temperature":0.5,"top_p":0.25,"top_k":7,"min_p":0.125,"presence_penalty":1,"frequency_penalty":-1,"repetition_penalty":1.5,"n":1,"stop":["x","yy"],"logit_bias":{"5":1.5}}
--- json
choices.0.text ~ max=9 min=2
choices.0.text ~ topk=7 t=0.500 p=0.250 minp=0.125 pres=1.000 freq=-1.000 rep=1.500
choices.0.text ~ stops=2 bias=1 stop=x stop=yy bias5=1.50



=== TEST 22: what the module sends to the engine: moe_default's
--- config
location / {
    moe_pass unix:$TEST_NGINX_A_SOCK;
    moe_default temperature 0.75;
    moe_default top_p 0.5;
    moe_default top_k 40;
    moe_default min_p 0.25;
    moe_default presence_penalty 0.5;
    moe_default frequency_penalty 0.25;
    moe_default repetition_penalty 1.25;
    moe_max_prompt_tokens 1000;
    moe_buffer_size 32k;
    moe_queue_timeout 7s;
}
--- request eval
["POST /v1/completions\n{\"prompt\":\"show=1\"}",
 "POST /v1/completions\n{\"prompt\":\"show=1\",\"temperature\":1,\"top_k\":null}"]
--- json eval
["choices.0.text ~ topk=40 t=0.750 p=0.500 minp=0.250 pres=0.500 freq=0.250 rep=1.250\nchoices.0.text ~ maxprompt=1000 \nchoices.0.text ~ credit=32768 timeout=7000",
 "choices.0.text ~ topk=40 t=1.000"]



=== TEST 23: what the module sends to the engine: a seed, or a random one
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request eval
["POST /v1/completions\n{\"prompt\":\"show=2\",\"seed\":12345}",
 "POST /v1/completions\n{\"prompt\":\"show=2\",\"seed\":-1}",
 "POST /v1/completions\n{\"prompt\":\"show=2\"}",
 "POST /v1/completions\n{\"prompt\":\"show=2\"}"]
--- json eval
["choices.0.text ~ seed=12345", "choices.0.text ~ seed=18446744073709551615",
 "choices.0.text ~ seed=", "choices.0.text ~ seed="]
--- check eval
{ my $last; [sub {}, sub {}, (sub { my $t = $_[0]{choices}[0]{text};
    Test::More::isnt($t, $last, 'another'); $last = $t; }) x 2] }
