# A client that reads slowly: fewer and larger frames, bounded memory, parked,
# cancelled in the end; and nobody else is slower for it.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use Engine;
use Live;
use Puppet;

Puppet::start('a');

# the kernel's buffers are small, so that few bytes make a client slow
my $e = Engine->start;
my $s = Live->new(listen => 'sndbuf=8k', server => <<"EOC");
    location /v1/ {
        moe_pass unix:\$TEST_NGINX_A_SOCK;
        moe_park_timeout 1s;
    }
    location /patient/ {
        rewrite ^/patient(/.*)\$ \$1 break;
        moe_pass unix:\$TEST_NGINX_A_SOCK;
        moe_buffer_size 16k;
        moe_token_timeout 1s;
    }
    location /real/ {
        rewrite ^/real(/.*)\$ \$1 break;
        moe_pass unix:$e->{sock};
        moe_buffer_size 4k;
    }
    location /send/ {
        rewrite ^/send(/.*)\$ \$1 break;
        moe_pass unix:\$TEST_NGINX_A_SOCK;
        moe_send_timeout 1s;
    }
    location /rate/ {
        rewrite ^/rate(/.*)\$ \$1 break;
        moe_pass unix:\$TEST_NGINX_A_SOCK;
        limit_rate 20k;
    }
    location = /status { moe_status; }
EOC

my ($worker) = $s->workers;

# it takes nothing: parked, then cancelled; its neighbour has full speed
my $other = $s->post('/v1/completions?warm', { prompt => 'tokens=1' });
$other->rest;
my $before = Engine::rss($worker);

my $t = time;
my $c = $s->post('/v1/completions?one',
                 { prompt => 'tokens=100000 size=1000', stream => \1 },
                 rcvbuf => 4096);
$other = $s->post('/v1/completions?other',
                  { prompt => 'tokens=25 delay=20', stream => \1 });
$other->rest;
my $took = time - $t;
ok($other->done, 'another stream ends');
cmp_ok($took, '<', 2.5, 'as fast as it would alone');

my $line = $s->log_line(qr/\?one/, 10);
$took = time - $t;
my ($n) = $line =~ /^200\|cancelled\|7?\d*\|(\d+)\|/;
ok($n, 'who takes nothing is cancelled') or diag $line;
cmp_ok($n || 100000, '<', 500, 'the engine was held back by the credit');
cmp_ok($took, '>=', 0.9, 'not before moe_park_timeout');
cmp_ok($took, '<', 6, 'but soon after it');
cmp_ok(Engine::rss($worker) - $before, '<', 3000, 'memory is bounded');
ok($s->wait_error(qr/client is too slow/), 'the error log says why');
$c->close;

# it reads now and then: all of it arrives, in fewer frames
sub frames {
    my ($c) = @_;
    my $n = () = $c->body =~ /^data: \{/mg;
    return $n;
}

sub drowse {
    my ($c, $bytes, $pause, $seconds) = @_;

    my $end = time + $seconds;

    while (time < $end) {
        my $sel = IO::Select->new($c->{sock});
        last unless $sel->can_read($end - time);
        my $data;
        my $n = sysread $c->{sock}, $data, $bytes;
        last unless $n;
        $c->{buf} .= $data;
        sleep $pause;
    }
}

$c = $s->post('/patient/v1/completions?two',
              { prompt => 'tokens=2000 size=60', stream => \1 },
              rcvbuf => 4096);
sleep 1.5;                             # parked for longer than a token takes
drowse($c, 4096, 0.005, 20);
ok($c->done && $c->whole, 'a slow reader gets its stream to the end');
is(length $c->text, 2000 * 60, 'all of it');
cmp_ok(frames($c), '<', 1200, 'in fewer frames') or diag frames($c);
like($s->log_line(qr/\?two/), qr/^200\|stop\|\d+\|2000\|200/,
     'a parked stream does not time out for a token');

# the same of the real engine, which says that it is parked
my $ask = { prompt => 'Once upon a time', max_tokens => 1500,
            ignore_eos => \1, temperature => 0, stream => \1 };
my $fast = $s->post('/real/v1/completions?fast', $ask);
$fast->rest;
ok($fast->done, 'an answer');

$c = $s->post('/real/v1/completions?three', $ask, rcvbuf => 4096);
ok(Live::await(sub {
       my ($engine) = grep { $_->{engine} =~ /\Q$e->{sock}/ }
                      @{$s->status->{engines}};
       return $engine->{parked} == 1;
   }), 'the engine has parked it');

my $quick = $s->post('/real/v1/completions?four', { %$ask, max_tokens => 50 });
$quick->rest;
ok($quick->done, 'another one is answered meanwhile');

drowse($c, 4096, 0.002, 30);
ok($c->done && $c->whole, 'read after all');
is($c->text, $fast->text, 'the same text as for the fast');

$c = $s->post('/real/v1/completions?gone', $ask, rcvbuf => 4096);
ok($c->until(qr/"text"/), 'a stream');
Live::await(sub {
    grep { $_->{parked} } @{$s->status->{engines}}
});
$c->close;
like($s->log_line(qr/\?gone/), qr/^200\|cancelled/,
     'a client can go while it is parked');
ok(Live::await(sub {
       my ($engine) = grep { $_->{engine} =~ /\Q$e->{sock}/ }
                      @{$s->status->{engines}};
       return $engine->{running} == 0 && $engine->{parked} == 0;
   }), 'and the engine holds nothing for it');

# moe_send_timeout
$t = time;
$c = $s->post('/send/v1/completions?five',
              { prompt => 'tokens=100000 size=1000', stream => \1 },
              rcvbuf => 4096);
like($s->log_line(qr/\?five/, 10), qr/^200\|cancelled/, 'moe_send_timeout');
$took = time - $t;
cmp_ok($took, '>=', 0.9, 'not before it');
cmp_ok($took, '<', 6, 'soon after it');
ok($s->wait_error(qr/client timed out/), 'logged as nginx does');

# limit_rate
$t = time;
$c = $s->post('/rate/v1/completions?six',
              { prompt => 'tokens=200 delay=1', stream => \1 });
$c->rest;
$took = time - $t;
ok($c->done && $c->whole, 'limit_rate: the stream ends');
is(length $c->text, 800, 'complete');
my $rate = length($c->{buf}) / $took;
cmp_ok($rate, '<', 35000, 'not faster than said');
cmp_ok(frames($c), '<', 200, 'in fewer frames');

is(Live::await(sub { $s->status->{nginx}{active} == 0 }), 1,
   'none is active');
unlike($s->errors, qr/\[(alert|crit|emerg)\]/, 'nothing bad is logged');

done_testing();
