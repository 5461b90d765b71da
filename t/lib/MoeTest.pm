package MoeTest;

# What the Test::Nginx suites share.  It adds sections to a block:
#
#   chat, completion, tokenize, detokenize
#              the request is a POST of this JSON to that endpoint
#   fields     chat only: JSON members beside "messages"
#   refuses    one request a line: "STATUS PARAM CODE {JSON}"; "-" is null.
#              The path is the block's "endpoint", default chat; for members
#              instead of an object, "messages" or "prompt" is added
#   accepts    one request a line, {JSON} or members; each is answered 200
#   json       lines that are true of the reply: see holds()
#   sse        the same of a stream, after its framing was checked: see sse()
#   aborted    the request is made by HTTP/1.0
#   early      the reply does not wait for the request's body
#   check      eval: a sub that is given the decoded reply
#   ignore_alerts
#
# Without "config" all goes to the real engine.  In every block that does not
# say otherwise, error.log has no [alert], [crit] or [emerg].

use strict;
use warnings;

use Exporter 'import';
use JSON::PP;
use Puppet;
use Test::More ();
use Test::Nginx::Socket ();

our @EXPORT = qw(moe_plan moe_puppet);

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

my %endpoint = (
    chat       => '/v1/chat/completions',
    completion => '/v1/completions',
    tokenize   => '/tokenize',
    detokenize => '/detokenize',
);

my %base = (
    '/v1/chat/completions' => '"messages":[{"role":"user","content":"Hi"}]',
    '/v1/completions'      => '"prompt":"Once"',
    '/tokenize'            => '"prompt":"Once"',
    '/detokenize'          => '"tokens":[5]',
);


sub moe_plan() {
    Test::Nginx::Util::no_root_location();
    Test::Nginx::Util::no_long_string();
    Test::Nginx::Util::master_on();
    Test::Nginx::Util::log_level($ENV{TEST_NGINX_LOG_LEVEL} || 'info');

    $ENV{TEST_NGINX_MOE_ENGINE}
        or die "no engine: run this by tools/test-nginx.sh\n";

    $ENV{TEST_NGINX_TIMEOUT} or Test::Nginx::Util::timeout(10);
}


# an engine on strings for this file's tests: $TEST_NGINX_<NAME>_SOCK

sub moe_puppet($@) {
    return Puppet::start(@_);
}


sub path($$) {
    my ($doc, $path) = @_;

    for my $key (split /\./, $path) {
        if (ref $doc eq 'ARRAY') {
            return unless $key =~ /^-?\d+$/ && exists $doc->[$key];
            $doc = $doc->[$key];

        } elsif (ref $doc eq 'HASH') {
            return unless exists $doc->{$key};
            $doc = $doc->{$key};

        } else {
            return;
        }
    }

    return (1, $doc);
}


# "PATH = JSON", "PATH != JSON", "PATH ~ REGEX", "PATH !~ REGEX",
# "PATH > NUMBER", "PATH < NUMBER", "PATH == PATH", "PATH # LENGTH",
# "PATH exists", "PATH absent"; after "fresh:" only where nginx was started for
# the block, as counters are kept across a reload

sub holds($$) {
    my ($doc, $line) = @_;

    my ($path, $op, $want) = $line =~ /^\s*(\S+)\s+(\S+)\s*(.*?)\s*$/
        or die "not a condition: $line";

    my ($found, $value) = path($doc, $path);

    return $found ? 0 : 1 if $op eq 'absent';
    return 0 unless $found;
    return 1 if $op eq 'exists';

    my $text = ref $value || !defined $value ? $json->encode($value) : $value;

    return $json->encode($value) eq $json->encode($json->decode($want))
        if $op eq '=' && $want !~ /^-?\d/;
    return defined $value && !ref $value && $value == $want if $op eq '=';
    return $json->encode($value) ne $json->encode($json->decode($want))
        if $op eq '!=';
    return $text =~ /$want/ if $op eq '~';
    return $text !~ /$want/ if $op eq '!~';
    return $value > $want if $op eq '>';
    return $value < $want if $op eq '<';
    return @$value == $want if $op eq '#';

    if ($op eq '==') {
        my ($there, $other) = path($doc, $want);
        return $there && $json->encode($value) eq $json->encode($other);
    }

    die "no such operator: $line";
}


