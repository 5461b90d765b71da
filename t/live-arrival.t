# When things arrive: tokens one by one, the header when the job starts, signs
# of life, and what comes when nothing comes.

use strict;
use warnings;

use IO::Uncompress::Gunzip qw(gunzip);
use Test::More;
use Time::HiRes qw(sleep time);

use Engine;
use Live;
use Puppet;

Puppet::start('a');

my $e = Engine->start;
my $s = Live->new(server => <<"EOC");
    location /v1/ { moe_pass unix:\$TEST_NGINX_A_SOCK; }
    location /real/ {
        rewrite ^/real(/.*)\$ \$1 break;
        moe_pass unix:$e->{sock};
    }
    location /zip/ {
        rewrite ^/zip(/.*)\$ \$1 break;
        moe_pass unix:\$TEST_NGINX_A_SOCK;
        gzip on;
        gzip_types *;
        gzip_min_length 1;
    }
    location /alive/ {
        rewrite ^/alive(/.*)\$ \$1 break;
        moe_pass unix:\$TEST_NGINX_A_SOCK;
        moe_keepalive_interval 200ms;
    }
    location /hurry/ {
        rewrite ^/hurry(/.*)\$ \$1 break;
        moe_pass unix:\$TEST_NGINX_A_SOCK;
        moe_queue_timeout 600ms;
        moe_first_token_timeout 600ms;
        moe_token_timeout 600ms;
    }
    location = /status { moe_status; }
EOC

