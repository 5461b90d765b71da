package Live;

# An nginx of a test's own, for what Test::Nginx has no words for: arrival
# times, slow readers, reload under load. Used beside Puppet and Engine:
#
#     my $s = Live->new(http => '...', server => '...');
#     my $c = $s->post('/v1/completions', { prompt => 'tokens=3' });
#     print $c->rest, $c->text;
#     Live::gather(20, @clients);
#     is($s->log_line(qr/.../), ...);

use strict;
use warnings;

use File::Temp qw(tempdir);
use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use Time::HiRes qw(sleep time);

# tests that run side by side have neighbouring process numbers

my $next = 21000 + $$ * 50 % 20000;

sub port {
    for (1 .. 100) {
        my $port = $next++;
        my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
                                      LocalPort => $port, Listen => 1,
                                      ReuseAddr => 1) or next;
        close $s;
        return $port;
    }

    die "no port";
}

sub new {
    my ($class, %o) = @_;

    my $dir = tempdir('moe-live-XXXXXX', TMPDIR => 1, CLEANUP => 0);
    my $self = bless { dir => $dir, port => port(), %o, owner => $$ },
               $class;

    chmod 0755, $dir;
    $self->conf(%o);

    $self->nginx() == 0 or die "nginx does not start: " . $self->errors;

    await(sub { -s "$dir/nginx.pid" && $self->workers });

    return $self;
}

