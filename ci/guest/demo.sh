#!/bin/busybox sh
# The steps of the demo. The host prints the ADJUNCT- lines as verdicts and checks the RSA results itself.
. /ap.sh

rng=/sys/class/misc/hw_random/rng_current

# While requests are counted nobody else may send any: the kernel's entropy thread reads random bytes from
# CCA queues, and libica seeds itself from /dev/hwrng in every process.
rng_off() { [ ! -e $rng ] || echo none > $rng; }

# only QUEUE: every other queue offline.
only() {
    for other in $(queues); do
        if [ "$other" = "$1" ]; then
            chzcrypt -e "$other" > /dev/null
        else
            chzcrypt -d "$other" > /dev/null
        fi
    done
}

# rsa_batch OPERATION KEY COUNT: COUNT operations on the messages, results to /tmp/rsa.N; prints how many failed.
rsa_batch() {
    i=0
    failed=0
    while [ $i -lt "$3" ]; do
        i=$((i + 1))
        if [ "$1" = private ]; then
            openssl pkeyutl -decrypt -inkey "/rsa/$2.pem" -pkeyopt rsa_padding_mode:none \
                -in "/rsa/$2.message-$i" -out "/tmp/rsa.$i" 2> /tmp/rsa.error
        else
            openssl pkeyutl -encrypt -pubin -inkey "/rsa/$2-public.pem" -pkeyopt rsa_padding_mode:none \
                -in "/rsa/$2.message-$i" -out "/tmp/rsa.$i" 2> /tmp/rsa.error
        fi
        if [ $? != 0 ]; then
            failed=$((failed + 1))
            rm -f "/tmp/rsa.$i"
            sed 's/^/  /' /tmp/rsa.error
        fi
    done
    i=0
    while [ $i -lt "$3" ]; do
        i=$((i + 1))
        [ ! -e "/tmp/rsa.$i" ] || echo "ADJUNCT-RSA $queue $1 $2 $i $(xxd -p /tmp/rsa.$i | tr -d '\n')"
        rm -f "/tmp/rsa.$i"
    done
}

# rsa_counted OPERATION KEY COUNT PER: the operations, and the rise of the queue's and card's request counts.
# PER is the number of requests that one operation sends.
rsa_counted() {
    before=$(requests $queue)
    card_before=$(cat "$(card_of $queue)/request_count")
    rsa_batch "$1" "$2" "$3"
    rise=$(($(requests $queue) - before))
    card_rise=$(($(cat "$(card_of $queue)/request_count") - card_before))
    expected=$(($3 * $4))
    text="$(type_of $queue) $queue: $3 operations, request_count rose by $rise (queue), $card_rise (card), expected $expected"
    if [ $failed = 0 ] && [ $rise = $expected ] && [ $card_rise = $expected ]; then
        step "rsa-$1-$2" ok "$text"
    else
        step "rsa-$1-$2" FAIL "$text, $failed failed"
    fi
}

rsa_steps() {
    rng_off
    for queue in $(queues); do
        case $(type_of $queue) in
            *A | *C) ;;
            *) continue ;;
        esac
        only $queue
        show lszcrypt -V
        rsa_counted private 2048 $ADJUNCT_RSA 1
        rsa_counted public 2048 $ADJUNCT_RSA 1
    done
    for queue in $(queues); do
        chzcrypt -e $queue > /dev/null
    done
}

hwrng_step() {
    queue=$(for q in $(queues); do case $(type_of $q) in *C) echo $q ;; esac; done | head -n 1)
    [ -n "$queue" ] || return
    echo zcrypt > $rng
    before=0
    for q in $(queues); do before=$((before + $(requests $q))); done
    one=$(dd if=/dev/hwrng bs=64 count=1 2>/dev/null | xxd -p | tr -d '\n')
    two=$(dd if=/dev/hwrng bs=64 count=1 2>/dev/null | xxd -p | tr -d '\n')
    after=0
    for q in $(queues); do after=$((after + $(requests $q))); done
    if [ "$(cat $rng)" = zcrypt ] && [ ${#one} = 128 ] && [ ${#two} = 128 ] && [ "$one" != "$two" ] &&
        [ -n "$(echo "$one$two" | tr -d 0)" ] && [ $after -gt 0 ]; then
        step hwrng ok "rng_current zcrypt: $(echo "$one" | cut -c 1-32)... then $(echo "$two" | cut -c 1-32)..."
    else
        step hwrng FAIL "rng_current $(cat $rng): '$one' '$two', $((after - before)) requests"
    fi
}

attribute() {
    echo "ADJUNCT-ATTRIBUTE $1 $(basename $2) $(tr '\n' ';' < $2 2>/dev/null)"
}

attribute_steps() {
    for card in $ap/devices/card*; do
        missing=
        count=0
        for name in serialnr API_ordinalnr FW_version op_modes; do
            case $(cat $card/type):$name in
                *P:* | *C:serialnr) ;;
                *) continue ;;
            esac
            if [ -n "$(cat $card/$name 2>/dev/null)" ]; then
                attribute "${card##*/}" $card/$name
                count=$((count + 1))
            else
                missing="$missing $name"
            fi
        done
        case $(cat $card/type) in
            *[CP])
                for queue in $ap/devices/${card##*/card}.*; do
                    for name in mkvps op_modes; do
                        case $(cat $card/type):$name in *C:op_modes) continue ;; esac
                        if [ -n "$(cat $queue/$name 2>/dev/null)" ]; then
                            attribute "${queue##*/}" $queue/$name
                            count=$((count + 1))
                        else
                            missing="$missing ${queue##*/}/$name"
                        fi
                    done
                done
                ;;
            *) continue ;;
        esac
        if [ -z "$missing" ]; then
            step attributes ok "$(cat $card/type) ${card##*/}: $count sysfs attributes answered by the card"
        else
            step attributes FAIL "$(cat $card/type) ${card##*/}: no$missing"
        fi
    done
}

if ap_start; then
    show lszcrypt -V
    attribute_steps
    rsa_steps
    hwrng_step
    all_online && step back-online ok "every queue online again" || step back-online FAIL "a queue stayed offline"
    show lszcrypt -V
fi
echo "ADJUNCT-END $failures"