# the times at which each of these came
sub seen {
    my ($c, $re, $seconds) = @_;

    my $end = time + ($seconds // 20);
    my @at;

    while (time < $end && $c->more($end - time)) {
        my $n = () = $c->{buf} =~ /$re/g;
        push @at, time while @at < $n;
    }

    return @at;
}

# in how many reads, those close together taken as one
sub arrivals {
    my ($apart, @at) = @_;

    my ($n, $last) = (0, 0);

    for (@at) {
        next if $_ - $last < $apart;
        $n++;
        $last = $_;
    }

    return $n;
}

my $t = time;
my $c = $s->post('/v1/completions?one',
                 { prompt => 'tokens=12 delay=100', stream => \1 });
my @at = seen($c, qr/"text":"tok /);

is(@at, 12, 'all tokens');
cmp_ok($at[-1] - $at[0], '>=', 0.9, 'they take their time');
cmp_ok(arrivals(0.03, @at), '>=', 8, 'and come one by one');
ok($c->done && $c->whole, 'the end');

# compressed, where the configuration says so: each token when it comes
$c = $s->post('/zip/v1/completions',
              { prompt => 'tokens=12 delay=100', stream => \1 },
              headers => "Accept-Encoding: gzip\r\n");
@at = ();
push @at, time while $c->more(20);
like($c->{buf}, qr/^Content-Encoding: gzip\r$/mi, 'a stream that is gzipped');
cmp_ok(arrivals(0.03, @at), '>=', 8, 'comes one by one, too');
gunzip(\$c->body, \my $plain);
is(() = $plain =~ /"text":"tok /g, 12, 'with all tokens');
like($plain, qr/data: \[DONE\]\n\n\z/, 'and the end');

# the header
$t = time;
$c = $s->post('/v1/completions?two',
              { prompt => 'start=400 first=1200 tokens=2', stream => \1 });
ok($c->until(qr/\r\n\r\n/), 'the header comes');
my $header = time - $t;
ok($c->until(qr/tok /), 'the first token comes');
my $first = time - $t;
cmp_ok($header, '>=', 0.35, 'not before the job has started');
cmp_ok($first - $header, '>=', 0.6, 'then at once, without a token');

# the real engine
my $ask = { prompt => 'Once upon a time', max_tokens => 1800,
            ignore_eos => \1, temperature => 0, stream => \1 };

$t = time;
$c = $s->post('/real/v1/completions?three', $ask);
@at = seen($c, qr/"text":"[^"]/);
my $end = time - $t;

ok($c->done && $c->whole, 'an answer of the real engine');
cmp_ok($at[0] - $t, '<', $end / 2, 'its first token comes long before its end');
cmp_ok(arrivals(0.0005, @at), '>=', 20, 'the rest comes bit by bit');

# signs of life
$c = $s->post('/alive/v1/chat/completions?four',
              { messages => [ { role => 'user',
                                content => 'first=1500 tokens=2 delay=900' } ],
                stream => \1 });
my @comments = seen($c, qr/^: keep-alive\n\n/m);
cmp_ok(@comments, '>=', 5, 'comments while nothing else comes');
cmp_ok(@comments, '<=', 13, 'not more often than asked');
cmp_ok(arrivals(0.1, @comments), '>=', 5, 'evenly');
ok($c->done, 'the stream goes on after them');
is($c->text, 'tok tok ', 'and its text is untouched');

$c = $s->post('/v1/completions?five',
              { prompt => 'first=700 tokens=1', stream => \1 });
$c->rest;
unlike($c->{buf}, qr/keep-alive\n/, 'none before the interval');

$c = $s->post('/alive/v1/completions?six', { prompt => 'first=700 tokens=1' });
$c->rest;
unlike($c->{buf}, qr/keep-alive\n/, 'none in a reply that is not streamed');

# the queue
$t = time;

for my $stream (\1, \0) {
    $c = $s->post('/hurry/v1/completions?seven',
                  { prompt => 'start=9000 tokens=3', stream => $stream });
    $c->rest;
    is($c->status, 503, 'waited too long in the queue');
    like($c->{buf}, qr/^Retry-After: \d+\r$/m, 'a client may come again');
    is($c->error->{code}, 'queue_timeout', 'the error says it');
}

cmp_ok(time - $t, '<', 8, 'in time');
like($s->log_line(qr/\?seven/), qr/^503\|/, 'the log');

# the first token
$c = $s->post('/hurry/v1/completions?eight',
              { prompt => 'first=9000 tokens=3', stream => \1 });
$c->rest;
is($c->status, 200, 'a stream has its header');
is(($c->error || {})->{code}, 'engine_timeout',
   'no first token: an error event');
ok(!$c->done && !$c->whole, 'and the connection is cut');
like($s->log_line(qr/\?eight/), qr/^200\|(?:cancelled|error)\|\d+\|0\|/,
     'the log');

$c = $s->post('/hurry/v1/completions?nine',
              { prompt => 'first=9000 tokens=3' });
$c->rest;
is($c->status, 504, 'no first token of a whole reply: a status');
is($c->error->{code}, 'engine_timeout', 'with the error');

# the next one
$c = $s->post('/hurry/v1/completions?ten',
              { prompt => 'tokens=9 stall=3 delay=100', stream => \1 });
$c->rest;
is($c->text, 'tok tok tok ', 'what was made');
is(($c->error || {})->{code}, 'engine_timeout',
   'no next token: an error event');
ok(!$c->done && !$c->whole, 'and the connection is cut');
like($s->log_line(qr/\?ten/), qr/^200\|(?:cancelled|error)\|\d+\|3\|/,
     'the log has the tokens');

$c = $s->post('/hurry/v1/completions?eleven',
              { prompt => 'tokens=9 stall=3 delay=100' });
$c->rest;
is($c->status, 504, 'no next token of a whole reply: a status');

$c = $s->post('/hurry/v1/completions?twelve',
              { prompt => 'tokens=8 delay=250', stream => \1 });
$c->rest;
ok($c->done, 'a deadline moves with each token');

is(Live::await(sub { $s->status->{nginx}{active} == 0 }), 1,
   'none is active');
unlike($s->errors, qr/\[(alert|crit|emerg)\]/, 'nothing bad is logged');

done_testing();
