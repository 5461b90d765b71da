# moe_status: JSON and Prometheus text.

use Test::Nginx::Socket 'no_plan';
use MoeTest;

moe_plan();
moe_puppet('a', '--model', 'red', '--model', 'blue');

our @own = qw(requests active finished cancelled failed refused retries
    prompt_tokens cached_tokens completion_tokens events event_bytes lanes
    lanes_lost violations);
our @theirs = qw(state progress started ranks ranks_up rank_restarts waiting
    running parked accepted finished cancelled failed refused refused_share
    refused_full refused_late refused_memory queue_timeouts displaced
    prompt_tokens cached_tokens completion_tokens draft_tokens draft_accepted
    steps kv_pages kv_pages_used kv_pages_cached lanes lanes_broken placements
    skew_before_thousandths skew_thousandths steps_in_halves
    halves_sizes halves_rows halves_gain_thousandths);

# a histogram is cumulative and its count is the last bucket's and more
sub histogram {
    my ($h, $name) = @_;
    my $last = 0;
    for my $le (sort { $a <=> $b } keys %{$h->{buckets}}) {
        Test::More::ok($h->{buckets}{$le} >= $last, "$name $le: not falling");
        $last = $h->{buckets}{$le};
    }
    Test::More::ok($h->{count} >= $last, "$name: count");
    Test::More::ok($h->{sum} >= 0, "$name: sum");
}

# every sample belongs to a family that was announced; histograms have +Inf
sub prometheus {
    my ($text) = @_;
    my (%type, %help, %seen, $bad);

    for (split /\n/, $text) {
        if (/^# HELP (\S+) \S/) {
            $bad = "HELP twice: $_" if $help{$1}++;

        } elsif (/^# TYPE (\S+) (counter|gauge|histogram)$/) {
            $bad = "TYPE twice: $_" if exists $type{$1};
            $type{$1} = $2;

        } elsif (/^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-z_]+="[^"]*",?)*\})? (\d+(?:\.\d+)?)$/) {
            my ($name, $labels) = ($1, $2 // '');
            $bad = "twice: $_" if $seen{"$name$labels"}++;
            my $family = $name;
            $family =~ s/_(?:bucket|sum|count)$// if !$type{$name};
            $bad = "no family: $_" if !$type{$family};
            $bad = "no help: $_" if !$help{$family};
            $bad = "a counter that is not called so: $_"
                if ($type{$family} // '') eq 'counter' && $name !~ /_total$/;
        } else {
            $bad = "not a line: $_";
        }
    }

    Test::More::is($bad, undef, 'the text is as Prometheus wants it');
    return \%seen;
}

run_tests();

__DATA__

=== TEST 1: the schema of the JSON; the engine's page may be 100 ms old
--- config
location / { moe_pass engine; }
location = /status { moe_status; }
--- request eval
["POST /v1/completions\n{\"prompt\":\"One\",\"max_tokens\":5,\"ignore_eos\":true,\"temperature\":0}",
 "GET /status"]
