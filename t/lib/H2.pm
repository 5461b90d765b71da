package H2;

# As much of an HTTP/2 client as it takes to begin streams and to leave them:
#
#     my $h = H2->new($sock);            # cleartext, or TLS with ALPN h2
#     $h->post(1, '/v1/completions', { prompt => '...' });
#     $h->until(1, qr/tok /);
#     $h->reset(1);

use strict;
use warnings;

use IO::Select;
use JSON::PP ();
use Time::HiRes qw(time);

sub new {
    my ($class, $sock) = @_;

    my $self = bless { sock => $sock, in => '', data => {}, ended => {} },
               $class;

    $self->write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . frame(4, 0, 0, ''));

    return $self;
}

sub frame {
    my ($type, $flags, $stream, $payload) = @_;

    return substr(pack('N', length $payload), 1)
           . pack('CCN', $type, $flags, $stream) . $payload;
}

sub write {
    my ($self, $data) = @_;

    return syswrite $self->{sock}, $data;
}

# each header as a literal of its own
sub post {
    my ($self, $stream, $path, $body) = @_;

    $body = JSON::PP::encode_json($body);

    my $head = join '', map { pack 'C C/a C/a', 0, @$_ }
               ([':method', 'POST'], [':scheme', 'http'],
                [':authority', 't'], [':path', $path],
                ['content-length', length $body]);

    return $self->write(frame(1, 4, $stream, $head)
                        . frame(0, 1, $stream, $body));
}

# RST_STREAM, CANCEL
sub reset {
    my ($self, $stream) = @_;

    return $self->write(frame(3, 0, $stream, pack 'N', 8));
}

# one frame more; 0 at the end or after the time
sub more {
    my ($self, $seconds) = @_;

    my $end = time + $seconds;

    for ( ;; ) {
        if (length $self->{in} >= 9) {
            my ($n, $type, $flags, $stream) =
                unpack 'N C C N', "\0" . substr $self->{in}, 0, 9;

            if (length $self->{in} >= 9 + $n) {
                my $payload = substr $self->{in}, 9, $n;
                substr $self->{in}, 0, 9 + $n, '';
                $self->take($type, $flags, $stream, $payload);
                return 1;
            }
        }

        my $ready = $self->{sock}->can('pending') && $self->{sock}->pending;
        my $left = $end - time;

        return 0 if $left <= 0;
        return 0 unless $ready
                        || IO::Select->new($self->{sock})->can_read($left);

        my $got = sysread $self->{sock}, my $data, 16384;
        return 0 unless $got;
        $self->{in} .= $data;
    }
}

sub take {
    my ($self, $type, $flags, $stream, $payload) = @_;

    if ($type == 0) {
        $self->{data}{$stream} .= $payload;
        $self->{ended}{$stream} = 1 if $flags & 1;

        if (length $payload) {
            my $more = pack 'N', length $payload;
            $self->write(frame(8, 0, 0, $more) . frame(8, 0, $stream, $more));
        }

    } elsif ($type == 3) {
        $self->{ended}{$stream} = 'reset';

    } elsif ($type == 4 && !($flags & 1)) {
        $self->write(frame(4, 1, 0, ''));
    }
}

# reads until what came of a stream matches; 1 or 0
sub until {
    my ($self, $stream, $re, $seconds) = @_;

    my $end = time + ($seconds // 10);

    while (($self->{data}{$stream} // '') !~ $re) {
        my $left = $end - time;
        return 0 if $left <= 0;
        return 0 unless $self->more($left);
    }

    return 1;
}

# reads until the stream has ended; its data
sub rest {
    my ($self, $stream, $seconds) = @_;

    my $end = time + ($seconds // 20);

    while (!$self->{ended}{$stream} && time < $end) {
        last unless $self->more($end - time);
    }

    return $self->{data}{$stream} // '';
}

1;
