#!/bin/busybox sh
# Traffic through the cards, and what the guest sees of them, while the host plugs and unplugs. `adjunct.queues=A,B` on
# the command line names queues that get a device node and traffic of their own; another stream goes to whatever card the
# kernel chooses, one reads random bytes. Lines on the console tell what to do: `look` prints lszcrypt's rows and the number
# of replies for which the kernel had no request, `stop` ends it.
. /ap.sh

# A warning for each reply without a request: the AP bus keeps these in a ring that has to be large enough for all.
mount -t debugfs debugfs /sys/kernel/debug
log=/sys/kernel/debug/s390dbf/ap
echo 4 > $log/level
echo 256 > $log/pages
[ "$(cat $log/level $log/pages | tr -d ' \n')" = 4256 ] || step log FAIL "$(cat $log/level $log/pages)"

ap_start || exit

# By itself the kernel looks for changes as rarely as it can: what it sees at once it has been told.
echo 120 > $ap/config_time

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
    while read -r word; do
        case $word in
            look)
                strays=$(grep -c 'unassociated reply' $log/sprintf)
                lszcrypt 2>&1 | sed 's/^/ADJUNCT-LSZCRYPT /'
                echo "ADJUNCT-LOOKED strays $strays"
                ;;
            stop) break ;;
        esac
    done < /dev/console
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
