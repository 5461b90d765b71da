# The client goes: the job ends within a step and is counted exactly.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use Engine;
use H2;
use IO::Socket::SSL;
use Live;
use Puppet;

Puppet::start('a');

my $e = Engine->start;
my ($h2c, $h2s) = (Live::port(), Live::port());

my $key = "$Puppet::dir/key.pem";
system("openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=t -days 2 "
       . "-keyout $key -out $key.crt 2>/dev/null") == 0 or die "openssl";

my $zone = 'limit_conn_zone $server_port zone=conn:64k;';
my $s = Live->new(http => $zone, server => <<"EOC" . <<'EOC');
    listen 127.0.0.1:$h2c http2;
    listen 127.0.0.1:$h2s ssl http2;
    ssl_certificate $key.crt;
    ssl_certificate_key $key;
    location /real/ {
        rewrite ^/real(/.*)\$ \$1 break;
        moe_pass unix:$e->{sock};
    }
EOC
    location /v1/ { moe_pass unix:$TEST_NGINX_A_SOCK; }
    location /ignore/ {
        rewrite ^/ignore(/.*)$ $1 break;
        moe_pass unix:$TEST_NGINX_A_SOCK;
        moe_ignore_client_abort on;
    }
    location /limited/ {
        rewrite ^/limited(/.*)$ $1 break;
        limit_conn conn 1;
        limit_conn_status 429;
        moe_pass unix:$TEST_NGINX_A_SOCK;
    }
    location = /status { moe_status; }
EOC

# the real engine's statistics, or one of them
sub engine {
    my ($name) = @_;
    my ($stats) = grep { $_->{engine} =~ /\Q$e->{sock}/ }
                  @{$s->status->{engines}};
    return $name ? $stats->{$name} : $stats;
}

# the lane is up, and with it the statistics
my $c = $s->post('/real/v1/completions', { prompt => 'A', max_tokens => 1 });
$c->rest;
is($c->status, 200, 'the engine answers');

$c = $s->post('/v1/completions?one',
                 { prompt => 'tokens=1000 delay=20', stream => \1 });
ok($c->until(qr/(tok .*){3}/s), 'the stream runs');
$c->close;

like($s->log_line(qr/\?one/), qr/^200\|cancelled\|7\|\d+\|499/,
     'client closed: cancelled, prompt counted');
my ($n) = $s->log_line(qr/\?one/) =~ /^200\|\w+\|7\|(\d+)/;
cmp_ok($n, '>=', 3, 'tokens are counted');

# before it starts
$c = $s->post('/v1/completions?two',
              { prompt => 'start=5000 tokens=3', stream => \1 });
sleep 0.2;
$c->close;
like($s->log_line(qr/\?two/), qr/^499\|cancelled\|7\|0\|499/,
     'closed while it waits');

# not streamed
$c = $s->post('/v1/completions?three', { prompt => 'tokens=1000 delay=20' });
sleep 0.2;
$c->close;
like($s->log_line(qr/\?three/), qr/^499\|cancelled\|7\|[1-9]\d*\|499/,
     'closed while a whole reply is made');

# a close that comes with the request
$c = $s->connect;
$c->send_post('/v1/completions?four',
              { prompt => 'tokens=1000 delay=20', stream => \1 });
shutdown $c->{sock}, 1;
like($s->log_line(qr/\?four/), qr/^(?:200|499)\|cancelled/, 'EOF with the request');

# an engine that does not end the job
my $t = time;
$c = $s->post('/v1/completions?five',
              { prompt => 'tokens=1000 delay=20 nocancel=1', stream => \1 });
ok($c->until(qr/tok /), 'the stream runs');
$c->close;
like($s->log_line(qr/\?five/), qr/^200\|-\|7\|\d+\|499/,
     'no END within a second: known counts, no reason');
cmp_ok(time - $t, '<', 3, 'held for a second at most');

# ignored
$c = $s->post('/ignore/v1/completions?six',
              { prompt => 'tokens=20 delay=20', stream => \1 });
ok($c->until(qr/tok /), 'the stream runs');
$c->close;
like($s->log_line(qr/\?six/), qr/^200\|stop\|7\|20\|200/,
     'moe_ignore_client_abort: the job runs to its end');


# the real engine: within a step, and counted to the token
my $ask = { prompt => 'Once upon a time', max_tokens => 2000, n => 4,
            ignore_eos => \1, temperature => 0, stream => \1 };

sub cancelled {
    my ($name, $before, $how) = @_;

    my $line = $s->log_line(qr/\?$name\b/);
    my ($n) = $line =~ /^200\|cancelled\|\d+\|(\d+)\|499\|/;

    ok(defined $n, "$how: cancelled") or diag $line;
    cmp_ok($n || 0, '<', 4 * 2000, "$how: long before its end");

    ok(Live::await(sub {
           my $now = engine();
           return $now->{running} == 0
                  && $now->{cancelled} == $before->{cancelled} + 1
                  && $now->{completion_tokens}
                     - $before->{completion_tokens} == ($n || -1);
       }), "$how: the engine has ended it and counted as many tokens")
        or diag explain engine(), $before, $line;
}

