#!/bin/sh
#
# two-hosts.sh check: exit 0 where this machine can have two hosts within it.
#
# two-hosts.sh run NAME ARGS...: mpirun ARGS, on the first of two hosts that
# are there as long as it runs: network namespaces NAME-a and NAME-b with
# addresses and names of their own, 10.77.77.1 and 10.77.77.2, and a wire
# between them, as slow as $TWO_HOSTS_WIRE says to tc ("tbf rate 1gbit ...").
#
# two-hosts.sh cut NAME: the wire is cut.
#
# two-hosts.sh HOST COMMAND: what mpirun calls to start something there.

set -u

up() {
    ip netns add "$1-a" && ip netns add "$1-b" \
    && ip link add eth0 netns "$1-a" type veth peer name eth0 netns "$1-b" \
    && ip -n "$1-a" addr add 10.77.77.1/24 dev eth0 \
    && ip -n "$1-b" addr add 10.77.77.2/24 dev eth0 \
    && ip -n "$1-a" link set lo up && ip -n "$1-b" link set lo up \
    && ip -n "$1-a" link set eth0 up && ip -n "$1-b" link set eth0 up \
    && slow "$1-a" && slow "$1-b"
}

# the way out of a host
slow() {
    # shellcheck disable=SC2086
    [ -z "${TWO_HOSTS_WIRE:-}" ] \
    || tc -n "$1" qdisc add dev eth0 root $TWO_HOSTS_WIRE
}

down() {
    ip netns del "$1-a"
    ip netns del "$1-b"
}

# on NAME-HOST: COMMAND, as this process
on() {
    ns=$1
    shift
    exec ip netns exec "$ns" unshare --uts \
        sh -c 'hostname "$0"; exec "$@"' "$ns" "$@"
}

case "$1" in

check)
    n=moe-check-$$
    up $n >/dev/null 2>&1 && ip netns exec $n-a unshare --uts true
    rc=$?
    down $n >/dev/null 2>&1
    exit $rc
    ;;

run)
    export TWO_HOSTS=$2
    shift 2
    up "$TWO_HOSTS" || exit 1

    export OMPI_MCA_plm_rsh_agent="$0"
    export OMPI_MCA_btl=tcp,self
    export OMPI_MCA_btl_tcp_if_include=10.77.77.0/24
    export OMPI_MCA_oob_tcp_if_include=10.77.77.0/24

    on "$TWO_HOSTS-a" mpirun "$@" </dev/null &
    pid=$!
    trap 'kill -TERM $pid' TERM INT
    wait $pid
    rc=$?

    # a trapped signal ends the first wait
    while kill -0 $pid 2>/dev/null; do
        wait $pid
        rc=$?
    done

    down "$TWO_HOSTS"
    exit $rc
    ;;

cut)
    exec ip -n "$2-a" link set eth0 down
    ;;

10.77.77.1)
    shift
    on "$TWO_HOSTS-a" sh -c "$*"
    ;;

10.77.77.2)
    shift
    on "$TWO_HOSTS-b" sh -c "$*"
    ;;

*)
    echo "two-hosts.sh: no host $1" >&2
    exit 2
    ;;

esac
