# What a request may say: every field, and bodies of all kinds.

use Test::Nginx::Socket 'no_plan';
use MoeTest;

moe_plan();
moe_puppet('a');

our $chat = '"messages":[{"role":"user","content":"Hi"}],"max_tokens":1';

run_tests();

__DATA__

=== TEST 1: bodies that are no JSON object
--- refuses eval
CORE::join '', map "400 - invalid_json $_\n",
    '[1,2]', '"text"', '{"messages":', '{"a":1,}', '{"a":1}{"b":2}',
    '{"a":01}', '{"a":NaN}', "{'a':1}", '{"a":"\\x"}', '{"a":"\\ud800"}'



=== TEST 2: numbers, null, and nothing at all
--- request eval
["POST /v1/chat/completions\n5", "POST /v1/chat/completions\nnull",
 "POST /v1/chat/completions\n", "POST /v1/completions\n   ",
 "POST /tokenize\n", "POST /detokenize\n"]
--- error_code eval
[(400) x 6]
--- json eval
[("error.code = \"invalid_json\"") x 6]



=== TEST 3: a POST without a body or a length
--- raw_request eval
"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
--- error_code: 400
--- json
error.code = "invalid_json"



=== TEST 4: invalid UTF-8
--- request eval
["POST /v1/chat/completions\n{\"messages\":[{\"role\":\"user\",\"content\":\"a\xff\"}]}",
 "POST /v1/chat/completions\n{\"messages\":[{\"role\":\"user\",\"content\":\"\xc0\x80\"}]}",
 "POST /v1/chat/completions\n{\"messages\":[{\"role\":\"user\",\"content\":\"\xed\xa0\x80\"}]}",
 "POST /v1/completions\n{\"prompt\":\"\xf4\x90\x80\x80\"}"]
--- error_code eval
[(400) x 4]
--- json eval
[("error.code = \"invalid_json\"") x 4]



=== TEST 5: a NUL in a text is a character
--- request eval
"POST /v1/completions\n{\"prompt\":\"a\\u0000b\",\"max_tokens\":1}"
--- json
object exists



=== TEST 6: a raw NUL is no JSON
--- request eval
"POST /v1/completions\n{\"prompt\":\"a\0b\"}"
--- error_code: 400
--- json
error.code = "invalid_json"



=== TEST 7: nested deep
--- request eval
["POST /v1/completions\n" . ("[" x 100000),
 "POST /v1/completions\n{\"prompt\":\"a\",\"x\":" . ("[" x 5000) . ("]" x 5000) . "}",
 "POST /v1/completions\n" . ('{"a":' x 5000)]
--- error_code eval
[400, 400, 400]
--- json eval
[("error.code = \"invalid_json\"") x 3]



