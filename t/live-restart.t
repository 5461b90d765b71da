# An engine that is away for a moment: who asks it alone waits for it, at most
# moe_connect_timeout; who has another one to ask does not wait.  And an engine
# that dies in the midst of a reply that is not streamed: another one gives it.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use Engine;
use Live;
use Puppet;

Puppet::start('a');
Puppet::start('b');

my $s = Live->new(http => <<'EOC', server => <<'EOC2');
    upstream two {
        server unix:$TEST_NGINX_A_SOCK;
        server unix:$TEST_NGINX_B_SOCK backup;
    }
EOC
    location / {
        moe_pass unix:$TEST_NGINX_A_SOCK;
        moe_connect_timeout 10s;
    }
    location /short/ {
        rewrite ^/short(.*) $1 break;
        moe_pass unix:$TEST_NGINX_A_SOCK;
        moe_connect_timeout 300ms;
    }
    location /two/ {
        rewrite ^/two(.*) $1 break;
        moe_pass two;
        moe_connect_timeout 10s;
    }
    location = /status { moe_status; }
EOC2

sub ask {
    my ($path, %o) = @_;

    return $s->post("$path/v1/completions", { prompt => 'tokens=2 text=ab',
                                              %o });
}

sub works {
    my ($c, $name) = @_;

    $c->rest;
    is($c->status . $c->text, '200abab', $name);
}

works(ask(''), 'an engine that is there');

# it goes; requests wait, and are served when it is back
Puppet::stop('a');
my @clients = (ask(''), ask('', stream => \1), ask(''));
my $gone = ask('');
sleep 0.6;
$gone->close;
ok(!$_->more(0), 'a request waits') for @clients;
Puppet::start('a');
works($_, 'the engine is back: served') for @clients;
is(Live::await(sub { $s->status->{nginx}{active} == 0 }), 1,
   'nothing is left of the client that did not wait');
like($s->log_line(qr/^499\|/), qr/^499\|cancelled\|-\|-\|499\|/,
     'and it is in the log');

# it does not come back in time
Puppet::stop('a');
my $t = time;
my $c = ask('/short');
$c->rest;
is($c->status, 502, 'it did not come back: 502');
is($c->error->{code}, 'engine_unavailable', 'which says so');
cmp_ok(time - $t, '>=', 0.29, 'after moe_connect_timeout');
like($s->errors, qr/a\.sock" failed: [^\n]* client: 127\.0\.0\.1/,
     'the error log says whose request it was');

# with another one to ask nobody waits
$t = time;
works(ask('/two'), 'another engine');
cmp_ok(time - $t, '<', 5, 'is asked at once');

# a worker that is to leave connects for those who wait
$c = ask('');
sleep 0.2;
my @old = $s->workers;
$s->hup;
$s->new_workers(@old);
Puppet::start('a');
works(ask(''), 'the new worker is served');
works($c, 'and so is what waited in the old one');
ok(Live::await(sub { !grep { Engine::alive($_) } @old }),
   'and the old one goes');
$s->stop;

# two real engines
my @engines = (Engine->start, Engine->start);

$s = Live->new(http => <<"EOC", server => <<'EOC2');
    upstream real {
        server unix:$engines[0]{sock};
        server unix:$engines[1]{sock} backup;
    }
EOC
    location / { moe_pass real; }
    location = /status { moe_status; }
EOC2

my %job = (messages => [ { role => 'user', content => 'Tell me a story.' } ],
           max_tokens => 500, ignore_eos => \1, temperature => 1, seed => 11,
           logprobs => \1, top_logprobs => 2);

sub reply {
    my ($c) = @_;

    $c->rest;
    my ($r) = $c->events;
    delete $r->{$_} for qw(id created);
    delete $r->{usage}{prompt_tokens_details};

    return $r;
}

my $alone = reply($s->post('/v1/chat/completions', \%job));
is($alone->{usage}{completion_tokens}, 500, 'an undisturbed reply');

$c = $s->post('/v1/chat/completions?killed', \%job);
ok(Live::await(sub {
       return $s->status->{nginx}{completion_tokens} > 520;
   }), 'an engine is in the midst of it');
$engines[0]->kill('KILL');
is_deeply(reply($c), $alone, 'it dies: the other one gives the same reply');
like($s->log_line(qr/killed/), qr/^200\|length\|\d+\|500\|502, 200\|/,
     'its tokens are counted once in the log');

my $n = $s->status->{nginx};
is($n->{retries}, 1, 'one retry is counted');
cmp_ok($n->{completion_tokens}, '>', 1000,
       'and what the dead one had sampled, too');

unlike($s->errors, qr/\[(alert|crit|emerg)\]/, 'nothing bad is logged');

done_testing();
