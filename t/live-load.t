# Two hundred streams at once, and plain requests among them: each answer is
# the one that its request gets alone, and the counts add up.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use Engine;
use Live;

my $e = Engine->start('--max-running', 48);
my $s = Live->new(workers => 2, listen => 'reuseport', server => <<"EOC");
    location / { moe_pass unix:$e->{sock}; moe_first_token_timeout 300s;
                 moe_queue_timeout 300s; }
    location = /status { moe_status; }
EOC

my @subjects = ('the red door', 'a fox', 'three apples', 'the old lamp',
                'rain', 'Maya and Tom', 'a small boat', 'the green hat');

# twenty requests, of every kind
my @kinds = map {
    my $i = $_;
    my %o = (max_tokens => 24 + $i, ignore_eos => \1);

    $o{temperature} = $i % 2;
    $o{seed} = $i if $i % 2;
    $o{stream} = \1 if $i % 5;
    $o{stop} = ['zebra'] if $i % 3 == 0;

    $i % 4 == 3
        ? [ '/v1/completions', { prompt => "Once $subjects[$i % 8]", %o } ]
        : [ '/v1/chat/completions',
            { messages => [ { role => 'user', content =>
                              "Tell me of $subjects[$i % 8]. " x (1 + $i % 6)
                            } ], %o } ];
} 0 .. 19;

sub post {
    my ($kind, $name) = @_;
    return $s->post("$kinds[$kind][0]?$name", $kinds[$kind][1]);
}

# what a reply says
sub answer {
    my ($c) = @_;

    my ($reason) = map { $_->{choices}[0]{finish_reason} // () } $c->events;

    return join '|', $c->status, $reason // '-', $c->text;
}

my @alone;

for my $kind (0 .. $#kinds) {
    my $c = post($kind, "alone$kind");
    $c->rest;
    $alone[$kind] = answer($c);
    $c->close;
}

is(scalar(grep { /^200\|(?:length|stop)\|./ } @alone), 20,
   'every kind has an answer alone');

my @clients = map { post($_ % 20, "crowd$_") } 0 .. 199;

my $peak = Live::await(sub {
    my $n = $s->status->{nginx}{active};
    return $n > 60 ? $n : undef;
}, 2) || 0;
note "at once: $peak";

# plain requests pass between the streams
my $t = time;
like($s->get('/v1/models'), qr/"demo"/, 'models');
like($s->get('/health'), qr/^HTTP\S+ 200/, 'health');
my $c = $s->post('/tokenize', { prompt => 'Once upon a time' });
$c->rest;
is($c->status, 200, 'tokenize');
$c->close;
note sprintf 'in %.2f s', time - $t;

is(Live::gather(90, @clients), 200, 'two hundred requests end');

my @bad = grep { answer($clients[$_]) ne $alone[$_ % 20] } 0 .. 199;
is(scalar @bad, 0, 'each with the answer that it has alone')
    or diag "$bad[0]: ", answer($clients[$bad[0]]), "\n",
            $alone[$bad[0] % 20];

$_->close for @clients;

# the log, this nginx's counters and the engine's agree
my ($st, $log, %sum);

ok(Live::await(sub {
       $st = $s->status;
       $log = $s->slurp('access.log');
       my $n = () = $log =~ /\?(?:alone|crowd)|tokenize/g;
       return $n == 221 && $st->{nginx}{active} == 0
              && $st->{engines}[0]{running} == 0
              && $st->{engines}[0]{finished} >= 220;
   }, 10), 'all are logged and done');

for (split /\n/, $log) {
    my ($in, $out) = /^200\|\S+?\|(\d+)\|(\d+|-)\|/ or next;
    $sum{prompt} += $in;
    $sum{completion} += $out if $out ne '-';
    $sum{counted} += $in if m{/tokenize};
}

my ($nginx, $engine) = ($st->{nginx}, $st->{engines}[0]);

is($nginx->{requests}, 221, 'requests');
is($nginx->{finished}, 221, 'all finished');
is($nginx->{failed} + $nginx->{cancelled} + $nginx->{refused}, 0,
   'none otherwise');
is($nginx->{completion_tokens}, $sum{completion},
   'the tokens of the log and of moe_status');
is($engine->{completion_tokens}, $sum{completion}, 'and of the engine');
is($nginx->{prompt_tokens}, $sum{prompt}, 'the same of the prompts');
is($engine->{prompt_tokens}, $sum{prompt} - $sum{counted},
   'of which the engine takes those that it computes');
is($nginx->{violations}, 0, 'nobody broke the queue');
is($engine->{kv_pages_used}, 0, 'no page is held');
is($nginx->{ttft_seconds}{count}, 220, 'first tokens are observed');

unlike($s->errors, qr/\[(alert|crit|emerg|error)\]/,
       'nothing bad is logged');

done_testing();