=== TEST 8: chunked
--- no_http2
--- more_headers
Transfer-Encoding: chunked
--- request eval
my $b = "{$::chat}";
"POST /v1/chat/completions\n" . CORE::join('', map { "1\r\n$_\r\n" } split //, $b) . "0\r\n\r\n"
--- json
object = "chat.completion"



=== TEST 9: a body in pieces
--- raw_request eval
my $b = "{$::chat}";
["POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: "
 . length($b) . "\r\n\r\n" . substr($b, 0, 10), substr($b, 10, 20), substr($b, 30)]
--- raw_request_middle_delay
0.05
--- json
object = "chat.completion"



=== TEST 10: Expect: 100-continue
--- raw_request eval
my $b = "{$::chat}";
["POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: "
 . length($b) . "\r\n\r\n", $b]
--- raw_request_middle_delay
0.05
--- error_code: 100
--- response_body_like chomp
"object":"chat.completion"



=== TEST 11: large bodies go through a temporary file
--- config
client_body_buffer_size 8k;
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request eval
"POST /v1/completions\n{\"user\":\"" . ("x" x 3000000)
. "\",\"prompt\":\"tokens=2 text=ab\"}"
--- json
choices.0.text = "abab"
--- error_log
a client request body is buffered to a temporary file



=== TEST 12: large bodies within one buffer, and over several
--- config
client_body_buffer_size 2m;
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request eval
["POST /v1/completions\n{\"user\":\"" . ("x" x 1000000) . "\",\"prompt\":\"tokens=2 text=ab\"}",
 "POST /v1/completions\n{\"user\":\"" . ("x" x 1100) . "\",\"prompt\":\"tokens=2 text=ab\"}"]
--- json eval
["choices.0.text = \"abab\"", "choices.0.text = \"abab\""]



=== TEST 13: client_body_in_single_buffer, client_body_in_file_only
--- config
location / {
    client_body_in_single_buffer on;
    moe_pass unix:$TEST_NGINX_A_SOCK;
}
location /file/ {
    rewrite ^/file(/.*) $1 break;
    client_body_in_file_only clean;
    moe_pass unix:$TEST_NGINX_A_SOCK;
}
--- request eval
["POST /v1/completions\n{\"user\":\"" . ("x" x 50000) . "\",\"prompt\":\"tokens=2 text=ab\"}",
 "POST /file/v1/completions\n{\"prompt\":\"tokens=2 text=ab\"}"]
--- json eval
["choices.0.text = \"abab\"", "choices.0.text = \"abab\""]



=== TEST 14: larger than client_max_body_size
--- early
--- config
location / { client_max_body_size 1k; moe_pass engine; }
--- request eval
"POST /v1/completions\n" . ("x" x 2000)
--- error_code: 413
--- response_headers_like
X-Request-Id: [0-9a-f]{32}
--- error_log
client intended to send too large body



=== TEST 15: a prompt that no ring can hold
--- http_config
moe_lane_size 64k;
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request eval
"POST /v1/completions\n{\"prompt\":\"" . ("x" x 100000) . "\"}"
--- error_code: 413
--- json
error.code = "request_too_large"



=== TEST 16: model
--- refuses
400 model invalid_type "model": 5
400 model invalid_type "model": ["demo"]
404 model model_not_found "model": "gpt-4"
404 model model_not_found "model": ""
404 model model_not_found "model": "demo "
404 model model_not_found "model": "DEMO"



=== TEST 17: a model's name that is too long
--- request eval
"POST /v1/chat/completions\n{$::chat,\"model\":\"" . ("m" x 300) . "\"}"
--- error_code: 404
--- json
error.code = "model_not_found"



=== TEST 18: messages
--- refuses
400 messages missing_required_parameter {}
400 messages missing_required_parameter {"messages":null}
400 messages invalid_type {"messages":"Hi"}
400 messages invalid_type {"messages":{"role":"user","content":"Hi"}}
400 messages empty_array {"messages":[]}
400 messages[0] invalid_type {"messages":["Hi"]}
400 messages[0] invalid_type {"messages":[null]}
400 messages[0].role missing_required_parameter {"messages":[{"content":"Hi"}]}
400 messages[0].role missing_required_parameter {"messages":[{"role":5,"content":"Hi"}]}
400 messages[0].role invalid_value {"messages":[{"role":"robot","content":"Hi"}]}
400 messages[0].role invalid_value {"messages":[{"role":"User","content":"Hi"}]}
400 messages[0].role invalid_value {"messages":[{"role":"user\u0000x","content":"Hi"}]}
400 messages[0].content[0] unsupported_content {"messages":[{"role":"user","content":[{"type":"text\u0000x","text":"a"}]}]}
400 messages[1].content missing_required_parameter {"messages":[{"role":"system","content":"a"},{"role":"user"}]}
400 messages[0].content missing_required_parameter {"messages":[{"role":"user","content":null}]}
400 messages[0].content invalid_type {"messages":[{"role":"user","content":5}]}
400 messages[0].content invalid_type {"messages":[{"role":"user","content":{}}]}
400 messages[0].content[0] invalid_type {"messages":[{"role":"user","content":["a"]}]}
400 messages[0].content[0] missing_required_parameter {"messages":[{"role":"user","content":[{"text":"a"}]}]}
400 messages[0].content[0] missing_required_parameter {"messages":[{"role":"user","content":[{"type":"text"}]}]}
400 messages[0].content[0] missing_required_parameter {"messages":[{"role":"user","content":[{"type":"text","text":1}]}]}
400 messages[0].content[1] unsupported_content {"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:"}}]}]}
400 messages[0].content[0] unsupported_content {"messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{}}]}]}



=== TEST 19: prompt
--- endpoint
/v1/completions
--- refuses
400 prompt missing_required_parameter {}
400 prompt missing_required_parameter {"prompt":null}
400 prompt empty_array {"prompt":[]}
400 prompt invalid_type {"prompt":5}
400 prompt invalid_type {"prompt":{"a":1}}
400 prompt invalid_type {"prompt":true}
400 prompt invalid_type {"prompt":["a",5]}
400 prompt invalid_type {"prompt":[null]}
400 prompt invalid_value {"prompt":[5,"a"]}
400 prompt invalid_value {"prompt":[5,-1]}
400 prompt invalid_value {"prompt":[5,1.5]}
400 prompt invalid_value {"prompt":[1,99999999999]}
400 prompt invalid_value {"prompt":[[5],[6,"a"]]}
400 prompt * {"prompt":[1,4095,4096]}
400 prompt * {"prompt":[5,2147483647]}



=== TEST 20: too many prompts
--- request eval
["POST /v1/completions\n{\"prompt\":[" . CORE::join(',', ('"a"') x 129) . "]}",
 "POST /v1/completions\n{\"n\":16,\"prompt\":[" . CORE::join(',', ('"a"') x 9) . "]}"]
--- error_code eval
[400, 400]
--- json eval
["error.param = \"prompt\"\nerror.code = \"array_above_max_length\"",
 "error.param = \"prompt\""]



=== TEST 21: stream and its options
--- refuses
400 stream invalid_type "stream": "true"
400 stream invalid_type "stream": 1
400 stream_options invalid_type "stream":true,"stream_options":[]
400 stream_options invalid_type "stream":true,"stream_options":true
400 stream_options.include_usage invalid_type "stream":true,"stream_options":{"include_usage":1}
400 stream_options - "stream_options":{"include_usage":true}
400 stream_options - "stream":false,"stream_options":{}



=== TEST 22: integers
--- refuses
400 max_tokens invalid_type "max_tokens":"5"
400 max_tokens invalid_type "max_tokens":5.0
400 max_tokens invalid_value "max_tokens":-1
400 max_tokens invalid_value "max_tokens":2147483648
400 max_tokens - "max_tokens":0
400 max_completion_tokens invalid_type "max_completion_tokens":true
400 max_completion_tokens invalid_value "max_completion_tokens":-5
400 min_tokens invalid_value "min_tokens":-1
400 min_tokens - "max_tokens":2,"min_tokens":3
400 n invalid_value "n":0
400 n invalid_value "n":17
400 n invalid_type "n":"2"
400 top_k invalid_value "top_k":-2
400 top_k invalid_type "top_k":1.5
400 seed invalid_type "seed":"42"
400 seed invalid_type "seed":1.5
400 top_logprobs invalid_value "logprobs":true,"top_logprobs":21
400 top_logprobs invalid_value "logprobs":true,"top_logprobs":-1
400 top_logprobs invalid_type "logprobs":true,"top_logprobs":true
400 top_logprobs - "top_logprobs":3
400 top_logprobs - "logprobs":false,"top_logprobs":1



=== TEST 23: numbers
--- refuses
400 temperature invalid_type "temperature":"1"
400 temperature invalid_value "temperature":-0.1
400 temperature invalid_value "temperature":2.01
400 temperature invalid_type "temperature":[]
400 top_p invalid_value "top_p":1.1
400 top_p invalid_value "top_p":-0.1
400 top_p invalid_type "top_p":"0.5"
400 min_p invalid_value "min_p":2
400 presence_penalty invalid_value "presence_penalty":2.5
400 presence_penalty invalid_value "presence_penalty":-3
400 frequency_penalty invalid_value "frequency_penalty":3
400 frequency_penalty invalid_type "frequency_penalty":"0"
400 repetition_penalty invalid_value "repetition_penalty":0
400 repetition_penalty invalid_value "repetition_penalty":11



=== TEST 24: stop, logit_bias, flags, strings
--- refuses
400 stop invalid_type "stop":5
400 stop invalid_type "stop":["a",5]
400 stop invalid_type "stop":{"a":1}
400 stop invalid_value "stop":""
400 stop invalid_value "stop":["a",""]
400 stop array_above_max_length "stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"]
400 logit_bias invalid_type "logit_bias":[]
400 logit_bias invalid_value "logit_bias":{"abc":1}
400 logit_bias invalid_value "logit_bias":{"-5":1}
400 logit_bias invalid_value "logit_bias":{"5":101}
400 logit_bias invalid_value "logit_bias":{"5":-100.5}
400 logit_bias invalid_value "logit_bias":{"5":"1"}
400 logit_bias invalid_value "logit_bias":{"99999999999":1}
400 logprobs invalid_type "logprobs":5
400 ignore_eos invalid_type "ignore_eos":0
400 user invalid_type "user":5
400 cache_salt invalid_type "cache_salt":5
400 chat_template_kwargs invalid_type "chat_template_kwargs":[]



