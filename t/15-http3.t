# HTTP/3: a stream, a whole reply, a client that goes, over QUIC on loopback.
# nginx 1.22 has none, and curl needs one with HTTP/3 (tools/unpack-suite.sh
# curl): without either this is skipped.

use strict;
use warnings;

use File::Temp qw(tempdir);
use Test::More;
use Time::HiRes qw(sleep time);

use Engine;
use Live;
use MoeTest ();
use Puppet;

my $curl = $ENV{TEST_NGINX_CURL_HTTP3} || 'curl';
my $nginx = $ENV{TEST_NGINX_BINARY} || 'nginx';

plan(skip_all => 'nginx has no HTTP/3')
    if `$nginx -V 2>&1` !~ /--with-http_v3_module/;
plan(skip_all => 'curl has no HTTP/3') if `$curl -V` !~ /\bHTTP3\b/;

my $dir = tempdir('moe-h3-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $port = Live::port();

system("openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=t -days 2 "
       . "-keyout $dir/key -out $dir/crt 2>/dev/null") == 0 or die 'openssl';

Puppet::start('a');

my $e = Engine->start;
my $s = Live->new(log => '$server_protocol|$status|$moe_finish_reason|'
                         . '$moe_completion_tokens|$upstream_status|'
                         . '$request_uri', server => <<"EOC");
    listen 127.0.0.1:$port quic reuseport;
    ssl_certificate $dir/crt;
    ssl_certificate_key $dir/key;
    ssl_protocols TLSv1.3;
    client_max_body_size 4m;
    location /v1/ { moe_pass unix:\$TEST_NGINX_A_SOCK; moe_buffer_size 8k; }
    location /real/ {
        rewrite ^/real(/.*)\$ \$1 break;
        moe_pass unix:$e->{sock};
    }
    location = /status { moe_status; }
EOC

sub command {
    my ($uri, $body, $options) = @_;

    my $file = "$dir/body." . int rand 1e9;
    open my $f, '>', $file or die;
    print $f JSON::PP::encode_json($body);
    close $f;

    return "$curl -sk --http3-only -N @{[ $options // '' ]} "
           . "--data-binary \@$file https://127.0.0.1:$port$uri";
}

sub ask { my $command = command(@_); return scalar `$command` }

# a stream, one token after another
open my $pipe, '-|', command('/v1/completions?stream',
                             { prompt => 'tokens=10 text=ab delay=100',
                               stream => \1 }) or die;
my ($text, @at) = ('');

while (sysread $pipe, my $data, 65536) {
    $text .= $data;
    push @at, time if $data =~ /"text"/;
}

close $pipe;
my $d = MoeTest::sse($text);
is($d->{content}, 'ab' x 10, 'a stream has all its tokens');
is($d->{done} . $d->{framed}, '11', 'and its end');
cmp_ok(scalar @at, '>=', 6, 'they come one after another');
like($s->log_line(qr/\?stream/), qr{^HTTP/3\.0\|200\|stop\|10\|200\|},
     'by HTTP/3');

# a whole reply, its headers
$text = ask('/v1/completions?whole', { prompt => 'tokens=3 text=ab' }, '-i');
like($text, qr{^HTTP/3 200.*^x-request-id: [0-9a-f]{32}\r$}ims, 'headers');
my ($json) = $text =~ /(\{.*\})\s*\z/s;
is(JSON::PP::decode_json($json)->{choices}[0]{text}, 'ababab',
   'a whole reply');

# errors are statuses
like(ask('/v1/completions', {}, '-i'), qr{^HTTP/3 400}, 'a request that is wrong');
like(ask('/v1/completions', { prompt => 'status=503 retry=7' }, '-i'),
     qr{^HTTP/3 503.*^retry-after: 7\r$}ims, 'a full queue');
like(ask('/nothing/', {}, '-i'), qr{^HTTP/3 404}, 'a path that is not there');

# what is larger than windows and buffers
$d = MoeTest::sse(ask('/v1/completions?large',
                      { prompt => 'tokens=900 size=1500', stream => \1 }));
is(length $d->{content}, 1350000, 'a large stream');
is($d->{done}, 1, 'and its end');
$text = ask('/v1/completions', { prompt => 'tokens=900 size=1500' });
is(length(JSON::PP::decode_json($text)->{choices}[0]{text}), 1350000,
   'a large reply');
$text = ask('/v1/completions', { prompt => 'tokens=1 text=ab ' . 'x ' x 5e5 });
is(JSON::PP::decode_json($text)->{choices}[0]{text}, 'ab',
   'a large request');

# the model that ships
my $story = { messages => [ { role => 'user', content => 'Tell me a story.' } ],
              max_tokens => 60, temperature => 0 };
$d = MoeTest::sse(ask('/real/v1/chat/completions',
                      { %$story, stream => \1 }));
my $c = $s->post('/real/v1/chat/completions', $story);
$c->rest;
is($d->{content}, $c->text, 'a real answer is the one of HTTP/1');

# a client that closes its connection: cancelled within a step
ask('/v1/completions?gone', { prompt => 'tokens=2000 delay=10', stream => \1 },
    '-m 1');
my ($n) = $s->log_line(qr/\?gone/)
          =~ /^HTTP\/3\.0\|200\|cancelled\|(\d+)\|499\|/;
ok($n, 'a client that goes: cancelled, and counted');
cmp_ok($n // 9999, '<', 150, 'at once');

# and one that waits in the queue, and one that waits for a whole reply
ask('/v1/completions?waiting', { prompt => 'start=20000' }, '-m 1');
like($s->log_line(qr/\?waiting/), qr/^HTTP\/3\.0\|499\|cancelled\|0\|499\|/,
     'the same in the queue');
ask('/v1/completions?silent', { prompt => 'tokens=2000 delay=10' }, '-m 1');
like($s->log_line(qr/\?silent/),
     qr/^HTTP\/3\.0\|499\|cancelled\|[1-9]\d*\|499\|/,
     'the same of a reply that is not streamed');

# a request that is given up while the connection stays: its stream is reset
my $first = command('/v1/completions?reset',
                    { prompt => 'tokens=2000 delay=10', stream => \1 },
                    "-Z -m 1 -o $dir/reset");
my $second = command('/v1/completions?stays',
                     { prompt => 'tokens=20 text=ab delay=100',
                       stream => \1 }, "-o $dir/stays");
$second =~ s/^\Q$curl\E//;
system("$first --next $second");
($n) = $s->log_line(qr/\?reset/) =~ /\|200\|cancelled\|(\d+)\|499\|/;
ok($n && $n < 150, 'a stream that is reset is cancelled');
open my $f, '<', "$dir/stays" or die;
$d = MoeTest::sse(do { local $/; <$f> });
is($d->{content}, 'ab' x 20, 'its neighbour goes on');

is(Live::await(sub { $s->status->{nginx}{active} == 0 }), 1,
   'nothing is left');
unlike($s->errors, qr/\[(alert|crit|emerg)\]/, 'nothing bad is logged');

done_testing();
