# Clients that go, or half go, in every state of a job; what is left behind.

use Test::Nginx::Socket 'no_plan';
use MoeTest;

moe_plan();
moe_puppet('a');

&Test::Nginx::Util::add_block_preprocessor(sub {
    my ($block) = @_;
    $block->set_value('config', "access_log logs/access.log moe;\n"
        . "location = /status { moe_status; }\n"
        . ($block->config && $block->config !~ /moe_pass engine; }\s*$/
           ? $block->config
           : "location / { moe_pass unix:\$TEST_NGINX_A_SOCK; }\n"));
    $block->set_value('ignore_response', 1) if !defined $block->check;
    $block->set_value('wait', 0.3) if !$block->wait;
});

# TLS, for HTTP/2 over it

our $pem = "$ENV{TEST_NGINX_SERVROOT}.pem";
system("openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=a "
       . "-keyout $pem.key -out $pem >/dev/null 2>&1") == 0 or die 'openssl';
$ENV{TEST_NGINX_PEM} = $pem;

run_tests();

__DATA__

=== TEST 1: while it waits in the queue
--- completion
{"prompt":"start=5000","stream":true}
--- abort
--- timeout: 200ms
--- access_log eval
[qr/C=0 K=0 F=cancelled Q=- .* s=499 us=499 /]
--- error_log
client prematurely closed connection



=== TEST 2: after STARTED, before the first token
--- completion
{"prompt":"first=5000","stream":true}
--- abort
--- timeout: 200ms
--- access_log eval
[qr/C=0 K=0 F=cancelled Q=0\.\d+ T=- .* us=499 /]



=== TEST 3: after some tokens
--- completion
{"prompt":"tokens=9 stall=3","stream":true}
--- abort
--- timeout: 200ms
--- access_log eval
[qr/C=3 K=0 F=cancelled Q=0\.\d+ T=0\.\d+ .* us=499 /]



=== TEST 4: a whole reply, after some tokens
--- completion
{"prompt":"tokens=9 stall=3"}
--- abort
--- timeout: 200ms
--- access_log eval
[qr/C=3 K=0 F=cancelled .* s=499 us=499 /]



=== TEST 5: half closed after the request: the client has gone
--- completion
{"prompt":"tokens=9 stall=3","stream":true}
--- shutdown: 1
--- timeout: 500ms
--- access_log eval
[qr/F=cancelled .* us=499 /]



=== TEST 6: EOF in the same packet as the request
--- raw_request eval
my $b = '{"prompt":"tokens=50 delay=20","stream":true}';
"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: " . length($b) . "\r\n\r\n$b"
--- shutdown: 1
--- timeout: 500ms
--- access_log eval
[qr/F=cancelled .* us=499 /]



=== TEST 7: moe_ignore_client_abort: the job runs to its end
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_ignore_client_abort on; }
--- completion
{"prompt":"tokens=4 first=300","stream":true}
--- abort
--- timeout: 100ms
--- wait: 0.6
--- access_log eval
[qr/C=4 K=0 F=stop .* us=200 /]



=== TEST 8: before the body has come
--- raw_request eval
"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{\"prompt\""
--- abort
--- timeout: 200ms
--- access_log eval
[qr/C=- K=- F=- .* s=400 us=- /]



=== TEST 9: an engine that does not obey CANCEL is waited for a second at most
--- completion
{"prompt":"tokens=1000 delay=10 stall=5 nocancel=1","stream":true}
--- abort
--- timeout: 200ms
--- wait: 1.6
--- access_log eval
[qr/C=5 K=0 F=- .* us=499 /]
--- error_log
did not end a cancelled job in time



=== TEST 10: many at once, and nothing is left of them
--- no_http2
--- completion
{"prompt":"tokens=1"}
--- check eval
sub { my ($doc, $body, $name) = @_;
    my $b = '{"prompt":"tokens=900 delay=20","stream":true}';
    my @s = map {
        my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
            PeerPort => $ENV{TEST_NGINX_SERVER_PORT}) or die;
        print $s "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: " . length($b) . "\r\n\r\n$b";
        $s } 1 .. 20;
    sysread $_, my $x, 100 for @s;
    close $_ for @s;
    select undef, undef, undef, 0.3;
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
        PeerPort => $ENV{TEST_NGINX_SERVER_PORT});
    print $s "GET /status HTTP/1.0\r\n\r\n";
    my $r = do { local $/; <$s> };
    $r =~ s/.*?\r\n\r\n//s;
    my $d = JSON::PP->new->decode($r);
    Test::More::is($d->{nginx}{active}, 0, "$name - none is active");
    Test::More::cmp_ok($d->{nginx}{cancelled}, '>=', 20, "$name - all were cancelled");
    Test::More::is($d->{engines}[0]{running}, 0, "$name - none runs"); }



=== TEST 11: a client of the mirror's original that goes takes the copy along or not, but leaves nothing
--- config
location / { mirror /mirror; moe_pass unix:$TEST_NGINX_A_SOCK; }
location = /mirror { internal; rewrite ^ $request_uri break; moe_pass unix:$TEST_NGINX_A_SOCK; }
--- completion
{"prompt":"tokens=20 delay=20","stream":true}
--- abort
--- timeout: 15ms
--- wait: 1.2
--- access_log
M=puppet S=1



=== TEST 12: while a survey waits
--- request
GET /health
--- abort
--- timeout: 1ms



=== TEST 13: HTTP/2 without TLS and with it: a client that goes
--- no_http2
--- http_config
server {
    listen unix:$TEST_NGINX_SERVER_ROOT/h2c.sock http2;
    listen unix:$TEST_NGINX_SERVER_ROOT/h2.sock http2 ssl;
    ssl_certificate $TEST_NGINX_PEM;
    ssl_certificate_key $TEST_NGINX_PEM.key;
    access_log logs/h2.log moe;
    location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
}
--- completion
{"prompt":"tokens=1"}
--- check eval
sub { my ($doc, $body, $name) = @_;
    my $root = $ENV{TEST_NGINX_SERVER_ROOT};
    my $ask = sub {
        my ($how, $data) = @_;
        my $m = $ENV{TEST_NGINX_USE_VALGRIND} ? 3 : 0.5;
        return `curl -s -m $m $how/v1/completions -d '$data'`;
    };
    my $h2c = "--http2-prior-knowledge --unix-socket $root/h2c.sock http://a";
    my $h2 = "--http2 -k --unix-socket $root/h2.sock https://a";

    for my $how ($h2c, $h2) {
        my $r = $ask->($how, '{"stream":true,"prompt":"tokens=3 text=ab delay=20"}');
        Test::More::is(MoeTest::sse($r)->{content}, 'ababab', "$name - a stream");
        $ask->($how, '{"stream":true,"prompt":"tokens=900 delay=20"}');
        $ask->($how, '{"prompt":"start=5000"}');
    }

    select undef, undef, undef, $ENV{TEST_NGINX_USE_VALGRIND} ? 2 : 0.3;
    open my $f, '<', "$root/logs/h2.log";
    my @l = <$f>;
    Test::More::is(scalar(grep / F=stop .* us=200 /, @l), 2, "$name - two finished");
    Test::More::is(scalar(grep / C=[1-9]\d* K=0 F=cancelled .* us=499 /, @l), 2,
                   "$name - two were cancelled while they streamed");
    Test::More::is(scalar(grep / C=0 K=0 F=cancelled .* s=499 us=499 /, @l), 2,
                   "$name - two were cancelled while they waited");
}