=== TEST 25: logit_bias of a token that the model does not have
--- refuses
400 logit_bias * "logit_bias":{"4096":1}



=== TEST 26: what does not exist yet is refused, never dropped
--- refuses
400 tools unsupported_parameter "tools":[{"type":"function","function":{"name":"f"}}]
400 functions unsupported_parameter "functions":[{"name":"f"}]
400 tool_choice unsupported_parameter "tool_choice":"required"
400 tool_choice unsupported_parameter "tool_choice":{"type":"function","function":{"name":"f"}}
400 tool_choice invalid_type "tool_choice":5
400 function_call unsupported_parameter "function_call":{"name":"f"}
400 response_format unsupported_parameter "response_format":{"type":"json_object"}
400 response_format unsupported_parameter "response_format":{"type":"json_schema","json_schema":{}}
400 response_format invalid_type "response_format":"text"
400 response_format.type invalid_type "response_format":{}
400 modalities unsupported_parameter "modalities":["text","audio"]
400 modalities invalid_type "modalities":"text"
400 audio unsupported_parameter "audio":{"voice":"a"}
400 web_search_options unsupported_parameter "web_search_options":{}



=== TEST 27: completions' own
--- endpoint
/v1/completions
--- refuses
400 suffix unsupported_parameter "suffix":"end"
400 best_of unsupported_parameter "best_of":2
400 best_of unsupported_parameter "n":2,"best_of":3
400 best_of invalid_type "best_of":"1"
400 logprobs invalid_type "logprobs":true
400 logprobs invalid_value "logprobs":21
400 echo invalid_type "echo":"yes"
400 max_tokens - "max_tokens":0
400 stream_options - "stream_options":{"include_usage":true}



