# Experts spread over ranks: their loads and those of the ranks are seen in
# nginx, as JSON and as a page for people.

use strict;
use warnings;

use Test::More;
use JSON::PP;

use Engine;
use Live;

my $e = Engine->start('--ranks', 2, '--experts', 'spread', '--rebalance', 1,
                      '--replicas', 4);
my $s = Live->new(workers => 1, server => <<"EOC");
    location / { moe_pass unix:$e->{sock}; moe_first_token_timeout 300s; }
    location = /status { moe_status; }
EOC

sub body {
    my ($reply) = $s->get($_[0]) =~ /\r\n\r\n(.*)/s;
    return $reply;
}

my $experts = Live::await(sub {
    my @c = map {
        $s->post('/v1/chat/completions', {
            messages => [ { role => 'user', content => "Tell me of $_." } ],
            max_tokens => 60, ignore_eos => \1 })
    } 1 .. 4;

    Live::gather(60, @c);
    $_->close for @c;

    my $j = decode_json(body('/status?format=experts'))->{engines}[0];
    return $j->{placement} ? $j : undef;
}, 60);

ok($experts, 'experts were placed by their loads');
is($experts->{experts}, 32, 'experts');
is($experts->{ranks}, 2, 'ranks');
is($experts->{layers}, 3, 'layers with experts');
cmp_ok($experts->{rows}, '>=', 1, 'rows');

for my $of ([ expert_load => 32 ], [ rank_load => 2 ]) {
    my ($name, $n) = @$of;
    is(scalar @{$experts->{$name}}, 3, "$name: layers");

    for my $layer (@{$experts->{$name}}) {
        is(scalar @$layer, $n, "$name: all of them");

        my $sum = 0;
        $sum += $_ for @$layer;
        cmp_ok(abs($sum / $n - 1000), '<', 5, "$name: mean is 1");
    }
}

my $status = $s->status->{engines}[0];
cmp_ok($status->{placements}, '>=', 1, 'placements');
cmp_ok($status->{skew_thousandths}, '>=', 1000, 'skew');

my $page = body('/status?format=heat');
is(scalar(() = $page =~ /<td class=h[0-8]>/g), 3 * (32 + 2), 'a cell each');
like($page, qr/<h1>unix:\Q$e->{sock}\E<\/h1>/, 'the engine is named');
like($page, qr/<th>rank 1\n/, 'ranks');

is($s->errors =~ /\[alert\]/ ? 1 : 0, 0, 'no alert');

done_testing;
