# Shell functions about the AP bus, read by demo.sh and bench.sh.

ap=/sys/bus/ap
failures=0

# step NAME VERDICT DETAILS...: one line for the host. VERDICT is ok, FAIL or none (nothing there to test).
step() {
    [ "$2" = FAIL ] && failures=$((failures + 1))
    echo "ADJUNCT-STEP $*"
}

# show COMMAND...: a command and what it prints, between two lines the host recognizes.
show() {
    echo "ADJUNCT-SHOW $*"
    "$@" 2>&1
    echo "ADJUNCT-SHOWN"
}

# Queue names such as 05.0004, in the order of their numbers.
queues() {
    for q in $ap/devices/[0-9a-f][0-9a-f].[0-9a-f]*; do
        [ -e "$q" ] && echo "${q##*/}"
    done
}

# card_of QUEUE: the sysfs directory of its card.
card_of() { echo "$ap/devices/card${1%.*}"; }

# type_of QUEUE: CEX8A, CEX8C, CEX8P ...
type_of() { cat "$(card_of "$1")/type"; }

# requests QUEUE: how many requests the kernel has sent to it.
requests() { cat "$ap/devices/$1/request_count"; }

# within SECONDS COMMAND...: repeats the command until it succeeds.
within() {
    tries=$(($1 * 10))
    shift
    while ! "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1
    done
}

bindings_complete() { grep -q complete $ap/bindings; }

all_online() {
    for q in $(queues); do
        [ "$(cat $ap/devices/$q/online 2>/dev/null)" = 1 ] || return 1
    done
}

# Loads the driver and waits, not forever, until every queue is bound and online.
ap_start() {
    if [ ! -e $ap ]; then
        step driver none "the kernel found no AP instructions"
        return 1
    fi
    if ! modprobe zcrypt_cex4; then
        step driver FAIL "modprobe zcrypt_cex4"
        return 1
    fi
    if ! within 20 test -c /dev/z90crypt; then
        step driver FAIL "no /dev/z90crypt"
        return 1
    fi
    step driver ok "zcrypt_cex4 loaded, /dev/z90crypt is there"
    if [ -z "$(queues)" ]; then
        step queues none "the AP bus has no queue"
        return 1
    fi
    if ! within 20 bindings_complete; then
        step queues FAIL "bindings $(cat $ap/bindings)"
        return 1
    fi
    within 20 all_online
    for q in $(queues); do
        echo "ADJUNCT-QUEUE $q $(type_of $q) online=$(cat $ap/devices/$q/online 2>/dev/null)"
    done
    if all_online; then
        step queues ok "$(queues | wc -l) queues online"
    else
        step queues FAIL "a queue is not online"
    fi
}