=== TEST 28: values that ask for nothing
--- accepts
"max_tokens":1,"tools":[]
"max_tokens":1,"tool_choice":"none"
"max_tokens":1,"tool_choice":"auto"
"max_tokens":1,"response_format":{"type":"text"}
"max_tokens":1,"functions":[]
"max_tokens":1,"function_call":"none"
"max_tokens":1,"modalities":["text"]
"max_tokens":1,"logit_bias":{}
"max_tokens":1,"stop":[]
"max_tokens":1,"top_logprobs":0
"max_tokens":1,"logprobs":false



=== TEST 29: names that are ignored
--- accepts
"max_tokens":1,"store":true
"max_tokens":1,"metadata":{"a":"b"}
"max_tokens":1,"service_tier":"auto"
"max_tokens":1,"parallel_tool_calls":true
"max_tokens":1,"prediction_of_the_future":[1,2,3]



=== TEST 30: null is absent, for every optional field
--- accepts eval
CORE::join '', map "\"max_tokens\":1,\"$_\":null\n", qw(model stream stream_options
    max_completion_tokens min_tokens n temperature top_p top_k min_p
    presence_penalty frequency_penalty repetition_penalty seed stop logit_bias
    logprobs top_logprobs ignore_eos user chat_template_kwargs tools
    tool_choice functions function_call response_format modalities audio
    web_search_options)



