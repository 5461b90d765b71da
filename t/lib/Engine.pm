package Engine;

# A real engine of a test's own, with the model that ships:
#
#     my $e = Engine->start('--ranks', 2);
#     $e->{sock}, $e->pid, $e->ranks, $e->kill('KILL'), $e->again
#
# Its log is $e->log. It ends with the test.

use strict;
use warnings;

use File::Temp qw(tempdir);
use POSIX ();
use Time::HiRes qw(sleep time);

sub program { return $ENV{TEST_NGINX_MOE_PROGRAM} || 'build/moe-engine' }
sub model { return ($ENV{TEST_NGINX_MOE_ROOT} || '.') . '/models/demo' }

sub start {
    my ($class, @args) = @_;

    my $dir = tempdir('moe-live-e-XXXXXX', TMPDIR => 1, CLEANUP => 0);
    my $self = bless { dir => $dir, sock => "$dir/e.sock", args => \@args,
                       owner => $$ }, $class;

    chmod 0755, $dir;
    $self->again;

    return $self;
}

# starts it (again), returns when it is ready
sub again {
    my ($self) = @_;

    my $seen = () = $self->log =~ / ready model=/g;

    my $pid = fork();
    die "fork: $!" unless defined $pid;

    if ($pid == 0) {
        POSIX::setsid();
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', "$self->{dir}/log";
        open STDERR, '>>', "$self->{dir}/log";
        exec(program(), 'serve', '-m', model(), '--model-name', 'demo',
             '--threads', 1, '--kv-memory', '150m', '--socket',
             $self->{sock}, '--socket-mode', '0666', @{$self->{args}})
            or POSIX::_exit(127);
    }

    $self->{pid} = $pid;

    my $end = time + 20;

    while (time < $end) {
        my $n = () = $self->log =~ / ready model=/g;
        return $self if $n > $seen;
        last if waitpid($pid, POSIX::WNOHANG()) == $pid;
        sleep 0.02;
    }

    die "the engine does not start: " . $self->log;
}

sub pid { return $_[0]{pid} }

sub log {
    my ($self) = @_;

    open my $f, '<', "$self->{dir}/log" or return '';
    local $/;

    return <$f> // '';
}

sub ranks { return children($_[0]{pid}) }

# the front, and with it its ranks
sub kill {
    my ($self, $signal) = @_;

    CORE::kill $signal, $self->{pid};
    waitpid $self->{pid}, 0;
}

sub stop {
    my ($self) = @_;

    my $pid = delete $self->{pid} or return;

    CORE::kill 'KILL', -$pid, $pid;
    waitpid $pid, 0;
}

sub DESTROY {
    my ($self) = @_;

    return if $self->{owner} != $$;

    local $?;
    $self->stop;
    system('rm', '-rf', $self->{dir}) unless $ENV{TEST_NGINX_KEEP};
}


# of any process

sub children {
    my ($pid) = @_;

    open my $f, '<', "/proc/$pid/task/$pid/children" or return ();

    return split ' ', <$f> // '';
}

sub fds {
    my ($pid) = @_;

    opendir my $d, "/proc/$pid/fd" or return 0;
    my @fds = grep { /^\d/ } readdir $d;

    return scalar @fds;
}

sub memfds {
    my ($pid) = @_;

    my @fds = grep { (readlink($_) // '') =~ /memfd/ } glob "/proc/$pid/fd/*";

    return scalar @fds;
}

# resident, in kilobytes
sub rss {
    my ($pid) = @_;

    open my $f, '<', "/proc/$pid/status" or return 0;
    local $/;
    my ($n) = <$f> =~ /^VmRSS:\s+(\d+)/m;

    return $n // 0;
}

sub alive {
    my ($pid) = @_;

    open my $f, '<', "/proc/$pid/stat" or return 0;
    my ($state) = <$f> =~ /^\d+ \(.*\) (\S)/;

    return ($state // 'Z') ne 'Z';
}

1;
