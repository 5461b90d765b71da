# The client goes: the job ends within a step and is counted exactly.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use Puppet;
use Live;

Puppet::start('a');

my $s = Live->new(server => <<'EOC');
    location /v1/ { moe_pass unix:$TEST_NGINX_A_SOCK; }
    location /ignore/ {
        rewrite ^/ignore(/.*)$ $1 break;
        moe_pass unix:$TEST_NGINX_A_SOCK;
        moe_ignore_client_abort on;
    }
    location = /status { moe_status; }
EOC

sub status {
    my ($name) = @_;
    my ($n) = $s->get('/status') =~ /"nginx":\{.*?"$name":(\d+)/;
    return $n;
}

my $c = $s->post('/v1/completions?one',
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
like($s->log_line(qr/\?four/), qr/^200\|cancelled/, 'EOF with the request');

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

sleep 0.1;
is(status('active'), 0, 'none is active');
unlike($s->errors, qr/\[(alert|crit|emerg)\]/, 'nothing bad is logged');

done_testing();
