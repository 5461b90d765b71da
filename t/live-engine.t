# moe_engine: nginx starts an engine and keeps it alive; one, whatever the
# number of workers and reloads; and none when it only tests a configuration.

use strict;
use warnings;

use File::Spec;
use File::Temp qw(tempdir);
use Test::More;
use Time::HiRes qw(sleep time);

use Engine;
use Live;

my $dir = tempdir('moe-live-s-XXXXXX', TMPDIR => 1, CLEANUP => 1);
chmod 0777, $dir;

my $sock = "$dir/e.sock";
my $program = File::Spec->rel2abs(Engine::program());
my $model = File::Spec->rel2abs(Engine::model());

# processes whose arguments are these
sub running {
    my ($command) = @_;

    my @pids;

    for my $file (glob '/proc/[0-9]*/cmdline') {
        open my $f, '<', $file or next;
        my $line = join ' ', split /\0/, <$f> // '';
        push @pids, $file =~ /(\d+)/
            if $line =~ /\b$command\b/ && $line =~ /\Q$sock\E/;
    }

    return @pids;
}

# serve has its ranks as children of the same arguments
sub fronts {
    my %all = map { $_ => 1 } running('serve');

    return grep {
        open my $f, '<', "/proc/$_/stat";
        my ($parent) = <$f> =~ /^\d+ \(.*\) \S (\d+)/;
        !$all{$parent};
    } keys %all;
}

my %conf = (workers => 4, http => <<"EOC", server => <<"EOC2");
    moe_engine {
        program $program;
        model $model;
        socket unix:$sock;
        option --model-name demo --threads 1;
        option --kv-memory 64m;
        log $dir/engine.log;
        grace 2s;
    }
EOC
    location / { moe_pass unix:$sock; }
    location = /status { moe_status; }
EOC2

sub answer {
    my ($s, $name) = @_;
    my $c = $s->post("/v1/completions?$name",
                     { prompt => 'Once upon a time', max_tokens => 20,
                       temperature => 0 });
    $c->rest;
    return $c->status == 200 ? $c->text : undef;
}

# -t starts nothing
my $s = bless { dir => $dir, port => Live::port(), owner => 0 }, 'Live';
$s->conf(%conf);
is($s->nginx('-t', '-q'), 0, 'the configuration is good');
sleep 1.5;
is(running('supervise') + running('serve'), 0, '-t starts nothing');
ok(!-e $sock, 'and leaves no socket');

# nginx starts one
$s = Live->new(%conf);
my $text = Live::await(sub { answer($s, 'one') }, 20);
ok($text, 'nginx has started the engine, and it answers');
sleep 1.2;                             # another look of every worker
my @supervisors = running('supervise');
my @fronts = fronts();
is(@supervisors, 1, 'one supervisor of four workers');
is(@fronts, 1, 'one engine');
ok(Live::await(sub { $s->status->{engines}[0]{lanes} == 4 }),
   'every worker keeps a lane to it');

# it is killed
kill 'KILL', $fronts[0];
ok(Live::await(sub {
       my @now = fronts();
       return @now == 1 && $now[0] != $fronts[0];
   }, 15), 'killed, it is started again');
is(Live::await(sub { answer($s, 'two') }, 15), $text, 'and answers the same');
is_deeply([ running('supervise') ], \@supervisors, 'by the same supervisor');

# the supervisor is killed: its engine ends with it and another one comes
@fronts = fronts();
kill 'KILL', $supervisors[0];
ok(Live::await(sub {
       my @now = running('supervise');
       return @now == 1 && $now[0] != $supervisors[0];
   }, 15), 'the supervisor is killed: there is another one');
is(Live::await(sub {
       return fronts() == 1 ? answer($s, 'three') : undef;
   }, 20), $text, 'and one engine that answers');
@supervisors = running('supervise');
@fronts = Live::await(sub { fronts() == 1 }) && fronts();

# a reload keeps it, with a stream on it
my @old = $s->workers;
my $c = $s->post('/v1/completions?stream',
                 { prompt => 'Once upon a time', max_tokens => 1900,
                   ignore_eos => \1, stream => \1 });
$c->until(qr/"text":"[^"]/);
$s->hup;
$s->new_workers(@old);
$c->rest(60);
ok($c->done, 'a stream goes on over a reload');
$c->close;
ok(Live::await(sub { !grep { Engine::alive($_) } @old }), 'reloaded');
sleep 1.2;
is_deeply([ running('supervise') ], \@supervisors, 'the same supervisor');
is_deeply([ fronts() ], \@fronts, 'the same engine');
is(answer($s, 'four'), $text, 'which answers');

# nothing of nginx is in its hands
my @held = grep { m{\Q$s->{dir}\E|socket:} }
           map { readlink($_) // () } glob "/proc/$supervisors[0]/fd/*";
is("@held", '', 'the supervisor has no descriptor of nginx');

sub session {
    open my $f, '<', "/proc/$_[0]/stat" or return 0;
    my ($sid) = <$f> =~ /^\d+ \(.*\) \S \d+ \d+ (\d+)/;
    return $sid;
}

isnt(session($supervisors[0]), session($s->pid), 'but a session of its own');

# the end
$s->nginx('-s', 'stop');
sleep 0.5;
is(scalar fronts(), 1, 'nginx stops: the engine stays for the grace');
ok(Live::await(sub { !running('supervise') && !running('serve') }, 15),
   'then it ends');

open my $f, '<', "$dir/engine.log" or die;
my $log = do { local $/; <$f> };
like($log, qr/ready model=demo/, 'it has logged where it was told to');

# killed workers may be logged, nothing else
unlike($s->errors, qr/\[(alert|crit|emerg)\]/, 'nothing bad is logged');

done_testing();