sub conf {
    my ($self, %o) = @_;

    my $dir = $self->{dir};
    my $workers = $o{workers} // 1;
    my $main = $o{main} // '';
    my $http = $o{http} // '';
    my $server = $o{server} // '';
    my $log = $o{log} // '$status|$moe_finish_reason|$moe_prompt_tokens|'
              . '$moe_completion_tokens|$upstream_status|$request_uri|'
              . '$body_bytes_sent|$moe_engine';
    my $events = $o{events} // '';

    $_ =~ s/\$TEST_NGINX_([A-Z_]+)/$ENV{"TEST_NGINX_$1"}/g
        for $http, $server, $main;

    my @modules = split / /, $ENV{TEST_NGINX_LOAD_MODULES} // '';
    my $modules = join '', map { "load_module $_;\n" } @modules;

    open my $f, '>', "$dir/nginx.conf" or die;
    print $f <<"_EOC_";
$modules
@{[ $> == 0 ? 'user root;' : '' ]}
worker_processes $workers;
pid $dir/nginx.pid;
error_log $dir/error.log @{[ $o{level} // 'info' ]};
$main
events { worker_connections 4096; $events }
http {
    access_log off;
    client_body_temp_path $dir/body;
    proxy_temp_path $dir/proxy;
    fastcgi_temp_path $dir/fastcgi;
    uwsgi_temp_path $dir/uwsgi;
    scgi_temp_path $dir/scgi;
    log_format moe '$log';
    $http
    server {
        listen 127.0.0.1:$self->{port} @{[ $o{listen} // '' ]};
        access_log $dir/access.log moe;
        $server
    }
}
_EOC_
    close $f;
}

sub nginx {
    my ($self, @args) = @_;

    my $bin = $ENV{TEST_NGINX_BINARY} || 'nginx';

    return system($bin, '-p', $self->{dir}, '-e', "$self->{dir}/error.log",
                  '-c', "$self->{dir}/nginx.conf", @args);
}

sub pid {
    my ($self) = @_;

    open my $f, '<', "$self->{dir}/nginx.pid" or return;
    my $pid = <$f>;
    chomp $pid;

    return $pid;
}

sub workers {
    my ($self, $pid) = @_;

    $pid ||= $self->pid;
    open my $f, '<', "/proc/$pid/task/$pid/children" or return ();

    return split ' ', <$f> // '';
}

sub slurp {
    my ($self, $name) = @_;

    open my $f, '<', "$self->{dir}/$name" or return '';
    local $/;

    return <$f> // '';
}

sub errors { return $_[0]->slurp('error.log') }

# the first line of the access log that matches, waited for
sub log_line {
    my ($self, $re, $seconds) = @_;

    my $end = time + ($seconds // 5);

    do {
        for (split /\n/, $self->slurp('access.log')) {
            return $_ if $_ =~ $re;
        }

        sleep 0.02;
    } while (time < $end);

    return '';
}

sub wait_error {
    my ($self, $re, $seconds) = @_;

    my $end = time + ($seconds // 5);

    do {
        return 1 if $self->errors =~ $re;
        sleep 0.02;
    } while (time < $end);

    return 0;
}

sub connect {
    my ($self, %o) = @_;

    my $sock = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                     PeerPort => $self->{port}) or die "$!";
    if ($o{rcvbuf}) {
        close $sock;
        $sock = IO::Socket::INET->new(Proto => 'tcp') or die "$!";
        setsockopt($sock, Socket::SOL_SOCKET(), Socket::SO_RCVBUF(),
                   $o{rcvbuf});
        CORE::connect($sock, Socket::pack_sockaddr_in($self->{port},
                      Socket::inet_aton('127.0.0.1'))) or die "$!";
    }

    return bless { sock => $sock, buf => '' }, 'Live::Client';
}

sub post {
    my ($self, $uri, $body, %o) = @_;

    my $c = $self->connect(%o);
    $c->send_post($uri, $body, %o);

    return $c;
}

sub get {
    my ($self, $uri) = @_;

    my $c = $self->connect;
    $c->write("GET $uri HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");

    return $c->rest;
}

# moe_status, at the location /status
sub status {
    my ($self) = @_;

    my ($json) = $self->get('/status') =~ /(\{.*\})/s or return {};

    return JSON::PP::decode_json($json);
}

sub hup {
    my ($self) = @_;

    return kill 'HUP', $self->pid;
}

# after a reload: workers that are none of the old ones
sub new_workers {
    my ($self, @old) = @_;

    my %old = map { $_ => 1 } @old;

    return await(sub {
        my @new = grep { !$old{$_} } $self->workers;
        return @new == ($self->{workers} // 1) ? \@new : undef;
    }, 10);
}

# what the sub returns, as soon as that is true
sub await {
    my ($sub, $seconds) = @_;

    my $end = time + ($seconds // 10);

    for ( ;; ) {
        my $rc = $sub->();
        return $rc if $rc || time > $end;
        sleep 0.02;
    }
}

# reads all of them until each has ended; how many have
sub gather {
    my ($seconds, @clients) = @_;

    my $end = time + $seconds;
    my %left = map { fileno($_->{sock}) => $_ } @clients;
    my $sel = IO::Select->new(map { $_->{sock} } @clients);

    while (%left && time < $end) {
        for my $sock ($sel->can_read($end - time)) {
            my $c = $left{fileno $sock};

            next if $c->more(0);

            $sel->remove($sock);
            delete $left{fileno $sock};
        }
    }

    return @clients - keys %left;
}

sub stop {
    my ($self) = @_;

    my $pid = $self->pid or return;

    kill 'TERM', $pid;

    for (1 .. 200) {
        last unless kill 0, $pid;
        sleep 0.02;
    }

    kill 'KILL', $pid;
}

sub DESTROY {
    my ($self) = @_;

    return if $self->{owner} != $$;

    local $?;
    $self->stop;
    system('rm', '-rf', $self->{dir}) unless $ENV{TEST_NGINX_KEEP};
}

package Live::Client;

use Time::HiRes qw(time);

sub write {
    my ($self, $data) = @_;

    my $off = 0;

    while ($off < length $data) {
        my $n = syswrite $self->{sock}, $data, length($data) - $off, $off;
        return 0 unless defined $n;
        $off += $n;
    }

    return 1;
}

sub send_post {
    my ($self, $uri, $body, %o) = @_;

    $body = JSON::PP::encode_json($body) if ref $body;
    my $close = $o{keepalive} ? '' : "Connection: close\r\n";

    $self->write("POST $uri HTTP/1.1\r\nHost: t\r\n$close"
                 . ($o{headers} // '')
                 . "Content-Length: " . length($body) . "\r\n\r\n$body");
}

# more bytes, or undef at the end or after the time
sub more {
    my ($self, $seconds) = @_;

    my $sel = IO::Select->new($self->{sock});
    return undef unless $sel->can_read($seconds // 10);

    my $n = sysread $self->{sock}, my $data, 65536;
    return undef unless $n;

    $self->{buf} .= $data;

    return $n;
}

# reads until what came matches; 1 or 0
sub until {
    my ($self, $re, $seconds) = @_;

    my $end = time + ($seconds // 10);

    while ($self->{buf} !~ $re) {
        my $left = $end - time;
        return 0 if $left <= 0;
        return 0 unless $self->more($left);
    }

    return 1;
}

# all there is until the end of the connection
sub rest {
    my ($self, $seconds) = @_;

    my $end = time + ($seconds // 20);

    while (time < $end && $self->more($end - time)) { }

    return $self->{buf};
}

# of what has come so far

sub status {
    my ($self) = @_;

    return $self->{buf} =~ m{^HTTP/1\.1 (\d+)} ? $1 : 0;
}

sub body {
    my ($self) = @_;

    my ($head, $body) = split /\r\n\r\n/, $self->{buf}, 2;
    return '' unless defined $body;
    return $body unless $head =~ /^Transfer-Encoding: chunked/mi;

    my $plain = '';

    while ($body =~ s/^([0-9a-f]+)\r\n//) {
        my $n = hex $1;
        $plain .= substr $body, 0, $n, '';
        $body =~ s/^\r\n//;
    }

    return $plain;
}

# nginx ended it as it should
sub whole {
    my ($self) = @_;

    return $self->{buf} =~ /^Transfer-Encoding: chunked/mi
           ? $self->{buf} =~ /\r\n0\r\n\r\n\z/
           : $self->{buf} =~ /\r\n\r\n/;
}

# the JSON of a reply, or of each of a stream's events
sub events {
    my ($self) = @_;

    my $body = $self->body;

    return JSON::PP::decode_json($body) if $body =~ /^\{/;
    return map { JSON::PP::decode_json($_) } $body =~ /^data: (\{.*\})$/mg;
}

# the text of a choice; a stream's without parsing all of it
sub text {
    my ($self, $index) = @_;

    $index //= 0;

    my $body = $self->body;
    my $text = '';

    if ($body =~ /^\{/) {
        for my $c (@{JSON::PP::decode_json($body)->{choices} || []}) {
            next if $c->{index} != $index;
            $text = ($c->{message} ? $c->{message}{content} : $c->{text});
        }

        return $text;
    }

    while ($body =~ /^data:\ .*?"index":(\d+),(?:"delta":\{[^{}]*?"content"
                     |"text"):"((?:[^"\\]|\\.)*)"/gmx)
    {
        $text .= $2 if $1 == $index;
    }

    return JSON::PP::decode_json("[\"$text\"]")->[0];
}

sub error {
    my ($self) = @_;

    my ($error) = map { $_->{error} || () } $self->events;

    return $error;
}

sub done { return $_[0]->body =~ /^data: \[DONE\]\n\n\z/m }

sub close {
    my ($self) = @_;

    CORE::close $self->{sock};
}

1;
