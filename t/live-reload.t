# Reload, upgrade and stop with live streams: none breaks.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use Engine;
use Live;
use Puppet;

Puppet::start('a');

my $e = Engine->start;

my $log = '$status|$moe_finish_reason|$moe_prompt_tokens|'
          . '$moe_completion_tokens|$request_uri|$pid';

my %conf = (workers => 2, listen => 'reuseport', log => $log,
            server => <<"EOC");
    location /v1/ { moe_pass unix:\$TEST_NGINX_A_SOCK; }
    location /real/ {
        rewrite ^/real(/.*)\$ \$1 break;
        moe_pass unix:$e->{sock};
    }
    location = /status { moe_status; }
EOC

my $s = Live->new(%conf);

sub real {
    my ($name) = @_;
    return $s->post("/real/v1/completions?$name",
                    { prompt => 'Once upon a time', max_tokens => 500,
                      ignore_eos => \1, temperature => 0, stream => \1 });
}

sub slow {
    my ($name, $tokens, $delay) = @_;
    return $s->post("/v1/completions?$name",
                    { prompt => "tokens=$tokens delay=$delay",
                      stream => \1 });
}

sub whole {
    my (@c) = @_;
    return scalar grep { $_->done && $_->whole } @c;
}

my $c = real('alone');
$c->rest;
ok($c->done, 'an undisturbed answer');
my $alone = $c->text;

# a reload: 10 streams of the engine and 10 that certainly last
my @old = $s->workers;
my $total = $s->status->{nginx}{completion_tokens};
cmp_ok($total, '>=', 500, 'moe_status counts');

my @slow = map { slow("slow$_", 40, 50) } 1 .. 10;
my @real = map { real("real$_") } 1 .. 10;
$_->until(qr/tok /) for @slow;
$_->until(qr/"text":"[^"]/) for @real;

$s->hup;
ok($s->new_workers(@old), 'there are new workers');
cmp_ok(scalar(grep { Engine::alive($_) } @old), '>=', 1,
       'old ones wait for their streams');
cmp_ok(scalar(grep { !$_->done } @slow), '>=', 1, 'which still run');

Live::await(sub { (() = $s->errors =~ /gracefully shutting down/g) == 2 });
my @new = map { my $c = slow("new$_", 2, 0); $c->rest; $c->close; $c } 1 .. 8;
is(whole(@new), 8, 'new requests are answered meanwhile');
my @by = map { $s->log_line(qr/\?new$_\|/) =~ /(\d+)$/ } 1 .. 8;
is(scalar(grep { my $pid = $_; grep { $_ == $pid } @old } @by), 0,
   'by new workers');

is(Live::gather(60, @slow, @real), 20, 'all streams end');
$_->close for @slow, @real;
is(whole(@slow), 10, 'the slow ones whole');
is(scalar(grep { length $_->text == 160 } @slow), 10, 'to the byte');
is(whole(@real), 10, 'those of the engine whole');
is(scalar(grep { $_->text eq $alone } @real), 10, 'and undisturbed');
ok(Live::await(sub { !grep { Engine::alive($_) } @old }, 10),
   'then the old workers leave');
cmp_ok($s->status->{nginx}{completion_tokens}, '>=',
       $total + 10 * 40 + 10 * 500, 'moe_status goes on counting');
is($s->status->{nginx}{active}, 0, 'and none is active');

# a quiet stream: nothing comes for a while as the worker wants to leave
$c = $s->post('/v1/completions?quiet',
              { prompt => 'first=1500 tokens=3', stream => \1 });
$c->until(qr/\r\n\r\n/);
my $queued = $s->post('/v1/completions?queued',
                      { prompt => 'start=1500 tokens=3' });
sleep 0.1;
$s->hup;
Live::gather(10, $c, $queued);
is(whole($c), 1, 'a stream without tokens survives a reload');
is($queued->status, 200, 'so does a request in the queue');

# one after another
@slow = map { slow("many$_", 60, 50) } 1 .. 20;
$_->until(qr/tok /) for @slow;

