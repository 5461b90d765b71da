# What happens to whom when a process is killed: an nginx worker, a rank, the
# engine. Twenty rounds of it leave nothing behind.

use strict;
use warnings;

use List::Util qw(sum);
use Test::More;
use Time::HiRes qw(sleep time);

use Engine;
use Live;

my $e = Engine->start('--ranks', 2);
my $s = Live->new(workers => 2, listen => 'reuseport', server => <<"EOC");
    location / {
        moe_pass unix:$e->{sock};
        moe_queue_timeout 4s;
        moe_first_token_timeout 5s;
        moe_token_timeout 4s;
    }
    location = /status { moe_status; }
EOC

my $prompt = 'Once upon a time';

sub ask {
    my ($name, %o) = @_;
    return $s->post("/v1/completions?$name",
                    { prompt => $prompt, max_tokens => 600, n => 3,
                      ignore_eos => \1, temperature => 1, seed => 7,
                      stream => \1, %o });
}

sub engine {
    my ($name) = @_;
    my ($stats) = @{$s->status->{engines} || []};
    return $stats->{$name} // -1;
}

sub texts { return join "\x01", map { $_[0]->text($_) } 0 .. 2 }

sub answers {
    my ($c) = @_;
    return texts($c) . ($c->done ? '' : ' (cut)');
}

# whose streams are whose: a worker's connections
sub worker_of {
    my ($c) = @_;

    my $port = $c->{sock}->sockport;
    my $hex = sprintf '0100007F:%04X 0100007F:%04X', $s->{port}, $port;

    open my $f, '<', '/proc/net/tcp' or die;
    my ($inode) = map { /\Q$hex\E/ ? (split ' ')[9] : () } <$f>;

    for my $pid ($s->workers) {
        return $pid if grep { (readlink($_) // '') eq "socket:[$inode]" }
                       glob "/proc/$pid/fd/*";
    }

    return 0;
}

my $c = ask('alone');
$c->rest;
ok($c->done, 'an undisturbed answer');
my $alone = texts($c);
cmp_ok(length $alone, '>', 1000, 'and a long one');

# a rank is killed: its streams go on as if nothing had been
my @ranks = $e->ranks;
is(@ranks, 2, 'two ranks');

my @clients = map { ask("rank$_") } 1 .. 6;
ok($_->until(qr/"text":"[^"]/), 'a stream runs') for $clients[0];
kill 'KILL', $ranks[0];
is(Live::gather(60, @clients), 6, 'all streams end');
is(scalar(grep { texts($_) eq $alone && $_->done && $_->whole } @clients), 6,
   'each as the undisturbed one, to the byte');
$_->close for @clients;
is(scalar(grep { $s->log_line(qr/\?rank$_\|/) =~ /^200\|length\|\d+\|1800\|/ }
          1 .. 6), 6, 'and with exact counts');
ok(Live::await(sub { $e->ranks == 2 && engine('ranks_up') == 2 }, 20),
   'the front has started another one');
is(engine('rank_restarts'), 1, 'and counted it');

# a worker is killed: the other's streams go on, its own are cancelled
my %of;

for my $try (1 .. 40) {
    my $c = ask("worker$try", max_tokens => 800, n => 1);
    Live::await(sub { worker_of($c) }, 5);
    push @{$of{worker_of($c)}}, $c;
    last if keys %of == 2;
}

is(scalar keys %of, 2, 'streams of both workers');
my ($victim, $other) = sort { $a <=> $b } keys %of;
my $last = $of{$other}[-1];
ok($last->until(qr/"text"/), 'one runs');
kill 'KILL', $victim;
Live::gather(30, map { @$_ } values %of);
is(scalar(grep { !$_->done } @{$of{$other}}), 0,
   'the streams of the other worker go on to their end');
ok(Live::await(sub { engine('running') == 0 && engine('waiting') == 0 }),
   'the engine runs nothing for the dead one');
is(Live::await(sub { $s->status->{nginx}{active} == 0 }), 1,
   'moe_status has forgotten its requests');
ok(Live::await(sub { $s->workers == 2 }), 'nginx has started another one');
$c = ask('after', max_tokens => 20);
$c->rest;
ok($c->done, 'all is well again');
ok(Engine::alive($e->pid), 'the engine has lived through it');
$s->wait_error(qr/exited on signal 9/);

# the engine is killed
sub refused {
    my ($how) = @_;

    my $c = $s->post('/v1/chat/completions',
                     { messages => [ { role => 'user', content => 'Hi' } ] });
    $c->rest;
    like($c->status, qr/^50[23]$/, "$how: " . $c->status);
    is(ref(($c->error || {})->{message} && $c->error), 'HASH',
       "$how: OpenAI's error object");
}

@clients = map { ask("engine$_") } 1 .. 6;
$_->until(qr/"text":"[^"]/) for @clients;
$e->kill('KILL');
is(Live::gather(10, @clients), 6, 'the engine is killed: all streams end');
my @cut = grep { !$_->done } @clients;
cmp_ok(scalar @cut, '>=', 1, 'streams were cut');
is(scalar(grep { ($_->error || {})->{code} eq 'engine_lost' && !$_->whole }
          @cut), scalar @cut, 'each with an error event, then closed');
