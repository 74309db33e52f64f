#!/bin/busybox sh
# Traffic through the cards, and what the guest sees of them, while the host plugs and unplugs. `adjunct.queues=A,B` on
# the command line names queues that get a device node and traffic of their own; another stream goes to whatever card the
# kernel chooses, one reads random bytes. A line on the console ends it.
. /ap.sh

ap_start || exit

# node QUEUE: a device node that only reaches this queue.
node() {
    name=q${1%.*}${1#*.}
    echo $name > /sys/class/zcrypt/create
    within 5 test -c /dev/$name || return 1
    echo +0x${1%.*} > /sys/class/zcrypt/$name/apmask
    echo +0x${1#*.} > /sys/class/zcrypt/$name/aqmask
    echo +0-255 > /sys/class/zcrypt/$name/ioctlmask
}

random_stream() {
    good=0
    bad=0
    while [ ! -e /tmp/stop ]; do
        if [ "$(dd if=/dev/hwrng bs=64 count=1 2> /dev/null | wc -c)" = 64 ]; then
            good=$((good + 1))
        else
            bad=$((bad + 1))
            sleep 0.1
        fi
        [ $(((good + bad) % 20)) != 0 ] || echo "ADJUNCT-RANDOM ok $good failed $bad"
    done
    echo "ADJUNCT-RANDOM ok $good failed $bad"
}

# What sysfs shows of every queue, on one line: NUMBER=TYPE/ONLINE/CONFIG/CHKSTOP. No other process is started for it.
look() {
    seen=
    for q in $ap/devices/[0-9a-f][0-9a-f].[0-9a-f]*; do
        read -r online < $q/online || continue
        read -r config < $q/config || continue
        read -r chkstop < $q/chkstop || continue
        q=${q##*/}
        read -r type < $ap/devices/card${q%.*}/type || continue
        seen="$seen $q=$type/$online/$config/$chkstop"
    done 2> /dev/null
}

for queue in $(echo "$ADJUNCT_QUEUES" | tr , ' '); do
    node $queue || step node FAIL "$queue: no device node"
    /traffic /dev/$name $queue /rsa/traffic &
done
/traffic /dev/z90crypt any /rsa/traffic &
random_stream &

(
    read -r _ < /dev/console
    touch /tmp/stop
) &
step traffic ok "started"
shown=none
controlled=none
while [ ! -e /tmp/stop ]; do
    look
    [ "$seen" = "$shown" ] || echo "ADJUNCT-AP$seen"
    shown=$seen
    read -r control < $ap/ap_control_domain_mask
    [ "$control" = "$controlled" ] || echo "ADJUNCT-CONTROL $control"
    controlled=$control
    sleep 0.02
done
wait
echo "ADJUNCT-END $failures"