for (1 .. 5) {
    @old = $s->workers;
    $s->hup;
    Live::await(sub {
        my %old = map { $_ => 1 } @old;
        return grep { !$old{$_} } $s->workers;
    });
    my $c = slow("between$_", 1, 0);
    $c->rest;
    ok($c->done, "reload $_: served");
}

is(Live::gather(30, @slow), 20, 'five reloads: all streams end');
$_->close for @slow;
is(whole(@slow), 20, 'whole');

# an upgrade: the new binary's workers serve, the old one's finish
my $master = $s->pid;
@slow = map { slow("usr$_", 60, 50) } 1 .. 10;
@real = map { real("usrreal$_") } 1 .. 10;
$_->until(qr/tok /) for @slow;
$_->until(qr/"text":"[^"]/) for @real;

kill 'USR2', $master;
ok(Live::await(sub {
       my $pid = $s->pid;
       return $pid && $pid != $master && $s->workers == 2;
   }, 10), 'USR2: a new master with its workers');
my $upgraded = $s->pid;
kill 'QUIT', $master;

$c = slow('upgraded', 2, 0);
$c->rest;
ok($c->done, 'served meanwhile');
is(Live::gather(60, @slow, @real), 20, 'all streams end');
$_->close for @slow, @real;
is(whole(@slow), 10, 'the slow ones whole');
is(scalar(grep { $_->done && $_->text eq $alone } @real), 10,
   'those of the engine undisturbed');
ok(Live::await(sub { !Engine::alive($master) }, 10), 'the old master leaves');

for (1 .. 4) {
    $c = slow("then$_", 2, 0);
    $c->rest;
    ok($c->done, 'the new one serves on');
}

# worker_shutdown_timeout bounds it
$s->conf(%conf, main => 'worker_shutdown_timeout 1s;');
@old = $s->workers;
$s->hup;
$s->new_workers(@old);
Live::await(sub { !grep { Engine::alive($_) } @old });

@old = $s->workers;
$c = slow('forever', 10000, 50);
@slow = map { slow("forever$_", 10000, 50) } 1 .. 8;
$_->until(qr/tok /) for $c, @slow;
my $t = time;
$s->hup;
$c->rest(15);
my $took = time - $t;
$c->close;
$c->close;
ok(!$c->done, 'worker_shutdown_timeout: the stream is cut');
cmp_ok($took, '>=', 0.8, 'not before it');
cmp_ok($took, '<', 6, 'soon after it');
ok(Live::await(sub { !grep { Engine::alive($_) } @old }, 10),
   'the old workers have left');
like($s->log_line(qr/\?forever/), qr/^200\|cancelled\|\d+\|\d+\|/,
     'the stream is logged');
is(scalar(grep { $s->log_line(qr/\?forever$_\|/) =~ /^200\|cancelled\|/ }
          1 .. 8), 8, 'so are all others, as cancelled');
Live::gather(10, @slow);
$_->close for @slow;
$s->new_workers(@old);

# a configuration without engines, and back
@old = $s->workers;
$c = slow('outlives', 20, 50);
$c->until(qr/tok /);
$s->conf(%conf, http => '', server => 'location / { return 204; }');
$s->hup;
ok($s->new_workers(@old), 'a configuration without moe_pass');
ok(Live::await(sub { $s->get('/') =~ m{^HTTP/1.1 204} }), 'serves');
$c->rest;
is(whole($c), 1, 'a stream of the last one ends as it should');

# quit
$s->conf(%conf);
@old = $s->workers;
$s->hup;
ok(Live::await(sub { !grep { Engine::alive($_) } @old }), 'reloaded');
$s->new_workers(@old);

$master = $s->pid;
@slow = map { slow("quit$_", 30, 50) } 1 .. 10;
$_->until(qr/tok /) for @slow;
is($s->nginx('-s', 'quit'), 0, 'nginx -s quit');
is(Live::gather(30, @slow), 10, 'all streams end');
$_->close for @slow;
is(whole(@slow), 10, 'whole');
ok(Live::await(sub { !Engine::alive($master) }, 10), 'nginx has ended');

unlike($s->errors, qr/\[(alert|crit|emerg)\]/, 'nothing bad is logged');

done_testing();