=== TEST 31: null is absent in completions too
--- endpoint
/v1/completions
--- accepts eval
CORE::join '', map "\"$_\":null\n", qw(max_tokens suffix best_of echo logprobs
    stop n stream user)



=== TEST 32: the ends of ranges
--- accepts
"max_tokens":1,"temperature":0
"max_tokens":1,"temperature":2
"max_tokens":1,"top_p":1
"max_tokens":1,"top_p":0
"max_tokens":1,"top_k":-1
"max_tokens":1,"top_k":0
"max_tokens":1,"top_k":2147483647
"max_tokens":1,"min_p":0
"max_tokens":1,"min_p":1
"max_tokens":1,"presence_penalty":-2
"max_tokens":1,"presence_penalty":2
"max_tokens":1,"frequency_penalty":-2
"max_tokens":1,"frequency_penalty":2
"max_tokens":1,"repetition_penalty":0.01
"max_tokens":1,"repetition_penalty":10
"max_tokens":1,"seed":-9223372036854775808
"max_tokens":1,"seed":9223372036854775807
"max_tokens":1,"logit_bias":{"5":100,"6":-100}
"max_tokens":1,"logprobs":true,"top_logprobs":20
"max_tokens":1,"min_tokens":1
"max_tokens":1,"n":16
"max_tokens":2147483647,"stop":["e","a","o","i"," "]



=== TEST 33: text parts and roles
--- accepts
{"max_tokens":1,"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}
{"max_tokens":1,"messages":[{"role":"system","content":"a"},{"role":"user","content":"b"}]}
{"max_tokens":1,"messages":[{"role":"developer","content":"a"},{"role":"user","content":"b"}]}
{"max_tokens":1,"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]}
{"max_tokens":1,"messages":[{"role":"user","content":"a"},{"role":"tool","content":"b"}]}
{"max_tokens":1,"messages":[{"role":"user","content":""}]}



=== TEST 34: the first wrong field is named
--- refuses
400 model invalid_type "model":1,"temperature":5
400 messages invalid_type {"messages":1,"temperature":5}
400 max_tokens invalid_type "temperature":5,"max_tokens":"x"



=== TEST 35: duplicate keys: the last one counts, as in other servers
--- request eval
"POST /v1/chat/completions\n{$::chat,\"max_tokens\":2,\"ignore_eos\":true}"
--- json
usage.completion_tokens = 2



=== TEST 36: a prompt beyond the model's context; max_tokens may be beyond it
--- request eval
["POST /v1/completions\n{\"prompt\":\"" . ("word and " x 3000) . "\"}",
 "POST /v1/chat/completions\n{\"messages\":[{\"role\":\"user\",\"content\":\"" . ("word and " x 3000) . "\"}]}",
 "POST /v1/completions\n{\"max_tokens\":3000,\"prompt\":\"a\"}"]
--- error_code eval
[400, 400, 200]
--- json eval
["error.code = \"context_length_exceeded\"",
 "error.code = \"context_length_exceeded\"", "object exists"]



=== TEST 37: a streamed request that is wrong has a status, too
--- refuses
400 temperature invalid_value "stream":true,"temperature":5
404 model model_not_found "stream":true,"model":"nobody"



=== TEST 38: strings of JSON that need care come back whole
--- completion
{"prompt":"\"\\/<\u0001\u007f\b\n\r\t\u00e9\ud83d\ude00 \u65e5\u672c","echo":true,"max_tokens":1}
--- check eval
sub { my ($doc, $body, $name) = @_;
    $doc = JSON::PP->new->utf8->decode($body);
    Test::More::is(substr($doc->{choices}[0]{text}, 0, 15),
        "\"\\/<\x01\x7f\b\n\r\t\x{e9}\x{1f600} \x{65e5}\x{672c}", "$name - echo"); }
