# Whom a request counts for: moe_key, moe_priority, moe_weight.

use Test::Nginx::Socket 'no_plan';
use MoeTest;
use Digest::SHA qw(sha256_hex);

moe_plan();
moe_puppet('a');

our $show = "POST /v1/completions\n{\"prompt\":\"show=4\"}";

run_tests();

__DATA__

=== TEST 1: the client's address by default, as a hash; of the normal class
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
--- request eval
$::show
--- json eval
"choices.0.text ~ priority=0 weight=1 key=" . Digest::SHA::sha256_hex("\x7f\0\0\1") . "\$"



=== TEST 2: moe_key with the address is the default
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_key $binary_remote_addr; }
--- request eval
$::show
--- json eval
"choices.0.text ~ key=" . Digest::SHA::sha256_hex("\x7f\0\0\1") . "\$"



=== TEST 3: a key of a header; without one all are of the empty key
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_key $http_authorization; }
--- request eval
[$::show, $::show]
--- more_headers eval
["Authorization: Bearer s3cret", ""]
--- json eval
["choices.0.text ~ key=" . Digest::SHA::sha256_hex("Bearer s3cret") . "\$",
 "choices.0.text ~ key=" . Digest::SHA::sha256_hex("") . "\$"]



=== TEST 4: text and variables
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_key team-$arg_t; }
--- request
POST /v1/completions?t=7
{"prompt":"show=4"}
--- json eval
"choices.0.text ~ key=" . Digest::SHA::sha256_hex("team-7") . "\$"



=== TEST 5: classes by name and by number
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_priority $arg_p; }
--- request eval
[map "POST /v1/completions?p=$_\n{\"prompt\":\"show=4\"}",
 'low', 'normal', 'high', '', 0, 100, '-100', 7]
--- json eval
[map "choices.0.text ~ priority=$_ weight=1 ", -10, 0, 10, 0, 0, 100, -100, 7]



=== TEST 6: a class that is none: the default is used
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_priority $arg_p; }
--- request eval
[map "POST /v1/completions?p=$_\n{\"prompt\":\"show=4\"}",
 'highest', '101', '-101', '-', '1x']
--- json eval
[("choices.0.text ~ priority=0 ") x 5]



=== TEST 7: a weight of a map
--- http_config
map $arg_k $weight { default 1; gold 8; broken 1001; zero 0; }
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_weight $weight; }
--- request eval
[map "POST /v1/completions?k=$_\n{\"prompt\":\"show=4\"}",
 'broken', 'zero', 'gold', 'tin']
--- json eval
[map "choices.0.text ~ priority=0 weight=$_ ", 1, 1, 8, 1]



=== TEST 8: inherited and overridden
--- http_config
moe_key $http_x_key;
moe_priority low;
moe_weight 5;
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
location /own/ {
    rewrite ^/own(.*) $1 break;
    moe_pass unix:$TEST_NGINX_A_SOCK;
    moe_key other;
    moe_priority high;
    moe_weight 3;
}
--- request eval
[$::show, "POST /own/v1/completions\n{\"prompt\":\"show=4\"}"]
--- more_headers
X-Key: one
--- json eval
["choices.0.text ~ priority=-10 weight=5 key="
     . Digest::SHA::sha256_hex("one") . "\$",
 "choices.0.text ~ priority=10 weight=3 key="
     . Digest::SHA::sha256_hex("other") . "\$"]



=== TEST 9: a variable of the request itself
--- http_config
map $moe_model $class { volatile; default normal; batch low; }
--- config
location / {
    moe_pass unix:$TEST_NGINX_A_SOCK;
    moe_model_alias batch puppet;
    moe_priority $class;
}
--- request eval
[$::show, "POST /v1/completions\n{\"prompt\":\"show=4\",\"model\":\"batch\"}"]
--- json eval
["choices.0.text ~ priority=0 ", "choices.0.text ~ priority=-10 "]



=== TEST 10: a constant class that is none is refused
--- config
location / { moe_pass engine; moe_priority urgent; }
--- must_die
--- error_log
"moe_priority urgent": the value must be "low", "normal", "high" or a number from -100 to 100 in
nginx.conf:



=== TEST 11: a constant weight that is none is refused
--- config
location / { moe_pass engine; moe_weight 0; }
--- must_die
--- error_log
"moe_weight 0": the value must be a number from 1 to 1000 in
nginx.conf:



=== TEST 12: twice
--- config
location / { moe_pass engine; moe_key a; moe_key b; }
--- must_die
--- error_log
"moe_key" directive is duplicate in



=== TEST 13: a variable that is not known
--- config
location / { moe_pass engine; moe_key $nobody; }
--- must_die
--- error_log
unknown "nobody" variable



=== TEST 14: without a value
--- config
location / { moe_pass engine; moe_key; }
--- must_die
--- error_log
invalid number of arguments in "moe_key" directive in



=== TEST 15: what is wrong is logged
--- config
location / {
    moe_pass unix:$TEST_NGINX_A_SOCK;
    moe_priority $arg_p;
    moe_weight $arg_w;
}
--- request
POST /v1/completions?p=highest&w=1001
{"prompt":"show=4"}
--- json
choices.0.text ~ priority=0 weight=1
--- error_log
"moe_priority" has the wrong value "highest", the default is used
"moe_weight" has the wrong value "1001", the default is used



=== TEST 16: an engine that is overloaded is passed over, with 429 and 503
--- http_config
upstream two { server unix:$TEST_NGINX_NONE_SOCK down; server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_A_SOCK; }
--- config
location / { moe_pass two; add_header X-Status $upstream_status always; }
--- request eval
[map "POST /v1/completions\n{\"prompt\":\"status=$_ retry=17\",\"stream\":true}",
 429, 503]
--- error_code eval
[429, 503]
--- response_headers eval
["Retry-After: 17\nContent-Type: application/json\nX-Status: 429, 429",
 "Retry-After: 17\nContent-Type: application/json\nX-Status: 503, 503"]