# the frames of a stream as one document: chunks, n, done (how many [DONE]),
# comments; content (of choice 0, a chat's or a completion's), contents,
# roles, finishes (by index), order (of the choices), usage, error, frames

sub sse($) {
    my ($body) = @_;

    my %d = (chunks => [], done => 0, comments => 0, contents => {},
             finishes => {}, roles => {}, usage => undef, framed => 0,
             order => '', after => 0);

    return \%d if !defined $body;

    my @frames = split /\n\n/, $body, -1;
    $d{framed} = @frames && pop(@frames) eq '' ? 1 : 0;

    for my $frame (@frames) {
        $d{after}++ if $d{done};

        if ($frame =~ /^: ?[^\n]*\z/) {
            $d{comments}++;

        } elsif ($frame eq 'data: [DONE]') {
            $d{done}++;

        } elsif ($frame =~ /^data: ([^\n]+)\z/) {
            my $chunk = eval { $json->decode($1) };

            if (!$chunk) {
                $d{framed} = 0;
                next;
            }

            push @{$d{chunks}}, $chunk;
            $d{usage} = $chunk->{usage} if $chunk->{usage};
            $d{error} = $chunk->{error} if $chunk->{error};

            for my $c (@{$chunk->{choices} || []}) {
                my $i = $c->{index};
                my $text = $c->{delta} ? $c->{delta}{content} : $c->{text};

                $d{roles}{$i} .= $c->{delta}{role}
                    if $c->{delta} && defined $c->{delta}{role};
                $d{contents}{$i} .= $text if defined $text;
                $d{order} .= $i if defined $text && length $text;
                $d{finishes}{$i} = $c->{finish_reason}
                    if defined $c->{finish_reason};
            }

        } else {
            $d{framed} = 0;
        }
    }

    $d{n} = @{$d{chunks}};
    $d{frames} = @frames;
    $d{content} = $d{contents}{0};

    return \%d;
}


