# Many times more requests than the engine can do: each is answered with what
# it asked for or with a clean 429 or 503, in whole; a key with few requests
# and a high class are served meanwhile; nothing grows without bound; and
# then all is as before. No time is measured here: see make bench-surge.

use strict;
use warnings;

use List::Util qw(sum);
use Test::More;
use Time::HiRes qw(sleep time);

use Engine;
use Live;

my $e = Engine->start('--max-running', 4, '--queue', 12);
my $s = Live->new(workers => 2, listen => 'reuseport', server => <<"EOC");
    location / {
        moe_pass unix:$e->{sock};
        moe_key \$http_x_key;
        moe_priority \$http_x_class;
        moe_weight \$http_x_weight;
        moe_first_token_timeout 300s;
        moe_queue_timeout 300s;
    }
    location = /status { moe_status; }
EOC

sub ask {
    my ($key, $class, %o) = @_;

    return $s->post("/v1/completions?$key",
                    { prompt => "Once upon a time", max_tokens => 24,
                      ignore_eos => \1, temperature => 0, stream => \1, %o },
                    headers => "X-Key: $key\r\nX-Class: $class\r\n");
}

sub head {
    my ($c) = @_;
    return (split /\r\n\r\n/, $c->{buf}, 2)[0] . "\r\n";
}

my $alone = ask('alone', 'normal');
$alone->rest;
is($alone->status, 200, 'alone');

my ($first) = $e->ranks;
my %before = (front => Engine::rss($e->pid), rank => Engine::rss($first));

# forty times what may wait and run: one key sends most of it, streams and
# whole answers; then a few others, and some of the high class among them
my (@hog, @few, @high);

for my $i (0 .. 599) {
    push @hog, ask('hog', 'normal', $i % 3 ? () : (stream => \0));
    push @few, ask('few' . $i / 200 % 3, 'normal') if $i % 200 == 150;
    push @high, ask('high', 'high') if $i % 100 == 99;
}

is(Live::gather(120, @hog, @few, @high), 600 + 3 + 6, 'all are answered');

my (%status, @unclean, @different);

for my $c (@hog, @few, @high) {
    my $status = $c->status;
    $status{$status}++;

    if ($status == 200) {
        push @different, $c if $c->text ne $alone->text;

    } else {
        my $error = ($c->events)[0]{error};
        my $code = $status == 429 ? 'rate_limit_exceeded' : 'queue_full';
        my $type = $status == 429 ? 'rate_limit_error' : 'server_error';
        my ($retry) = head($c) =~ /^Retry-After: (\d+)\r?$/m;

        push @unclean, $c
            unless ($status == 429 || $status == 503) && $retry
                   && $error->{code} eq $code && $error->{type} eq $type
                   && $error->{message}
                   && head($c) =~ m{^Content-Type: application/json\r?$}m;
    }
}

note join ' ', map "$_: $status{$_}", sort keys %status;
is(scalar @unclean, 0, 'every refusal is clean')
    or diag head($unclean[0]), $unclean[0]->body;
is(scalar @different, 0, 'every answer is the one that its request gets alone');
cmp_ok($status{200}, '>=', 16, 'as many as fit are answered');
cmp_ok($status{200}, '<', 609, 'and others are not');

is(scalar(grep { $_->status == 200 } @few), 3,
   'who sends one is served beside who sends six hundred');
is(scalar(grep { $_->status == 200 } @high), 6, 'the high class is too');

# counted where they were refused
my ($st, $engine);

ok(Live::await(sub {
       $st = $s->status;
       $engine = $st->{engines}[0];
       return $st->{nginx}{active} == 0 && $engine->{running} == 0
              && $engine->{finished} + $engine->{refused}
                 + $engine->{displaced} == 610;
   }, 10), 'all are counted');

is($engine->{refused_share} + $engine->{refused_full} + $engine->{displaced},
   609 - $status{200}, 'each refusal for its reason');
is($engine->{refused_late} + $engine->{refused_memory}
   + $engine->{queue_timeouts}, 0, 'and for no other');
is($engine->{waiting}, 0, 'nobody waits');
is($engine->{kv_pages_used}, 0, 'no page is held');

# nothing has grown but what a cache may
cmp_ok(Engine::rss($e->pid) - $before{front}, '<', 20000,
       'the front has not grown');
cmp_ok(Engine::rss($first) - $before{rank}, '<', 100000,
       'nor has the rank');
is(($e->ranks)[0], $first, 'which is the same');

my $after = ask('hog', 'low');
$after->rest;
is($after->status, 200, 'afterwards the same key is served at once');
is($after->text, $alone->text, 'with the same answer');

unlike($s->errors, qr/\[(alert|crit|emerg|error)\]/, 'nothing bad is logged');

done_testing();
