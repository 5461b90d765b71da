package Puppet;

# Engines for the module's tests. A .t file says which it needs:
#
#     use lib 't/lib';
#     use Puppet;
#
#     Puppet::start('a');
#     Puppet::start('loading', '--loading', 420);
#
# and its configurations find their sockets as $TEST_NGINX_A_SOCK and
# $TEST_NGINX_LOADING_SOCK. What a puppet answers is written in the request:
# see t/tools/moe-puppet.c. A puppet that ends (die=0) is started again.
# $TEST_NGINX_NONE_SOCK is a socket that nobody listens on.

use strict;
use warnings;

use File::Temp qw(tempdir);
use POSIX ();
use Time::HiRes qw(sleep);

our $dir = tempdir('moe-t-XXXXXX', TMPDIR => 1, CLEANUP => 0);

my $owner = $$;
my %pids;

chmod 0755, $dir;
$ENV{TEST_NGINX_NONE_SOCK} = "$dir/none.sock";

sub program {
    return $ENV{TEST_NGINX_PUPPET} || 'build/t/moe-puppet';
}

sub start {
    my ($name, @args) = @_;

    my $sock = "$dir/$name.sock";
    my @cmd = (program(), '--socket', $sock, @args);

    my $pid = fork();
    die "fork: $!" unless defined $pid;

    if ($pid == 0) {
        POSIX::setsid();
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', "$dir/$name.log";
        open STDERR, '>>', "$dir/$name.log";
        exec('sh', '-c', 'while :; do "$@"; done', 'sh', @cmd)
            or POSIX::_exit(127);
    }

    $pids{$name} = $pid;

    for (1 .. 100) {
        last if -S $sock;
        sleep 0.02;
    }

    die "puppet $name does not listen" unless -S $sock;

    chmod 0666, $sock;
    $ENV{"TEST_NGINX_\U$name\E_SOCK"} = $sock;

    return $sock;
}

sub stop {
    my ($name) = @_;

    my $pid = delete $pids{$name} or return;

    kill 'KILL', -$pid;
    waitpid $pid, 0;
    unlink "$dir/$name.sock";
}

END {
    if ($$ == $owner) {
        my $status = $?;
        stop($_) for keys %pids;
        system('rm', '-rf', $dir);
        $? = $status;
    }
}

1;