sub body($$) {
    my ($path, $json) = @_;
    return $json if $json =~ /^\s*[\[{"]/ && $json !~ /^\s*"[a-z_]+"\s*:/;
    return "{$json}" if $json =~ /"(?:messages|prompt|tokens)"\s*:/;
    return "{$base{$path},$json}";
}


sub expand($) {
    my ($block) = @_;

    my $path = $block->endpoint || '/v1/chat/completions';
    chomp $path;

    my (@requests, @codes, @json);

    for (split /\n/, $block->refuses || '') {
        next if /^\s*(?:#|$)/;
        my ($status, $param, $code, $text) = /^(\S+)\s+(\S+)\s+(\S+)\s+(.*)$/
            or die "not a refusal: $_";

        push @requests, "POST $path\n" . body($path, $text);
        push @codes, $status;
        push @json, join "\n", 'error.message ~ .',
            'error.type = "invalid_request_error"',
            "error.param = " . ($param eq '-' ? 'null' : "\"$param\""),
            $code eq '*' ? () : "error.code = "
                . ($code eq '-' ? 'null' : "\"$code\"");
    }

    for (split /\n/, $block->accepts || '') {
        next if /^\s*(?:#|$)/;
        push @requests, "POST $path\n" . body($path, $_);
        push @codes, 200;
        push @json, $block->json || 'usage exists';
    }

    $block->set_value('request', \@requests);
    $block->set_value('error_code', \@codes);
    $block->set_value('json', \@json);
}


&Test::Nginx::Util::add_block_preprocessor(sub {
    my ($block) = @_;

    # Test::Nginx believes that "http2 on" is older than it is

    $Test::Nginx::Util::NginxVersion = '1.019008'
        if $ENV{TEST_NGINX_USE_HTTP2}
           && $Test::Nginx::Util::NginxVersion < 1.025001;

    # under valgrind all takes longer

    if ($ENV{TEST_NGINX_USE_VALGRIND}) {
        $block->set_value('wait', 2 + ($block->wait || 0));
        my ($n, $unit) = ($block->timeout || '') =~ /^(\d+)(ms|s)?/;
        $block->set_value('timeout', $n * 6 . ($unit || '')) if $n;
    }

    # curl has no such clients, and takes a reply that comes before its body
    # was sent for an error now and then, also that of nginx's own "return 404"

    $block->set_value('no_http2', 1)
        if defined $block->abort || defined $block->shutdown
           || defined $block->early;

    for my $name (keys %endpoint) {
        next unless defined $block->$name;
        my $text = $block->$name;
        chomp $text;
        $block->set_value('request', "POST $endpoint{$name}\n$text");
    }

    if (defined $block->fields) {
        my $fields = $block->fields;
        chomp $fields;
        $block->set_value('request', "POST $endpoint{chat}\n{"
                          . $base{$endpoint{chat}} . ",$fields}");
    }

    # a stream that is cut short has no last chunk: by HTTP/1.0 it needs none

    if (defined $block->aborted) {
        my ($line, $body) = $block->request =~ /^([^\n]+)\n(.*)$/s;
        $block->set_value('raw_request', "$line HTTP/1.0\r\nContent-Length: "
                          . length($body) . "\r\n\r\n$body");
    }

    expand($block) if defined $block->refuses || defined $block->accepts;

    my $http = <<"END";
    log_format moe 'M=\$moe_model S=\$moe_stream P=\$moe_prompt_tokens '
                   'C=\$moe_completion_tokens K=\$moe_cached_tokens '
                   'F=\$moe_finish_reason Q=\$moe_queue_time '
                   'T=\$moe_ttft O=\$moe_tpot E=\$moe_engine '
                   'I=\$moe_request_id s=\$status us=\$upstream_status '
                   'ua=\$upstream_addr .';
    upstream engine { server unix:$ENV{TEST_NGINX_MOE_ENGINE}; }
END

    $block->set_value('http_config', $http . ($block->http_config || ''));

    $block->set_value('config', "location / { moe_pass engine; }\n")
        if !defined $block->config;

    if (defined $block->must_die) {
        $block->set_value('error_log', $block->error_log . "[emerg]\n");
        $block->set_value('suppress_stderr', 1);
    }

    if (!defined $block->no_error_log && !defined $block->must_die
        && !defined $block->ignore_alerts)
    {
        $block->set_value('no_error_log', "[alert]\n[crit]\n[emerg]");
    }
});


sub conditions($$$$) {
    my ($name, $doc, $lines, $what) = @_;

    for my $line (split /\n/, $lines) {
        next if $line =~ /^\s*(?:#|$)/;
        next if $line =~ s/^fresh:\s*// && $ENV{TEST_NGINX_USE_HUP};
        next if Test::More::ok(holds($doc, $line), "$name - $what: $line");
        Test::More::diag(substr $json->encode($doc), 0, 2000);
    }
}


&Test::Nginx::Socket::add_response_body_check(sub {
    my ($block, $body, $i, $repeated, $dry_run) = @_;

    return if $dry_run;

    my $name = $block->name;
    my $want = ref $block->json eq 'ARRAY' ? $block->json->[$i] : $block->json;
    my $doc;

    if (defined $want) {
        $doc = eval { $json->decode($body) };
        Test::More::ok(defined $doc, "$name - the reply is JSON (req $i)")
            or Test::More::diag(substr $body // 'undef', 0, 500);
        conditions($name, $doc, $want, "req $i") if defined $doc;
    }

    $want = ref $block->sse eq 'ARRAY' ? $block->sse->[$i] : $block->sse;

    if (defined $want) {
        $doc = sse($body);
        Test::More::ok($doc->{framed} && !$doc->{after},
                       "$name - the stream is framed (req $i)")
            or Test::More::diag(substr $body // 'undef', 0, 1000);
        conditions($name, $doc, $want, "req $i");
    }

    my $check = ref $block->check eq 'ARRAY' ? $block->check->[$i]
                                             : $block->check;
    $check->($doc, $body, $name) if ref $check eq 'CODE';
});


1;