like($s->log_line(qr/\?engine1\|/), qr/^200\|error\|\d+\|[1-9]\d*\|/,
     'the log has what was made');

refused('without an engine');
refused('and again');

$e->again;
$c = Live::await(sub {
    my $c = ask('again');
    $c->rest;
    return $c->status == 200 ? $c : undef;
}, 15);
ok($c && $c->done, 'the engine is back: served without a reload');
is(texts($c), $alone, 'with the same answer as before the crash');

# it is told to stop: what runs is finished, nothing new is taken
@clients = map { ask("term$_") } 1 .. 4;
$_->until(qr/"text":"[^"]/) for @clients;
my $drained = $e->pid;
kill 'TERM', $drained;
refused('while it drains');
is(Live::gather(60, @clients), 4, 'SIGTERM: all streams end');
is(scalar(grep { texts($_) eq $alone && $_->done && $_->whole } @clients), 4,
   'whole');
$_->close for @clients;
waitpid $drained, 0;
is($?, 0, 'then the engine leaves');
$e->again;
ok(Live::await(sub {
       my $c = ask('anew', max_tokens => 5);
       $c->rest;
       return $c->done;
   }, 15), 'started again, it serves');

# the front hangs: deadlines end what waits for it
both();
@clients = map { ask("hang$_", max_tokens => 1900) } 1 .. 2;
$_->until(qr/"text":"[^"]/) for @clients;
kill 'STOP', $e->pid;
my $waits = $s->post('/v1/completions?waits', { prompt => 'A' });
is(Live::gather(20, @clients, $waits), 3, 'the front hangs: all end');
is(scalar(grep { ($_->error || {})->{code} eq 'engine_timeout'
                 && !$_->whole } @clients), 2,
   'streams with an error event');
is($waits->status, 503, 'what waits in the queue with a status');
$_->close for @clients, $waits;
kill 'CONT', $e->pid;
ok(Live::await(sub {
       my $c = ask('awake', max_tokens => 5);
       $c->rest;
       return $c->done;
   }, 15), 'it goes on: served again');
ok(Live::await(sub { engine('running') == 0 && engine('waiting') == 0 }),
   'and what was given up is given up');

# nothing leaks
sub settle {
    Live::await(sub {
        my $st = $s->status;
        my $en = $st->{engines}[0] || {};
        return $st->{nginx}{active} == 0 && $en->{up}
               && $en->{running} == 0 && $en->{lanes} >= 2;
    }, 15);
}

# both workers have their lane
sub both {
    Live::await(sub {
        Live::gather(10, map { ask('both', max_tokens => 1) } 1 .. 8);
        return engine('lanes') >= 2;
    }, 15);
}

sub measure {
    both();
    settle();
    my @workers = sort { $a <=> $b } $s->workers;
    return { fds => sum(map { Engine::fds($_) } @workers),
             memfds => sum(map { Engine::memfds($_) } @workers),
             rss => (sort { $b <=> $a } map { Engine::rss($_) } @workers)[0],
             front => Engine::fds($e->pid),
             engine => Engine::rss($e->pid) };
}

sub round {
    my ($n) = @_;

    my @clients = map { ask("round$n", max_tokens => 200) } 1 .. 4;
    $clients[0]->until(qr/"text":"[^"]/);

    if ($n % 2) {
        my @ranks = $e->ranks;
        kill 'KILL', $ranks[$n / 2 % @ranks] if @ranks;

    } else {
        $e->kill('KILL');
    }

    is(Live::gather(20, @clients), 4, "round $n: all end");
    $e->again unless $n % 2;

    ok(Live::await(sub {
           my $c = ask("back$n", max_tokens => 5);
           $c->rest;
           return $c->done;
       }, 15), "round $n: served again");

    Live::await(sub { engine('ranks_up') == 2 }, 20);
}

round($_) for 1 .. 4;
my $first = measure();
round($_) for 5 .. 20;
my $then = measure();

# a connection may be about to close
cmp_ok($then->{fds}, '<=', $first->{fds} + 2,
       'the workers have no more descriptors');
is($then->{memfds}, $first->{memfds}, 'and no more shared memory');
cmp_ok($then->{front}, '<=', $first->{front} + 1, 'nor has the front');
cmp_ok($then->{rss} - $first->{rss}, '<', 4000, 'the workers have not grown');
cmp_ok($then->{engine} - $first->{engine}, '<', 20000, 'nor has the front');

# the same front through ranks that die
my $front = $e->pid;
my $rss = Engine::rss($front);
my $fds = Engine::fds($front);

for (1 .. 5) {
    my @ranks = $e->ranks;
    kill 'KILL', $ranks[0];
    ok(Live::await(sub {
           my @now = $e->ranks;
           return @now == 2 && !grep({ $_ == $ranks[0] } @now)
                  && engine('ranks_up') == 2;
       }, 20), 'another rank');
}

is($e->pid, $front, 'the same front');
cmp_ok(Engine::fds($front), '<=', $fds + 1, 'has no more descriptors');
cmp_ok(Engine::rss($front) - $rss, '<', 8000, 'and has not grown');

my @alerts = grep { !/exited on signal 9/ }
             $s->errors =~ /^.*\[(?:alert|crit|emerg)\].*$/mg;
is("@alerts", '', 'nothing bad is logged but what was done');

done_testing();
