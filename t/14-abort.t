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
    $block->set_value('wait', 0.3) if !defined $block->wait;
});

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
    Test::More::is($d->{nginx}{cancelled}, 20, "$name - all were cancelled");
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