Live::await(sub { engine('finished') == 1 });

my $before = engine();
$c = $s->post('/real/v1/completions?real1', $ask);
ok($c->until(qr/"text":"[^"]/), 'a stream of the real engine');
$c->close;
cancelled('real1', $before, 'HTTP/1.1, closed');

$before = engine();
$c = $s->post('/real/v1/completions?real2', $ask);
ok($c->until(qr/"text":"[^"]/), 'a stream of the real engine');
shutdown $c->{sock}, 1;
cancelled('real2', $before, 'HTTP/1.1, half closed');

$before = engine();
$c = $s->post('/real/v1/completions?real3', { %$ask, stream => \0 });
Live::await(sub { engine('running') });
$c->close;
my $line = $s->log_line(qr/\?real3/);
like($line, qr/^499\|cancelled\|\d+\|\d+\|499/, 'a whole reply, closed');

# HTTP/2: a stream is reset, the others and the connection live on
sub plain {
    return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $h2c);
}

sub tls {
    return IO::Socket::SSL->new(PeerAddr => '127.0.0.1', PeerPort => $h2s,
                                SSL_verify_mode => 0,
                                SSL_alpn_protocols => ['h2']);
}

for my $over ([ 'h2c', \&plain ], [ 'h2 over TLS', \&tls ]) {
    my ($how, $connect) = @$over;
    my $id = $how eq 'h2c' ? 'c' : 's';

    Live::await(sub { engine('running') == 0 });
    $before = engine();

    my $h = H2->new($connect->());
    $h->post(1, "/real/v1/completions?reset$id", $ask);
    $h->post(3, "/v1/completions?beside$id",
             { prompt => 'tokens=40 delay=20', stream => \1 });
    ok($h->until(1, qr/"text":"[^"]/), "$how: a stream");
    $h->reset(1);
    cancelled("reset$id", $before, "$how, reset");
    like($h->rest(3), qr/\[DONE\]/, "$how: the stream beside it goes on");

    $h->post(5, "/v1/completions?after$id",
             { prompt => 'tokens=2', stream => \1 });
    like($h->rest(5), qr/\[DONE\]/, "$how: the connection serves on");

    $before = engine();
    $h->post(7, "/real/v1/completions?gone$id", $ask);
    $h->post(9, "/v1/completions?too$id",
             { prompt => 'tokens=1000 delay=20', stream => \1 });
    ok($h->until(7, qr/"text":"[^"]/) && $h->until(9, qr/tok /),
       "$how: two streams");
    CORE::close $h->{sock};
    cancelled("gone$id", $before, "$how, closed");
    like($s->log_line(qr/\?too$id/), qr/^200\|cancelled/,
         "$how: both are cancelled");

    # the request, and at once the end
    $h = H2->new($connect->());
    $h->post(1, "/v1/completions?eof$id",
             { prompt => 'tokens=1000 delay=20', stream => \1 });
    CORE::shutdown $h->{sock}, 1;
    like($s->log_line(qr/\?eof$id/), qr/^(?:200\|cancelled|499\|(?:cancelled|-))\|/,
         "$how: EOF with the request");
}

# curl's HTTP/2, stopped by a signal
SKIP: {
    skip 'no curl with HTTP/2', 1 unless `curl -V 2>&1` =~ /HTTP2/;

    my $pid = open my $curl, '-|', 'curl', '-sN', '--http2-prior-knowledge',
        '-d', '{"prompt":"tokens=1000 delay=20","stream":true}',
        "http://127.0.0.1:$h2c/v1/completions?curl" or die;
    readline $curl;
    kill 'KILL', $pid;
    CORE::close $curl;
    like($s->log_line(qr/\?curl/), qr/^200\|cancelled/, 'curl, killed');
}

# limit_conn counts a stream for as long as it lives
sub limited {
    return $s->post('/limited/v1/completions',
                    { prompt => 'tokens=1000 delay=20', stream => \1 });
}

$c = limited();
ok($c->until(qr/tok /), 'limit_conn lets one in');
my $other = limited();
$other->rest;
is($other->status, 429, 'and no other');
$c->close;
ok(Live::await(sub {
       $other = limited();
       return $other->until(qr/tok /, 2);
   }), 'when its client has gone, the next one');
$other->close;

is(Live::await(sub { $s->status->{nginx}{active} == 0 }), 1,
   'none is active');
is(engine('kv_pages_used'), 0, 'no page of the cache is held');
unlike($s->errors, qr/\[(alert|crit|emerg)\]/, 'nothing bad is logged');

done_testing();
