# /tokenize and /detokenize.

use Test::Nginx::Socket 'no_plan';
use MoeTest;

moe_plan();
run_tests();

__DATA__

=== TEST 1: a text
--- tokenize
{"prompt":"Hello world"}
--- json
count > 1
max_model_len = 4096
tokens.0 = 0
--- check eval
sub { Test::More::is(scalar @{$_[0]{tokens}}, $_[0]{count}, 'count'); }



=== TEST 2: without special tokens
--- tokenize
{"prompt":"Hello world","add_special_tokens":false}
--- json
tokens.0 != 0



=== TEST 3: a chat, as the template writes it
--- tokenize
{"messages":[{"role":"user","content":"Hello"}]}
--- json
tokens = [0,3,1234,4]



=== TEST 4: without the generation prompt
--- tokenize
{"messages":[{"role":"user","content":"Hello"}],"add_generation_prompt":false}
--- json
tokens = [0,3,1234]



=== TEST 5: there and back
--- no_http2
--- request eval
["POST /tokenize\n{\"prompt\":\"Der \xc3\x84rger, \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x98\x80 and   code();\\n\\tx\",\"add_special_tokens\":false}"]
--- json eval
["count > 5"]
--- check eval
[sub { my ($doc) = @_;
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $ENV{TEST_NGINX_SERVER_PORT});
    my $b = JSON::PP->new->encode({tokens => $doc->{tokens}});
    print $s "POST /detokenize HTTP/1.0\r\nContent-Length: " . length($b) . "\r\n\r\n$b";
    my $r = do { local $/; <$s> };
    $r =~ s/.*?\r\n\r\n//s;
    Test::More::is(JSON::PP->new->utf8->decode($r)->{prompt},
        "Der \x{c4}rger, \x{65e5}\x{672c} \x{1f600} and   code();\n\tx", 'back'); }]



=== TEST 6: an empty text
--- tokenize
{"prompt":"","add_special_tokens":false}
--- json
count = 0
tokens = []



=== TEST 7: detokenize
--- detokenize
{"tokens":[1234]}
--- json
prompt = "Hello"



=== TEST 8: no tokens
--- detokenize
{"tokens":[]}
--- json
prompt = ""



=== TEST 9: half a character is U+FFFD
--- no_http2
--- request eval
["POST /tokenize\n{\"prompt\":\"\xf0\x9f\xa6\x84\",\"add_special_tokens\":false}"]
--- json eval
["count > 0"]
--- check eval
[sub { my ($doc) = @_;
    return Test::More::pass('one token') if @{$doc->{tokens}} == 1;
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $ENV{TEST_NGINX_SERVER_PORT});
    my $b = JSON::PP->new->encode({tokens => [$doc->{tokens}[0]]});
    print $s "POST /detokenize HTTP/1.0\r\nContent-Length: " . length($b) . "\r\n\r\n$b";
    my $r = do { local $/; <$s> };
    $r =~ s/.*?\r\n\r\n//s;
    Test::More::like(JSON::PP->new->utf8->decode($r)->{prompt}, qr/^\x{fffd}+$/, 'replaced'); }]



=== TEST 10: what is refused by tokenize
--- endpoint
/tokenize
--- refuses
400 prompt missing_required_parameter {}
400 prompt invalid_type {"prompt":["a"]}
400 prompt invalid_type {"prompt":5}
400 messages empty_array {"messages":[]}
400 messages invalid_type {"messages":"a"}
400 prompt - {"prompt":"a","messages":[{"role":"user","content":"b"}]}
400 add_special_tokens invalid_type "add_special_tokens":1
400 add_generation_prompt invalid_type "add_generation_prompt":"no"
404 model model_not_found "model":"nobody"



=== TEST 11: what is refused by detokenize
--- endpoint
/detokenize
--- refuses
400 tokens missing_required_parameter {}
400 tokens invalid_type {"tokens":"a"}
400 tokens invalid_type {"tokens":5}
400 tokens invalid_value {"tokens":["a"]}
400 tokens invalid_value {"tokens":[-1]}
400 tokens invalid_value {"tokens":[1.5]}
400 tokens * {"tokens":[5000]}
404 model model_not_found "model":"nobody"



=== TEST 12: a long text
--- request eval
"POST /tokenize\n{\"prompt\":\"" . ("Once upon a time. " x 20000) . "\"}"
--- json
count > 80000



=== TEST 13: fields of other endpoints are ignored
--- tokenize
{"prompt":"Hello","temperature":"hot","stream":true}
--- json
count exists
