# An engine that writes nonsense into its memory: nginx loses the lane and the
# jobs in it, says so once, comes back, and forgets no request.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use Live;
use Puppet;

Puppet::start('a', '--vandal', 10);
Puppet::start('b', '--vandal', 10);

my $s = Live->new(level => 'warn', http => <<'EOC', server => <<'EOC2');
    upstream engines {
        server unix:$TEST_NGINX_A_SOCK max_fails=0;
        server unix:$TEST_NGINX_B_SOCK max_fails=0;
    }
EOC
    location /v1/ {
        moe_pass engines;
        moe_queue_timeout 500ms;
        moe_first_token_timeout 500ms;
        moe_token_timeout 500ms;
    }
    location = /status { moe_status; }
EOC2

my ($worker) = $s->workers;

my @prompts = ('tokens=5 delay=2', 'tokens=50', 'start=20 tokens=2',
               'tokens=3 fail=2 message=hello code=x', 'tokens=9 size=3000',
               'status=503 message=abc', 'tokens=3 logprobs=3');

my $end = time + ($ENV{TEST_NGINX_VANDAL_SECONDS} // 10);
my (%status, $open);

while (time < $end) {
    my @c;

    for (1 .. 20) {
        push @c, $s->post('/v1/completions',
                          { prompt => $prompts[rand @prompts],
                            n => 1 + int rand 3,
                            rand() < 0.5 ? (stream => \1) : (),
                            rand() < 0.3 ? (logprobs => 3) : () });
    }

    $_->close for splice @c, 0, int rand 4;

    for (@c) {
        my $reply = $_->rest(10);
        $status{$reply =~ /^HTTP\/1\.1 (\d+)/ ? $1 : 'none'}++;
    }

    sleep 0.1;
}

diag(join ' ', map { "$_: $status{$_}" } sort keys %status);

ok($status{200}, 'some are answered');
ok(!$status{none}, 'all have a reply');

sleep 2;

my $status = $s->get('/status');
like($status, qr/"active":0,/, 'none is left');
like($status, qr/"violations":[1-9]/, 'lanes were closed for it');

my ($still) = $s->workers;
is($still, $worker, 'the worker is the same');
unlike($s->errors, qr/exited on signal|\[(crit|emerg)\]|Sanitizer/,
       'nothing worse is logged');

my $alerts = () = $s->errors =~ /\[alert\]/g;
my ($violations) = $status =~ /"violations":(\d+)/;
is($alerts, $violations, 'one [alert] each');

done_testing();