--- response_headers eval
["Content-Type: application/json", "Content-Type: application/json"]
--- json eval
["object exists", "nginx.version ~ ^\\d+\\.\\d+\\.\\d+\$
nginx.pid > 1
fresh: nginx.requests = 1
nginx.active = 0
fresh: nginx.finished = 1
fresh: nginx.failed = 0
fresh: nginx.completion_tokens = 5
fresh: nginx.lanes = 1
fresh: nginx.violations = 0
fresh: nginx.ttft_seconds.count = 1
engines # 1
engines.0.up = true
engines.0.engine ~ ^unix:
engines.0.models = [\"demo\"]
engines.0.state = 1
engines.0.progress = 1000
engines.0.ranks = 1
engines.0.ranks_up = 1
engines.0.kv_pages > 0
engines.0.running < 2"]
--- check eval
[sub {}, sub { my ($d) = @_;
    for (@::own) { Test::More::like($d->{nginx}{$_}, qr/^\d+$/, "nginx: $_"); }
    for (@::theirs) { Test::More::like($d->{engines}[0]{$_}, qr/^\d+$/, "engine: $_"); }
    ::histogram($d->{nginx}{$_}, $_) for qw(ttft_seconds itl_seconds);
    ::histogram($d->{engines}[0]{$_}, $_)
        for qw(queue_seconds ttft_seconds itl_seconds); }]



=== TEST 2: finished, refused, failed; an engine's figures
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; }
location = /status { moe_status json; }
--- request eval
["POST /v1/completions\n{\"prompt\":\"tokens=3\"}",
 "POST /v1/completions\n{\"prompt\":\"tokens=3\",\"n\":99}",
 "POST /v1/completions\n{\"prompt\":\"tokens=3 fail=1\"}",
 "GET /status"]
--- error_code eval
[200, 400, 500, 200]
--- json eval
["object exists", "error exists", "error exists",
 "fresh: nginx.requests = 3
fresh: nginx.finished = 1
fresh: nginx.refused = 1
fresh: nginx.failed = 1
nginx.active = 0
fresh: nginx.completion_tokens = 4
engines.0.models = [\"red\",\"blue\"]"]



=== TEST 3: cancelled
--- config
location / { moe_pass unix:$TEST_NGINX_A_SOCK; moe_queue_timeout 100ms; }
location = /status { moe_status json; }
--- request eval
["POST /v1/completions\n{\"prompt\":\"start=5000\"}", "GET /status"]
--- error_code eval
[503, 200]
--- json eval
["error exists", "fresh: nginx.cancelled = 1\nnginx.active = 0"]



=== TEST 4: an engine that is not there
--- http_config
upstream all { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_NONE_SOCK; }
--- config
location / { moe_pass all; }
location = /status { moe_status; }
--- request
GET /status
--- json
engines # 2
engines.0.up = true
engines.1.up = false
engines.1.models absent
--- ignore_alerts



=== TEST 5: an engine of two upstreams is listed once
--- http_config
upstream one { server unix:$TEST_NGINX_A_SOCK; }
upstream two { server unix:$TEST_NGINX_A_SOCK; }
--- config
location / { moe_pass one; }
location /two/ { moe_pass two; }
location = /status { moe_status; }
--- request
GET /status
--- json
engines # 1



=== TEST 6: Prometheus
--- config
location / { moe_pass engine; }
location = /metrics { moe_status prometheus; }
--- request eval
["POST /v1/completions\n{\"prompt\":\"One\",\"max_tokens\":5,\"ignore_eos\":true}",
 "GET /metrics"]
--- response_headers eval
["Content-Type: application/json",
 "Content-Type: text/plain; version=0.0.4; charset=utf-8"]
--- check eval
[sub {}, sub { my ($d, $text) = @_;
    my $seen = ::prometheus($text);
    Test::More::like($text, qr/^moe_requests_total [1-9]\d*$/m, 'a counter');
    Test::More::like($text, qr/^moe_active 0$/m, 'a gauge');
    Test::More::like($text, qr/^moe_engine_up\{engine="unix:[^"]+"\} 1$/m, 'an engine');
    Test::More::like($text, qr/^moe_ttft_seconds_bucket\{le="\+Inf"\} [1-9]\d*$/m, 'a histogram');
    Test::More::like($text, qr/^moe_engine_itl_seconds_count\{engine="unix:[^"]+"\} \d+$/m, 'an engine\'s');
    for (@::own) { Test::More::ok($seen->{"moe_$_"} || $seen->{"moe_${_}_total"}, $_); } }]



=== TEST 7: Prometheus, one engine is not there
--- http_config
upstream all { server unix:$TEST_NGINX_A_SOCK; server unix:$TEST_NGINX_NONE_SOCK; }
--- config
location / { moe_pass all; }
location = /metrics { moe_status prometheus; }
--- request
GET /metrics
--- check eval
sub { my ($d, $text) = @_;
    ::prometheus($text);
    Test::More::is(scalar(() = $text =~ /^moe_engine_up/mg), 2, 'both'); }
--- ignore_alerts



=== TEST 8: ?format= asks for the other one
--- config
location / { moe_pass engine; }
location = /status { moe_status; }
location = /metrics { moe_status prometheus; if ($arg_if) { set $x 1; } }
--- request eval
["GET /status?format=prometheus", "GET /metrics?format=json",
 "GET /metrics?if=1"]
--- response_headers eval
["Content-Type: text/plain; version=0.0.4; charset=utf-8",
 "Content-Type: application/json",
 "Content-Type: text/plain; version=0.0.4; charset=utf-8"]
--- error_code eval
[200, 200, 200]



=== TEST 9: methods
--- early
--- config
location / { moe_pass engine; }
location = /status { moe_status; }
--- request eval
["POST /status\n{}", "HEAD /status", "DELETE /status"]
--- error_code eval
[405, 200, 405]
--- response_body eval
[qr/405/, "", qr/405/]



=== TEST 10: allow and deny
--- config
location / { moe_pass engine; }
location = /status { deny all; moe_status; }
--- request
GET /status
--- error_code: 403
--- error_log
access forbidden by rule



=== TEST 11: no moe_pass at all
--- config
location = /status { moe_status; }
--- request
GET /status
--- json
engines # 0
fresh: nginx.requests = 0



=== TEST 12: experts of an engine that has none spread
--- config
location / { moe_pass engine; }
location = /status { moe_status; }
location = /experts { moe_status experts; }
location = /heat { moe_status heat; }
--- request eval
["GET /experts", "GET /heat", "GET /status?format=experts",
 "GET /status?format=heat"]
--- response_headers eval
["Content-Type: application/json", "Content-Type: text/html; charset=utf-8",
 "Content-Type: application/json", "Content-Type: text/html; charset=utf-8"]
--- response_body_like eval
[qr/^\{"engines":\[\{"engine":"unix:[^"]+","up":true\}\]\}$/,
 qr/<h1>unix:[^<]+<\/h1>\n<p>Its experts are not spread/,
 qr/^\{"engines":\[\{"engine":"unix:[^"]+","up":true\}\]\}$/,
 qr/<\/html>\n\z/]
--- error_code eval
[200, 200, 200, 200]
